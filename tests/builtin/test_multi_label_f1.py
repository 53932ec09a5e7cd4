"""Test F1 of several classes per row against a plain loop."""

import math

import pytest
import torch

from pipeline import MultiLabelScores, Scores
from pipeline.builtin.multi_label_f1 import MultiLabelF1
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import OptionError, TargetError
from pipeline.registry import registry
from support.untyped import as_any

# Sets of classes out of five; class 4 never occurs, and the second row has no target.
TARGETS: list[set[int] | None] = [{0, 1}, None, set(), {2}, {1, 3}, {0}]
FOUND: list[set[int]] = [{0}, {1}, {3}, {2}, {1}, {1, 2}]


def make_scores(targets: list[set[int] | None], found: list[set[int]]) -> MultiLabelScores[int]:
    """Return scores by which the given classes are predicted."""
    values = torch.tensor([[3.0 if each in row else -3.0 for each in range(5)] for row in found])
    wanted = torch.tensor([[math.nan if row is None else float(each in row) for each in range(5)] for row in targets])
    metadata = BatchMetadata(torch.arange(len(targets)), wanted)
    return MultiLabelScores(values, range(5), torch.full((5,), 0.5), metadata=metadata)


def count(classes: list[int]) -> tuple[int, int]:
    """Return twice the correct predictions of some classes, and the sum of targets and predictions."""
    correct = total = 0
    for targets, found in zip(TARGETS, FOUND, strict=True):
        for each in classes if targets is not None else ():
            correct += each in (targets or ()) and each in found
            total += (each in (targets or ())) + (each in found)
    return 2 * correct, total


def compute(average: str, cut: int) -> float:
    """Compute in two batches."""
    metric = registry().metrics.make("multi_label_f1", average=average)
    for part in (slice(cut), slice(cut, None)):
        metric.update(make_scores(TARGETS[part], FOUND[part]))
    return metric.compute()


@pytest.mark.parametrize("cut", [1, 4])
def test_f1_equals_the_loop(cut: int) -> None:
    """Micro counts all classes together; macro leaves out class 4, which does not occur."""
    correct, total = count([*range(5)])
    assert compute("micro", cut) == pytest.approx(correct / total)
    macro = [correct / total for correct, total in (count([each]) for each in range(4))]
    assert compute("macro", cut) == pytest.approx(sum(macro) / 4)


@pytest.mark.parametrize("average", ["micro", "macro"])
def test_f1_without_any_class_is_0(average: str) -> None:
    """Rows without classes, of which none is predicted."""
    metric = MultiLabelF1(as_any(average))
    metric.update(make_scores([set()], [set()]))
    assert metric.compute() == 0


def test_thresholds_of_the_head_decide() -> None:
    """A class is predicted from its own threshold."""
    scores = make_scores([{0}], [{0}])
    metadata = scores.metadata
    strict = MultiLabelScores(scores.values, range(5), torch.full((5,), 0.99), metadata=metadata)
    metric = MultiLabelF1()
    metric.update(strict)
    assert metric.compute() == 0


def test_wrong_input_is_rejected() -> None:
    """Another average, other predictions, and no targets."""
    with pytest.raises(OptionError, match="average must be one of micro, macro, got 'weighted'"):
        MultiLabelF1(as_any("weighted"))
    metric = MultiLabelF1()
    with pytest.raises(TargetError, match="must get scores of several classes per row, MultiLabelScores, got a Scores"):
        metric.update(Scores(torch.ones(1, 2), range(2)))
    with pytest.raises(TargetError, match="needs a set of classes per row, but the batch has no targets"):
        metric.update(MultiLabelScores(torch.ones(1, 2), range(2), torch.ones(2)))
    metric.update(make_scores([None], [{1}]))
    with pytest.raises(TargetError, match="MultiLabelF1 needs at least one target, got none"):
        metric.compute()
