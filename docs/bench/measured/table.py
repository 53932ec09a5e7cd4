"""Inference over ids of a small vocabulary: input products looked up in a table, beside embedding and packed torch."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bench.encoders.lengths import draw_lengths
from bench.encoders.ours import switched_off
from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding
from bench.record.sheet import Sheet
from bench.timing.alike import check_alike
from bench.timing.threads import Threads, on_threads
from bench.timing.turns import Turns, by_turns, first_times
from pipeline import Embed, Encode, Ids, Pack, Padded, Vectors
from pipeline_recurrent import LSTM, precompute_inputs
from pipeline_recurrent.native import available

Step = Callable[[], Tensor]


@attrs.frozen
class Case:
    """A bidirectional LSTM over sentences of ids.

    Example:
        >>> str(Case(64, 300, 256))
        'BiLSTM inference, 64 rows of ~20 ids of 5,000, 300 to h256, all threads'
    """

    rows: int
    embedded: int
    hidden: int
    threads: Threads = "all"
    words: int = 5_000

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads == 'all' else ''}"
        rows = f"{self.rows} rows of ~20 ids of {self.words:,}"
        return f"BiLSTM inference, {rows}, {self.embedded} to h{self.hidden}, {threads}"


CASES: Final = (Case(64, 300, 256), Case(64, 300, 256, "one"), Case(32, 100, 128), Case(32, 100, 128, "one"))


def find(extent: Extent) -> Iterator[Finding]:
    """Every case; there are no more of them in any extent."""
    del extent
    for case in CASES:
        with on_threads(case.threads) as threads:
            yield measured(case, threads, Turns())


def measured(case: Case, threads: int, turns: Turns) -> Finding:
    """One case: states are compared, then all take turns."""
    torch.default_generator.manual_seed(0)
    embedding = nn.Embedding(case.words, case.embedded)
    lstm = nn.LSTM(case.embedded, case.hidden, bidirectional=True, batch_first=True)
    lengths = draw_lengths("~20", case.rows)
    ids = torch.randint(0, case.words, (case.rows, int(lengths.max())))
    steps = {"packed": _by_hand(embedding, lstm, ids, lengths), **_ours(embedding, lstm, ids, lengths)}
    check_alike({name: [_packed(step(), lengths)] for name, step in steps.items()})
    times = by_turns(steps, turns, first_times(steps))
    return Finding("table", str(case), threads, attrs.asdict(case), times)


def _by_hand(embedding: nn.Embedding, lstm: nn.LSTM, ids: Tensor, lengths: Tensor) -> Step:
    """Embed, pack, run and unpack."""

    def step() -> Tensor:
        rows = pack_padded_sequence(embedding(ids), lengths, batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(cast("tuple[PackedSequence, object]", lstm(rows))[0], batch_first=True)[0]

    return torch.inference_mode()(step)


def _ours(embedding: nn.Embedding, lstm: nn.LSTM, ids: Tensor, lengths: Tensor) -> Mapping[str, Step]:
    """A pipe as it is, and with its inputs precomputed: without the native engine, and with it."""
    embed = Embed(embedding.num_embeddings, embedding.embedding_dim)
    embed.load_state_dict(embedding.state_dict())
    encode = LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True).load_torch(lstm)
    pipe = (Pack() >> embed >> Encode(encode)).eval()
    table = precompute_inputs(pipe)

    def plain() -> Tensor:
        return pipe(Padded(Ids, ids, lengths)).packed().values

    def compiled() -> Tensor:
        return table(Padded(Ids, ids, lengths)).packed().values

    def uncompiled() -> Tensor:
        with switched_off():
            return compiled()

    steps = {"auto": plain, "uncompiled": uncompiled, **({"compiled": compiled} if available() is None else {})}
    return {name: torch.inference_mode()(step) for name, step in steps.items()}


def _packed(states: Tensor, lengths: Tensor) -> Tensor:
    """States in a rectangle as those of others are: packed."""
    return states if states.ndim == 2 else Padded(Vectors, states.clone(), lengths).packed().values


def sheet(findings: Sequence[Finding]) -> Sheet:
    """A row a case."""
    headings = ("inference over ids", "packed", "auto, no table", "table without a compiler", "table")
    notes = ("How many times as long torch's embedding and packed kernel take; above 1, ours is the faster one.",)
    return Sheet("A small vocabulary as a table", headings, [_cells(finding) for finding in findings], notes)


def _cells(finding: Finding) -> list[str]:
    ratios = [finding.ratio("packed", name) for name in ("auto", "uncompiled", "compiled")]
    return [finding.point, str(finding.times["packed"]), *("" if ratio is None else str(ratio) for ratio in ratios)]


TABLE: Final = Measurement("table", find, sheet)
