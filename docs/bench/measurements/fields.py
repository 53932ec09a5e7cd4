"""Events with an id, two numbers and a time per step: an epoch beside one by hand, and the cost of checks.

Both epochs train the same model on the same batches. By hand, every field is padded with `pad_sequence`, and the joined
vectors are packed with `pack_padded_sequence`.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Final, TypeAlias, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from bench.measurements.checks import disable_checks
from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    ALL_THREADS,
    Quartiles,
    Rounds,
    Step,
    check_equal,
    time_first_runs,
    time_interleaved,
    use_threads,
)
from pipeline import (
    Bucket,
    Chain,
    Classify,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    Identity,
    Ids,
    Pack,
    Pad,
    Padded,
    Pool,
    Row,
    Scores,
    Vectors,
    through,
)
from pipeline_recurrent import LSTM

CODES, CLASSES = 1_000, 6


@attrs.frozen(eq=False)
class Event(Fields):
    """The fields of a step."""

    code: Ids
    amount: Vectors
    balance: Vectors
    time: Vectors


Batch: TypeAlias = list[Row[Event]]
Model: TypeAlias = Chain[Padded[Event], Scores[int]]


@attrs.frozen
class Sizes:
    """The sizes of the data, the batches and the model."""

    rows: int = 2_000
    longest: int = 60
    padded: int = 1_600
    embedding: int = 32
    hidden: int = 128

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows of up to {self.longest} events, {self.padded:,} padded steps per batch, "
            f"BiLSTM, hidden {self.hidden}"
        )


class HandWritten(nn.Module):
    """The model written in torch."""

    def __init__(self, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(CODES, embedding)
        self.lstm = nn.LSTM(embedding + 3, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, CLASSES)

    def compute_loss(self, rows: Batch) -> Tensor:
        """Pad each field, join them, and compute the cross-entropy of a batch."""
        events = [row.sequence for row in rows]
        lengths = torch.tensor([len(event.code.values) for event in events])
        targets = torch.tensor([cast("int", row.target) for row in rows])
        codes = pad_sequence([event.code.values for event in events], batch_first=True)
        numbers = [
            pad_sequence([event.amount.values for event in events], batch_first=True),
            pad_sequence([event.balance.values for event in events], batch_first=True),
            pad_sequence([event.time.values for event in events], batch_first=True),
        ]
        vectors = torch.cat([self.embed(codes), *numbers], dim=2)
        packed = pack_padded_sequence(vectors, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(cast("tuple[PackedSequence, object]", self.lstm(packed))[0], batch_first=True)
        padding = torch.arange(states.shape[1]) >= lengths.unsqueeze(1)
        scores = cast("Tensor", self.linear(states.masked_fill(padding.unsqueeze(2), -torch.inf).amax(1)))
        return cross_entropy(scores, targets)


def draw_batches(sizes: Sizes) -> list[Batch]:
    """Draw rows, and divide them into batches of similar length."""
    generator = torch.Generator().manual_seed(0)
    rows: list[Row[Event]] = []
    for row in range(sizes.rows):
        time = int(torch.randint(1, sizes.longest + 1, (), generator=generator))
        codes = torch.randint(0, CODES, (time,), generator=generator)
        numbers = (Vectors(torch.randn(time, 1, generator=generator)) for _ in range(3))
        rows.append(Row(Event(Ids(codes), *numbers), row % CLASSES, row))
    return list(Bucket(Event, max_padded_steps=sizes.padded, seed=0)(rows))


def make_chain(weights: HandWritten) -> Model:
    """Return the same model in stages, with the weights of the hand-written one."""
    embed, lstm = weights.embed, weights.lstm
    number = through(Identity(1))
    fields = EmbedFields(Event, through(Embed(CODES, embed.embedding_dim)), number, number, number)
    encode = Encode(LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True))
    model = Pack(Event) >> fields >> encode >> Pool("max") >> Classify(CLASSES)
    names = {"embed": "embed_fields.code", "lstm": "encode.encoder.rnn", "linear": "classify.linear"}
    keys = ((key.partition("."), weight) for key, weight in weights.state_dict().items())
    model.load_state_dict({f"{names[part]}.{rest}": weight for (part, _, rest), weight in keys})
    return model


def make_epoch(batches: Sequence[Batch], model: Model | HandWritten) -> Step:
    """Return an epoch of collation, forward and backward passes and optimizer steps."""
    optimizer = _make_optimizer(model)
    pad = Pad(Event)

    def run() -> tuple[Tensor, ...]:
        loss = torch.zeros(())
        for rows in batches:
            optimizer.zero_grad()
            loss = model.compute_loss(rows) if isinstance(model, HandWritten) else model(pad(rows)).loss()
            torch.autograd.backward(loss)
            optimizer.step()
        return (loss.detach(),)

    return run


def _make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def measure(extent: Extent) -> Iterator[Result]:
    """Measure on one thread and on all; the sizes are the same in every extent."""
    del extent
    for threads in ("one", "all") if ALL_THREADS > 1 else ("one",):
        with use_threads(threads) as number:
            yield measure_fields(Sizes(), number)


def measure_fields(sizes: Sizes, threads: int, rounds: int = 7, check_rounds: int = 400) -> Result:
    """Compare one epoch of both, then time epochs in interleaved rounds; and steps with and without checks.

    The steps for the checks are small, as in the measurement of checks: their cost does not depend on the sizes.
    """
    torch.default_generator.manual_seed(0)
    weights, batches = HandWritten(sizes.embedding, sizes.hidden), draw_batches(sizes)

    def make_both(some: Sequence[Batch]) -> dict[str, Step]:
        # Each trains a copy of its own.
        return {"by hand": make_epoch(some, deepcopy(weights)), "ours": make_epoch(some, make_chain(weights))}

    check_equal({name: epoch() for name, epoch in make_both(batches[:2]).items()})
    epochs = make_both(batches)
    times = time_interleaved(epochs, Rounds(most=rounds), time_first_runs(epochs))
    small = make_epoch(draw_batches(attrs.evolve(sizes, rows=64, longest=2))[:1], make_chain(HandWritten(1, 1)))
    pair = {"checked": small, "unchecked": disable_checks(small)}
    with use_threads("one"):
        times |= time_interleaved(pair, Rounds(check_rounds, check_rounds), time_first_runs(pair))
    parameters = {**attrs.asdict(sizes), "batches": len(batches)}
    return Result("fields", str(sizes), threads, parameters, times)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("events", "threads", "epoch by hand", "ours", "checks per batch", "share of checks")
    note = "Time of an epoch by hand, and for ours the speedup; above 1, ours is faster. The batches are the same."
    return ReportTable("Rows with four fields", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    pair = zip(result.times["checked"].seconds, result.times["unchecked"].seconds, strict=True)
    cost = Quartiles.of([one - other for one, other in pair])
    step = result.times["ours"].quartiles.median / cast("int", result.parameters["batches"])
    share = f"{cost.median / step:.2%} ({cost.low / step:.2%} to {cost.high / step:.2%})"
    ratio = result.time_ratio("by hand", "ours")
    return [
        result.point,
        str(result.threads),
        str(result.times["by hand"]),
        str(ratio),
        f"{cost.median * 1e6:.0f} us",
        share,
    ]


FIELDS: Final = Measurement("fields", measure, tabulate)
