"""Epochs as users run them: `fit`, beside a plain loop with torch's packed kernel over the same batches.

Classification like TREC, tagging like the English Web Treebank, and a language model that is trained on windows of long
texts, with truncated back-propagation. Both sides get their batches from the same stages, have dropout, clip gradients
and use torch's fused AdamW. Ours is trained in float32, and in bfloat16 by `precision="bfloat16"`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from io import StringIO
from typing import Any, Final, TypeAlias, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.batching.data import EWT
from bench.encoders.by_hand import load_weights, pool_max, run_packed
from bench.measurements.epoch import NORM, PLAIN, make_adamw
from bench.record import Parameter, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    Rounds,
    check_equal,
    describe_threads,
    list_threads,
    time_interleaved,
    use_threads,
)
from pipeline import (
    BPTTWindows,
    Bucket,
    Classify,
    Dropout,
    Embed,
    Encode,
    Example,
    FromIds,
    NextToken,
    Pack,
    Pad,
    Pool,
    Shift,
    Tag,
)
from pipeline.extend import Precision
from pipeline_recurrent import LSTM

_OURS: Final[Sequence[Precision]] = ("float32", "bfloat16")

_DROPOUT: Final = 0.3

Carry: TypeAlias = tuple[Tensor, Tensor] | None
"""The states at the end of a window, or None at the beginning of a text."""


@attrs.frozen
class Task:
    """A task with its data and model.

    Attributes:
        name: "classification", "tagging" or "windows".
        rows: the number of rows.
        batch: the budget of padded steps; for windows the number of steps of each.
        features: the size of an embedding.
        hidden: the size of a state, per direction.
        classes: the number of classes.
        words: the number of ids.

    Example:
        >>> str(TASKS[0])
        'classification, 5,452 rows of ~10 ids, 400 padded steps per batch, BiLSTM, input 100, hidden 100'
    """

    name: str
    rows: int
    batch: int
    features: int
    hidden: int
    classes: int
    words: int

    def __str__(self) -> str:
        rows = {"classification": "~10 ids", "tagging": "~17 ids", "windows": f"{_TEXT_WINDOWS} windows"}[self.name]
        limit = f"{self.batch} steps per window" if self.is_windows else f"{self.batch} padded steps per batch"
        sizes = f"{'LSTM' if self.is_windows else 'BiLSTM'}, input {self.features}, hidden {self.hidden}"
        return f"{self.name}, {self.rows:,} rows of {rows}, {limit}, {sizes}"

    @property
    def is_windows(self) -> bool:
        """Whether rows are cut into windows."""
        return self.name == "windows"

    @property
    def parameters(self) -> dict[str, Parameter]:
        """The attributes by name."""
        return attrs.asdict(self)


_TEXT_WINDOWS: Final = 10
"""Windows per text, of equal length."""

_LANES: Final = 32
"""Texts that are read at the same time."""

TASKS: Final = (
    Task("classification", 5_452, 400, 100, 100, classes=6, words=8_000),
    Task("tagging", 4_096, 800, 100, 128, classes=17, words=10_000),
    Task("windows", 2 * _LANES, 50, 64, 256, classes=100, words=100),
)


def draw_examples(task: Task) -> list[Example[list[int]]]:
    """Draw rows of ids with targets, the same at every call."""
    generator = torch.Generator().manual_seed(0)

    def draw(count: int, largest: int) -> list[int]:
        return cast("list[int]", cast("Any", torch.randint(largest, (count,), generator=generator)).tolist())

    if task.is_windows:
        # One more: the last id of a text is only a target.
        return [Example(draw(task.batch * _TEXT_WINDOWS + 1, task.words)) for _ in range(task.rows)]
    if task.name == "tagging":
        lengths: Sequence[int] = [int(length) for length in EWT.draw()[: task.rows]]
        return [Example(draw(length, task.words), target=draw(length, task.classes)) for length in lengths]
    drawn = (torch.randn(task.rows, generator=generator) * 0.4 + 2.2).exp().round().long().clamp(2, 40)
    return [Example(draw(int(length), task.words), target=draw(1, task.classes)[0]) for length in drawn]


class PlainModel(nn.Module):
    """The model of a task as one writes it in torch."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task
        self.embed = nn.Embedding(task.words, task.features)
        self.lstm = nn.LSTM(task.features, task.hidden, bidirectional=not task.is_windows, batch_first=True)
        self.linear = nn.Linear(task.hidden * (1 if task.is_windows else 2), task.classes)
        self.dropout = nn.Dropout(_DROPOUT)

    def compute_loss(self, batch: Any, carry: Carry = None) -> tuple[Tensor, Carry]:  # noqa: ANN401 - of several kinds
        """Return the loss of a batch, and the carry."""
        values: Tensor = self.dropout(self.embed(batch.values))
        if self.task.is_windows:
            # All windows are full, so nothing is packed.
            states, carry = cast("tuple[Tensor, Carry]", self.lstm(values, carry))
            return self._score(self.dropout(states), batch.targets), carry
        states = run_packed(self.lstm, values, batch.lengths)
        if self.task.name == "classification":
            states = pool_max(states, batch.lengths)
        return self._score(self.dropout(states), batch.targets), None

    def _score(self, states: Tensor, targets: Tensor) -> Tensor:
        scores: Tensor = self.linear(states)
        return cross_entropy(scores.flatten(0, -2), targets.flatten())


