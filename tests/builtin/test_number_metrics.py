"""Test metrics of numbers against plain loops in float64."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from pipeline import Scores, Values
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import OptionError, TargetError
from pipeline.registry import registry

NAN = math.nan
TARGETS = [2.0, NAN, -1.0, 4.0, 4.0]
FOUND = [1.0, NAN, 1.0, 4.5, 2.0]


def make_values(found: list[float], targets: list[float], offset: float = 0.0) -> Values[float]:
    """Return predicted numbers with targets; rows without a target have NaN."""
    metadata = BatchMetadata(torch.arange(len(targets)), torch.tensor(targets, dtype=torch.float64) + offset)
    return Values[float](torch.tensor(found, dtype=torch.float64) + offset, metadata=metadata)


def known() -> list[tuple[float, float]]:
    """Return the pairs of number and target."""
    return [(found, target) for found, target in zip(FOUND, TARGETS, strict=True) if target == target]  # noqa: PLR0124


def mean(numbers: Sequence[float]) -> float:
    """Return the mean."""
    return sum(numbers) / len(numbers)


def compute_r2() -> float:
    """Compute 1 minus the squared errors over the squared deviations."""
    middle = mean([target for _, target in known()])
    errors = sum((found - target) ** 2 for found, target in known())
    return 1 - errors / sum((target - middle) ** 2 for _, target in known())


ORACLES: dict[str, Callable[[], float]] = {
    "mae": lambda: mean([abs(found - target) for found, target in known()]),
    "mse": lambda: mean([(found - target) ** 2 for found, target in known()]),
    "rmse": lambda: math.sqrt(mean([(found - target) ** 2 for found, target in known()])),
    "r2": compute_r2,
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("cut", [0, 1, 2, 4])
def test_metric_equals_the_loop(name: str, cut: int) -> None:
    """In two batches, one of which may be empty or without any target."""
    metric = registry().metrics.make(name)
    for part in (slice(cut), slice(cut, None)):
        metric.update(make_values(FOUND[part], TARGETS[part]))
    assert metric.compute() == pytest.approx(ORACLES[name]())
    assert metric.higher_is_better is (name == "r2")


def test_r2_is_exact_far_from_0() -> None:
    """The sum of squares would have no digits left for the deviations."""
    metric = registry().metrics.make("r2")
    for part in (slice(2), slice(2, None)):
        metric.update(make_values(FOUND[part], TARGETS[part], offset=1e8))
    assert metric.compute() == pytest.approx(compute_r2(), rel=1e-6)


@pytest.mark.parametrize(("found", "expected"), [([3.0, 3.0], 1.0), ([3.0, 4.0], 0.0)])
def test_r2_of_equal_targets(found: list[float], expected: float) -> None:
    """1 for perfect predictions, 0 for others."""
    metric = registry().metrics.make("r2")
    metric.update(make_values(found, [3.0, 3.0]))
    assert metric.compute() == expected


@pytest.mark.parametrize(("name", "expected"), [("mae", 1.0), ("mse", 2.0), ("rmse", math.sqrt(2)), ("r2", 0.5)])
def test_metric_of_vectors_is_over_all_numbers(name: str, expected: float) -> None:
    """A vector with a missing number does not count."""
    targets = torch.tensor([[0.0, 5.0], [2.0, 1.0], [NAN, 1.0]])
    # Errors 0 and 2 in the first row, 0 and -2 in the second.
    values = torch.tensor([[0.0, 7.0], [2.0, -1.0], [9.0, 9.0]])
    metric = registry().metrics.make(name)
    metric.update(Values[list[float]](values, metadata=BatchMetadata(torch.arange(3), targets)))
    # R2 of the first number is 1, and of the second 1 - 8 / 8.
    assert metric.compute() == pytest.approx(expected)


@pytest.mark.parametrize("name", ORACLES)
def test_wrong_input_is_rejected(name: str) -> None:
    """Other predictions, targets of another kind or size, and vectors of another size than before."""
    metric = registry().metrics.make(name)
    with pytest.raises(TargetError, match="must get predicted numbers, Values, got a Scores"):
        metric.update(Scores(torch.ones(1, 2), range(2)))
    with pytest.raises(TargetError, match="needs a number per row, but the batch has one class id per row"):
        metric.update(Values[float](torch.ones(1), metadata=BatchMetadata(torch.arange(1), torch.tensor([1]))))
    with pytest.raises(TargetError, match="needs 2 numbers per row, but the batch has no targets"):
        metric.update(Values[list[float]](torch.ones(1, 2)))
    metric.update(make_values([1.0], [1.0]))
    two = BatchMetadata(torch.arange(1), torch.ones(1, 2))
    with pytest.raises(OptionError, match="has counts of 1 numbers per row, got scores of 2; use one for each model"):
        metric.update(Values[list[float]](torch.ones(1, 2), metadata=two))
