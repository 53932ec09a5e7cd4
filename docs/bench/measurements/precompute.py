"""Inference over ids with `precompute_inputs`, beside an embedding and torch's packed kernel."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, TypeAlias, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bench.encoders.candidates import disable_native
from bench.encoders.points import draw_lengths
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import Rounds, Threads, check_equal, describe_threads, time_first_runs, time_interleaved, use_threads
from pipeline import Embed, Encode, Ids, Pack, Padded, Vectors
from pipeline_recurrent import LSTM, precompute_inputs
from pipeline_recurrent.native import available

Infer: TypeAlias = Callable[[], Tensor]
"""Returns packed states, or padded ones."""


@attrs.frozen
class Case:
    """A bidirectional LSTM over sentences of ids.

    Example:
        >>> str(Case(64, 300, 256))
        'BiLSTM inference, 64 rows of ~20 ids of 5,000, input 300, hidden 256, all threads'
    """

    rows: int
    embedding: int
    hidden: int
    threads: Threads = "all"
    words: int = 5_000

    def __str__(self) -> str:
        rows, sizes = f"{self.rows} rows of ~20 ids of {self.words:,}", f"input {self.embedding}, hidden {self.hidden}"
        return f"BiLSTM inference, {rows}, {sizes}, {describe_threads(self.threads)}"


CASES: Final = (Case(64, 300, 256), Case(64, 300, 256, "one"), Case(32, 100, 128), Case(32, 100, 128, "one"))


def measure(extent: Extent) -> Iterator[Result]:
    """Measure case by case; the cases are the same in every extent."""
    del extent
    for case in CASES:
        with use_threads(case.threads) as threads:
            yield measure_case(case, threads, Rounds())


def measure_case(case: Case, threads: int, rounds: Rounds) -> Result:
    """Compare the states of all candidates, then time them in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    embedding = nn.Embedding(case.words, case.embedding)
    lstm = nn.LSTM(case.embedding, case.hidden, bidirectional=True, batch_first=True)
    lengths = draw_lengths("~20", case.rows)
    ids = torch.randint(0, case.words, (case.rows, int(lengths.max())))
    steps = {"packed": _make_packed(embedding, lstm, ids, lengths), **_make_ours(embedding, lstm, ids, lengths)}
    check_equal({name: [_pack_states(step(), lengths)] for name, step in steps.items()})
    times = time_interleaved(steps, rounds, time_first_runs(steps))
    return Result("precompute", str(case), threads, attrs.asdict(case), times)


def _make_packed(embedding: nn.Embedding, lstm: nn.LSTM, ids: Tensor, lengths: Tensor) -> Infer:
    """Embed, pack, run and unpack."""

    def step() -> Tensor:
        rows = pack_padded_sequence(embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(cast("tuple[PackedSequence, object]", lstm(rows))[0], batch_first=True)[0]

    return torch.inference_mode()(step)


def _make_ours(embedding: nn.Embedding, lstm: nn.LSTM, ids: Tensor, lengths: Tensor) -> Mapping[str, Infer]:
    """Return a chain as it is, and with precomputed inputs, without and with the native engine."""
    embed = Embed(embedding.num_embeddings, embedding.embedding_dim)
    embed.load_state_dict(embedding.state_dict())
    encode = LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True).load_torch(lstm)
    chain = (Pack() >> embed >> Encode(encode)).eval()
    precomputed = precompute_inputs(chain)

    def run() -> Tensor:
        return chain(Padded(Ids, ids, lengths)).packed().values

    def run_precomputed() -> Tensor:
        return precomputed(Padded(Ids, ids, lengths)).packed().values

    def run_precomputed_without_native() -> Tensor:
        with disable_native():
            return run_precomputed()

    steps = {"auto": run, WITHOUT_NATIVE: run_precomputed_without_native}
    if available() is None:
        steps[WITH_NATIVE] = run_precomputed
    return {name: torch.inference_mode()(step) for name, step in steps.items()}


def _pack_states(states: Tensor, lengths: Tensor) -> Tensor:
    """Pack padded states; return packed states as they are."""
    return states if states.ndim == 2 else Padded(Vectors, states.clone(), lengths).packed().values


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per case."""
    headings = ("inference over ids", "packed", "auto", "precomputed without native engine", "precomputed")
    note = "Times of embedding and packed kernel, and for the others the speedup over them; above 1, they are faster."
    return ReportTable("Precomputed inputs", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratios = [result.time_ratio("packed", name) for name in ("auto", WITHOUT_NATIVE, WITH_NATIVE)]
    return [result.point, str(result.times["packed"]), *("" if ratio is None else str(ratio) for ratio in ratios)]


PRECOMPUTE: Final = Measurement("precompute", measure, tabulate)
