"""Measured batches: drawn from the sizes that models have, with the time of each engine on this machine."""

import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Literal, TypeAlias, cast, get_args

import attrs
import torch
from torch import Tensor, nn

from pipeline import Bucket, Ids, Row
from pipeline.extend import PackingOrder
from pipeline_recurrent.engines.choose import ENGINES
from pipeline_recurrent.engines.costs import Family, Precision, Sizes
from pipeline_recurrent.engines.engine import Cell, StackInputs, Weights

Kind: TypeAlias = Literal["bucketed", "random", "even", "lone"]
"""Batches that `Bucket` makes; rows drawn at random; rows of one length; one row."""

CANDIDATES: Final = ("packed", "dense", "plain", "native")
"""The engines that are measured."""

_CELLS: Final[Mapping[Family, Cell]] = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}
_MODULES: Final = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}

# The LSTM gets twice the time: its engines are closest to each other, and torch's packed kernel has two costs.
_SHARES: Final[Mapping[Family, int]] = {"lstm": 2, "gru": 1, "rnn": 1}

_MAX_LENGTH: Final = 1_500
"""Rows are cut at this many steps."""

_MAX_WORK: Final = 4e8
"""Products of two numbers in a forward pass at most, so that every engine runs several times in half a second."""

_MAX_LARGE_WORK: Final = 4e9
"""The same of a large batch, over which an engine runs for up to a second."""

_POPULATION: Final = 40
"""Batches in the population of rows that `Bucket` divides."""

# Rounds and seconds per batch: more rounds change neither the shortest time nor the median by more than a percent.
_MIN_ROUNDS: Final = 8
_MAX_ROUNDS: Final = 40
_SECONDS: Final = 0.25
# Of a large batch there are fewer rounds, if these take longer than this.
_MANY_SECONDS: Final = 2.0
_FEWEST_ROUNDS: Final = 2

# After two rounds, engines that take more than this times the fastest's time are not run again. Those that take less
# than 0.3 ms always are: their first runs depend on chance.
_HOPELESS: Final = 1.6
_SHORT: Final = 3e-4


@attrs.frozen
class Setting:
    """The kind of computation, which has weights of its own in the cost model."""

    family: Family
    training: bool
    precision: Precision

    @property
    def share(self) -> int:
        """The share of the measuring time."""
        return _SHARES[self.family]

    def under_precision(self) -> AbstractContextManager[object]:
        """Switch on autocast for a half precision: it is how most models get there."""
        return torch.autocast("cpu", torch.bfloat16) if self.precision == "bfloat16" else nullcontext()


SETTINGS: Final = [
    Setting(family, training, precision)
    for precision in get_args(Precision)
    for family in get_args(Family)
    for training in (True, False)
]


@attrs.frozen
class Batch:
    """Row lengths, and the sizes of a layer."""

    kind: Kind
    lengths: Sequence[int]
    features: int
    hidden: int
    directions: int

    def __str__(self) -> str:
        rows, steps = len(self.lengths), sum(self.lengths)
        sizes = f"input {self.features}, hidden {self.hidden}, {self.directions} directions"
        return f"{self.kind}, {rows} rows of up to {max(self.lengths)} steps, {steps} in all, {sizes}"

    def count_work(self, *, training: bool) -> float:
        """Count the products of two numbers of a forward pass.

        In training, torch's packed rows count more: their backward pass takes time quadratic in the length.
        """
        penalty = 1 + max(self.lengths) / 50 if training and len(set(self.lengths)) > 1 else 1
        return sum(self.lengths) * self.hidden * self.directions * (self.features + self.hidden) * penalty


@attrs.frozen
class Measured:
    """The times of the engines over one batch.

    Attributes:
        batch: the batch.
        sizes: the sizes of the stack.
        seconds: the times of each engine, one per round; engines that are far behind have two.
    """

    batch: Batch
    sizes: Sizes
    seconds: Mapping[str, Sequence[float]]

    def shortest(self) -> dict[str, float]:
        """Return each engine's shortest time: what disturbs a run only makes it longer."""
        return {engine: min(times) for engine, times in self.seconds.items()}

    def compare_with_best(self, engine: str) -> float:
        """Return an engine's time divided by that of the fastest one: the median over the rounds that both ran."""
        best = min(self.seconds, key=lambda each: statistics.median(self.seconds[each]))
        # The first two rounds of all engines came first.
        pairs = zip(self.seconds[engine], self.seconds[best], strict=False)
        return statistics.median(one / other for one, other in pairs)


def draw_batch(generator: random.Random) -> Batch:
    """Draw lengths, features, hidden size and directions from the range that models have."""
    # Half of the batches are bucketed: these are what models train on.
    kind: Kind = generator.choice(("bucketed", "bucketed", "bucketed", "random", "even", "lone"))
    features = generator.choice((32, 64, 100, 128, 200, 256, 300, 512))
    hidden = generator.choice((32, 64, 100, 128, 128, 200, 256, 256, 300, 384, 512))
    return Batch(kind, draw_lengths(kind, generator), features, hidden, generator.choice((1, 2)))


