"""Times of candidates in interleaved rounds, and the steps that are timed after they were checked to be equal."""

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Literal, Self, TypeAlias, TypeVar

import attrs
import torch
from torch import Tensor

Step: TypeAlias = Callable[[], tuple[Tensor, ...]]
"""Returns its output and, in training, the gradients after it."""

Threads: TypeAlias = Literal["one", "all"]
"""One thread, or torch's default: one per core, or `OMP_NUM_THREADS`."""

ALL_THREADS: Final = torch.get_num_threads()

MATMUL: Final = "matrix product"
"""The name of the matrix product among the candidates."""

# Large enough that still larger products reach no higher rate, and small enough to take part in every round.
_MATMUL_SIZE: Final = 1_536

MATMUL_OPERATIONS: Final = 2 * _MATMUL_SIZE**3
"""Multiplications and additions of the matrix product."""

_ALMOST_ZERO: Final = 1e-6


class MismatchError(Exception):
    """Two candidates do not compute the same, so that comparing their times would be meaningless."""


def make_step(forward: Callable[[], Tensor], inputs: Sequence[Tensor], *, training: bool) -> Step:
    """Return a step that runs `forward` and, in training, computes the gradients of `inputs`.

    Args:
        forward: computes the output; any padding in it must be zero.
        inputs: the tensors whose gradients are computed: weights, and the input.
        training: whether to run the backward pass; otherwise `forward` runs in inference mode.

    Example:
        >>> weight = torch.tensor([3.0], requires_grad=True)
        >>> make_step(lambda: 2 * weight, [weight], training=True)()
        (tensor([6.]), tensor([24.]))
        >>> make_step(lambda: 2 * weight, [weight], training=False)()
        (tensor([6.]),)
    """

    def train() -> tuple[Tensor, ...]:
        output = forward()
        # The sum of squares, not the sum: every output then has a gradient of its own, so that a candidate that mixes
        # up steps or rows is found by its gradients too.
        return output.detach(), *torch.autograd.grad(output.square().sum(), inputs)

    def infer() -> tuple[Tensor, ...]:
        with torch.inference_mode():
            return (forward(),)

    return train if training else infer


def check_equal(results: Mapping[str, Sequence[Tensor]], tolerance: float = 1e-3) -> None:
    """Reject candidates whose results differ from those of the first candidate by more than rounding.

    Args:
        results: the tensors that each candidate returned.
        tolerance: the largest allowed difference, as a share of the largest number in the tensor. It is not relative
            to each number: in a sum of many steps, rounding depends on the size of the terms, not on that of the sum.

    Raises:
        MismatchError: if a candidate returns other shapes, another number of tensors, or other numbers.
    """
    (first, expected), *others = results.items()
    for name, found in others:
        if [each.shape for each in found] != [each.shape for each in expected]:
            shapes, wanted = (", ".join(str(tuple(each.shape)) for each in tensors) for tensors in (found, expected))
            msg = f"{name!r} must return tensors of the same shapes as {first!r}, {wanted}, got {shapes}; correct it."
            raise MismatchError(msg)
        for index, (one, two) in enumerate(zip(found, expected, strict=True)):
            allowed = tolerance * _find_largest(two)
            if not torch.allclose(one, two, rtol=0.0, atol=allowed):
                msg = (
                    f"tensor {index} of {name!r} must equal that of {first!r} within {allowed:.2g}, but differs by "
                    f"{_find_largest(one - two):.2g}; correct the candidate before timing it."
                )
                raise MismatchError(msg)


def _find_largest(tensor: Tensor) -> float:
    """Return the largest absolute value; a small positive number if all are zero."""
    return max(_ALMOST_ZERO, float(tensor.detach().abs().max())) if tensor.numel() else _ALMOST_ZERO


def make_matmul() -> Callable[[], object]:
    """Return a product of two large float32 matrices, which ran once, to be timed in the rounds of the candidates.

    Its rate is the peak against which the products in a step are compared.
    """
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(_MATMUL_SIZE, _MATMUL_SIZE, generator=generator) for _ in range(2))
    _ = left @ right
    return lambda: left @ right


@contextmanager
def use_threads(threads: Threads) -> Generator[int]:
    """Set torch's number of threads, yield it, and restore the previous one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if threads == "one" else ALL_THREADS)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def list_threads() -> Sequence[Threads]:
    """Return one thread and all; one thread only where there is a single core."""
    return ("one", "all") if ALL_THREADS > 1 else ("one",)


def describe_threads(threads: Threads) -> str:
    """Return "one thread" or "all threads"."""
    return f"{threads} thread{'s' if threads == 'all' else ''}"


T = TypeVar("T")

SLOW: Final = 20.0
"""Seconds: if the first run of a candidate takes longer, it is its only run."""


@attrs.frozen
class Quartiles:
    """Median and quartiles of some numbers.

    Example:
        >>> Quartiles.of([5.0, 1.0, 3.0])
        Quartiles(low=2.0, median=3.0, high=4.0)
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Self:
        """Compute the quartiles of at least one number, with linear interpolation."""
        if len(numbers) == 1:
            return cls(numbers[0], numbers[0], numbers[0])
        return cls(*statistics.quantiles(numbers, n=4, method="inclusive"))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