def make_data(task: Task) -> Any:  # noqa: ANN401 - a chain of one kind of batch or another
    """Return the stages from rows to batches."""
    if task.is_windows:
        return FromIds() >> Shift() >> BPTTWindows(rows=_LANES, steps=task.batch) >> Pad()
    return FromIds() >> Bucket(max_padded_steps=task.batch, too_long="alone") >> Pad()


def make_model(task: Task, weights: PlainModel) -> Any:  # noqa: ANN401 - a chain with one head or another
    """Return the model of a task in stages, with the weights of the plain one."""
    encode = Encode(LSTM(task.features, task.hidden, bidirectional=True))
    start = Pack() >> Embed(task.words, task.features) >> Dropout(_DROPOUT)
    model: Any
    if task.is_windows:
        head, encode_forward = "next_token", Encode(LSTM(task.features, task.hidden))
        model = start >> encode_forward >> Dropout(_DROPOUT) >> NextToken(task.classes)
    elif task.name == "tagging":
        head, model = "tag", start >> encode >> Dropout(_DROPOUT) >> Tag(task.classes)
    else:
        head = "classify"
        model = start >> encode >> Pool("max") >> Dropout(_DROPOUT) >> Classify(task.classes)
    names = {"embed": "embed", "lstm": "encode.encoder.rnn", "linear": f"{head}.linear"}
    load_weights(model, weights, names)
    return model


def measure(extent: Extent) -> Iterator[Result]:
    """Measure each task on one thread and on all; in a quick run, fewer rows and one thread only."""
    quick = extent == "quick"
    for task in TASKS:
        for threads in ("one",) if quick else list_threads():
            with use_threads(threads) as number:
                small = attrs.evolve(task, rows=task.rows // (2 if task.is_windows else 16)) if quick else task
                yield measure_task(small, number, Rounds(most=3 if quick else 7, seconds=3.0 if quick else 25.0))


def measure_task(task: Task, threads: int, rounds: Rounds) -> Result:
    """Compare loss and gradients of one batch, then time epochs in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    examples, weights = draw_examples(task), PlainModel(task)
    check_equal(_compute_first_batch(task, examples, weights))
    epochs: dict[str, Callable[[], object]] = {PLAIN: _make_plain(task, examples, weights)}
    epochs |= {precision: _make_fit(task, examples, weights, precision) for precision in _OURS}
    times = time_interleaved(epochs, rounds)
    threads_name = describe_threads("one" if threads == 1 else "all")
    return Result("users", f"{task}, {threads_name}", threads, task.parameters, times)


def _compute_first_batch(
    task: Task, examples: Sequence[Example[list[int]]], weights: PlainModel
) -> dict[str, list[Tensor]]:
    """Compute loss and gradients of both models over the same batch, without dropout."""
    batch = next(iter(make_data(task)(examples)))
    weights.eval()
    model = make_model(task, weights).eval()
    plain, ours = weights.compute_loss(batch)[0], model(batch).loss()
    weights.train()
    return {
        PLAIN: [plain, *torch.autograd.grad(plain, list(weights.parameters()))],
        "ours": [ours, *torch.autograd.grad(ours, list(model.parameters()))],
    }


def _make_plain(task: Task, examples: Sequence[Example[list[int]]], weights: PlainModel) -> Callable[[], None]:
    """Return an epoch of the plain loop."""
    model, data = PlainModel(task), make_data(task)
    model.load_state_dict(weights.state_dict())
    parameters = list(model.parameters())
    optimizer = make_adamw([{"params": parameters}])

    def train() -> None:
        carry: Carry = None
        for number, batch in enumerate(cast("Iterable[Any]", data(examples))):
            begins = number % _TEXT_WINDOWS == 0
            carry = None if begins or carry is None else (carry[0].detach(), carry[1].detach())
            optimizer.zero_grad()
            loss, carry = model.compute_loss(batch, carry)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(parameters, NORM)
            optimizer.step()

    return train


def _make_fit(
    task: Task, examples: Sequence[Example[list[int]]], weights: PlainModel, precision: Precision
) -> Callable[[], None]:
    """Return an epoch of `fit`, which continues to train the same pipe."""
    pipe = make_data(task) >> make_model(task, weights)

    def train() -> None:
        # The notes about the machine are for users.
        with redirect_stderr(StringIO()):
            pipe.fit(
                examples,
                epochs=1,
                optimizer=make_adamw,
                weight_decay=0.0,
                max_grad_norm=NORM,
                precision=precision,
                progress=False,
            )

    return train


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per task and number of threads."""
    headings = ("one epoch", "threads", PLAIN, *_OURS)
    note = "Times of the plain loop, and for fit the speedup over it, in float32 and in bfloat16."
    return ReportTable("Epochs as users run them", headings, [_make_cells(result) for result in results], [note])


def _make_cells(result: Result) -> list[str]:
    ratios = (result.format_ratio(PLAIN, name) for name in _OURS)
    return [result.point, str(result.threads), str(result.times[PLAIN]), *ratios]


USERS: Final = Measurement("users", measure, tabulate, quick=True)