def draw_lengths(kind: Kind, generator: random.Random) -> list[int]:
    """Draw the lengths of the rows of a batch."""
    rows, typical = generator.choice((2, 4, 8, 16, 32, 64, 128, 256)), generator.choice((5, 10, 20, 20, 50, 100, 230))
    spread = generator.choice((0.3, 0.5, 0.7))

    def draw(count: int) -> list[int]:
        drawn = (round(typical * generator.lognormvariate(0, spread)) for _ in range(count))
        return [min(max(1, length), _MAX_LENGTH) for length in drawn]

    match kind:
        case "lone":
            return [generator.choice((1, 2, 3, 5, 10, 20, 50, 100, 200, 500, 1_000))]
        case "even":
            return [typical] * rows
        case "random":
            return draw(rows)
        case "bucketed":
            return cut_like_bucket(draw(rows * _POPULATION), rows * typical, generator)


def cut_like_bucket(population: Sequence[int], max_padded_steps: int, generator: random.Random) -> list[int]:
    """Return the lengths of one of the batches that `Bucket` makes of a population."""
    rows = [Row(Ids(torch.zeros(length, dtype=torch.int64))) for length in population]
    bucket = Bucket(max_padded_steps=max_padded_steps, too_long="alone", seed=generator.randrange(1_000))
    return [len(row) for row in generator.choice(list(bucket(rows)))]


def draw_small_batch(generator: random.Random, *, training: bool) -> Batch:
    """Draw a batch of at most `_MAX_WORK`."""
    while True:
        batch = draw_batch(generator)
        if batch.count_work(training=training) < _MAX_WORK:
            return batch


def draw_large_batch(generator: random.Random) -> Batch:
    """Draw a batch of more than `_MAX_WORK`, up to `_MAX_LARGE_WORK`."""
    while True:
        batch = draw_batch(generator)
        if _MAX_WORK < batch.count_work(training=False) < _MAX_LARGE_WORK:
            return batch


def measure(setting: Setting, generator: random.Random, *, seconds: float, large: int = 0) -> Iterator[Measured]:
    """Draw batches and measure the engines on each, until the time is up, but at least one.

    Args:
        setting: the kind of computation.
        generator: of random numbers.
        seconds: the time for small batches.
        large: the number of large batches, which come first, and take more time.
    """
    for _ in range(large):
        yield measure_batch(setting, draw_large_batch(generator))
    until = time.perf_counter() + seconds
    while True:
        yield measure_batch(setting, draw_small_batch(generator, training=setting.training))
        if time.perf_counter() > until:
            return


def measure_batch(setting: Setting, batch: Batch) -> Measured:
    """Time all engines that can run a batch, in rounds."""
    order = PackingOrder(torch.tensor(batch.lengths))
    module = _MODULES[setting.family](batch.features, batch.hidden, bidirectional=batch.directions == 2)
    values = torch.randn(order.steps, batch.features, requires_grad=setting.training)
    weights = [[cast("Weights", tuple(own)) for own in module.all_weights]]
    with torch.set_grad_enabled(setting.training), setting.under_precision():
        stack = StackInputs(_CELLS[setting.family], values, order, weights)
        names = [name for name in CANDIDATES if ENGINES[name].unsupported_reason(stack) is None]
        # Torch's packed rows would run for a minute, and are known to be the slowest.
        if setting.training and batch.count_work(training=True) > _MAX_LARGE_WORK:
            names = [name for name in names if name != "packed"]
        return Measured(batch, Sizes.of(stack), time_engines(names, stack, [values, *module.parameters()]))


def time_engines(names: Sequence[str], stack: StackInputs, leaves: Sequence[Tensor]) -> dict[str, list[float]]:
    """Return the times of each engine in seconds, one per round.

    All engines run in each round, one after the other, so that a slow phase of the machine slows all alike.

    Args:
        names: the engines.
        stack: the layers and the batch.
        leaves: the tensors that get gradients in training.
    """
    # With one thread, processor time excludes other processes; with several it would add up all threads.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    taken = {name: list[float]() for name in names}
    for name in names:
        _run_once(name, stack, leaves)
    began = time.perf_counter()
    running = list(names)
    for number in range(_MAX_ROUNDS):
        for name in running if number % 2 else running[::-1]:
            start = clock()
            _run_once(name, stack, leaves)
            taken[name].append(clock() - start)
        if number == 1:
            best = min(map(min, taken.values()))
            running = [name for name in names if min(taken[name]) < max(_SHORT, _HOPELESS * best)]
        spent = time.perf_counter() - began
        if spent > _SECONDS and number + 1 >= (_MIN_ROUNDS if spent < _MANY_SECONDS else _FEWEST_ROUNDS):
            break
    return taken


def _run_once(name: str, stack: StackInputs, leaves: Sequence[Tensor]) -> None:
    """Run an engine, with its backward pass in training."""
    output, _ = ENGINES[name].run(stack)
    if stack.needs_grad:
        torch.autograd.grad(output.sum(), leaves)