@attrs.frozen
class Times:
    """The seconds that a candidate took in each round; a single number if it was too slow to repeat.

    Example:
        >>> slow, fast = Times([6.0, 8.0, 9.0]), Times([2.0, 2.0, 3.0])
        >>> str(slow.divide_by(fast))
        '3.00 (3.00 to 3.50)'
    """

    seconds: Sequence[float] = attrs.field(converter=tuple[float, ...])

    @property
    def ran_once(self) -> bool:
        """Return whether there is a single time."""
        return len(self.seconds) == 1

    @property
    def quartiles(self) -> Quartiles:
        """The median and the quartiles, in seconds."""
        return Quartiles.of(self.seconds)

    def quantile(self, share: float) -> float:
        """Return the time within which a share of the rounds were over, such as 0.99, in seconds.

        Example:
            >>> Times([4.0, 1.0, 2.0, 3.0]).quantile(0.5)
            3.0
        """
        return sorted(self.seconds)[min(int(share * len(self.seconds)), len(self.seconds) - 1)]

    def divide_by(self, other: "Times") -> Quartiles:
        """Divide by the times of another candidate, round by round, and return the quartiles of the ratios.

        A single time is divided by, or divides, the time of every round.
        """
        # In a round the two run one shortly after the other, and a busy machine slows both. The ratio of each round is
        # therefore steadier than the ratio of the two medians.
        rounds = max(len(self.seconds), len(other.seconds))
        pairs = zip(_repeat(self, rounds), _repeat(other, rounds), strict=True)
        return Quartiles.of([one / two for one, two in pairs])

    def __str__(self) -> str:
        unit, scale = ("s", 1.0) if self.quartiles.median >= 1 else ("ms", 1e3)
        low, median, high = (scale * each for each in attrs.astuple(self.quartiles))
        return f"{median:.3g} {unit}, once" if self.ran_once else f"{median:.3g} {unit} ({low:.3g} to {high:.3g})"


def _repeat(times: Times, rounds: int) -> Sequence[float]:
    return [*times.seconds] * rounds if times.ran_once else times.seconds


@attrs.frozen
class Rounds:
    """The number of times that each candidate runs.

    Attributes:
        most: the number of rounds if they fit in `seconds`.
        fewest: the number of rounds in any case.
        seconds: the time for all rounds of all candidates.
    """

    # 15 numbers give steady quartiles, and 3 are the fewest that show a spread at all. The limit of 15 seconds keeps a
    # run of all points of `encode` within an hour.
    most: int = 15
    fewest: int = 3
    seconds: float = 15.0

    def choose_number(self, seconds_per_round: float) -> int:
        """Choose the number of rounds, given the time of one round of all candidates.

        Example:
            >>> [Rounds(most=15, fewest=3, seconds=10.0).choose_number(seconds) for seconds in (0.1, 1.0, 60.0)]
            [15, 10, 3]
        """
        return max(self.fewest, min(self.most, int(self.seconds / seconds_per_round)))


def time_run(run: Callable[[], T]) -> tuple[T, float]:
    """Run once; return the result and the seconds."""
    start = time.perf_counter()
    result = run()
    return result, time.perf_counter() - start


def time_first_runs(candidates: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Run each candidate once, which warms it up; return the seconds by name."""
    return {name: time_run(run)[1] for name, run in candidates.items()}


def time_interleaved(
    candidates: Mapping[str, Callable[[], object]],
    rounds: Rounds,
    first: Mapping[str, float] | None = None,
    slow: float = SLOW,
) -> dict[str, Times]:
    """Time all candidates in each round, one after the other.

    Args:
        candidates: functions to time, by name.
        rounds: the number of rounds.
        first: the seconds of each candidate's first run, which warmed it up; if None, each is run first.
        slow: a candidate whose first run took longer than this many seconds is not run again.
    """
    first = time_first_runs(candidates) if first is None else first
    seconds = {name: [first[name]] if first[name] > slow else list[float]() for name in candidates}
    repeated = [name for name in candidates if first[name] <= slow]
    number = rounds.choose_number(sum(first[name] for name in repeated)) if repeated else 0
    for round_ in range(number):
        # Every other round runs in reverse order, so that no candidate always finds the cache of the same predecessor.
        for name in reversed(repeated) if round_ % 2 else repeated:
            seconds[name].append(time_run(candidates[name])[1])
    return {name: Times(each) for name, each in seconds.items()}
