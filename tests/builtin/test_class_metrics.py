"""Test accuracy, macro F1 and weighted F1 against plain loops over rows and steps."""

import pytest
import torch

from pipeline import Labels, Scores, StepScores, Values
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import OptionError, TargetError
from pipeline.registry import registry

TARGETS = [0, 2, IGNORED, 1, 1, 2, 2]
BEST = [0, 1, 0, 1, 2, 2, 2]
LABELS = Labels(["a", "b", "c", "unused"])


def make_scores(targets: list[int], best: list[int]) -> Scores[str]:
    """Return scores whose best classes are given."""
    metadata = BatchMetadata(torch.arange(len(targets)), targets=torch.tensor(targets))
    return Scores(torch.eye(4)[torch.tensor(best)], list(LABELS), metadata=metadata)


def compute_accuracy(targets: list[int], best: list[int]) -> float:
    """Count one by one."""
    known = [(target, found) for target, found in zip(targets, best, strict=True) if target != IGNORED]
    return sum(target == found for target, found in known) / len(known)


def compute_macro_f1(targets: list[int], best: list[int]) -> float:
    """Average 2 TP / (2 TP + FP + FN) over the classes that occur."""
    known = [(target, found) for target, found in zip(targets, best, strict=True) if target != IGNORED]
    scores: list[float] = []
    for each in sorted({number for pair in known for number in pair}):
        right = sum(target == found == each for target, found in known)
        wrong = sum((target == each) != (found == each) for target, found in known)
        scores.append(2 * right / (2 * right + wrong))
    return sum(scores) / len(scores)


def compute_weighted_f1(targets: list[int], best: list[int]) -> float:
    """Average F1 over the targets: each counts the F1 of its class."""
    known = [(target, found) for target, found in zip(targets, best, strict=True) if target != IGNORED]
    scores: list[float] = []
    for each, _ in known:
        right = sum(target == found == each for target, found in known)
        wrong = sum((target == each) != (found == each) for target, found in known)
        scores.append(2 * right / (2 * right + wrong))
    return sum(scores) / len(scores)


ORACLES = {"accuracy": compute_accuracy, "macro_f1": compute_macro_f1, "weighted_f1": compute_weighted_f1}


@pytest.mark.parametrize("name", ORACLES)
def test_metric_of_rows_equals_the_loop(name: str) -> None:
    """In two batches, whose targets and predictions are counted together."""
    metric = registry().metrics.make(name)
    for part in (slice(3), slice(3, None)):
        metric.update(make_scores(TARGETS[part], BEST[part]))
    assert metric.compute() == pytest.approx(ORACLES[name](TARGETS, BEST))


@pytest.mark.parametrize("name", ORACLES)
def test_metric_of_steps_equals_the_loop(name: str) -> None:
    """Padding and steps without a target do not count."""
    lengths, best = torch.tensor([1, 3]), [2, 0, 1, 1]
    targets = torch.tensor([[2, IGNORED, IGNORED], [1, IGNORED, 1]])
    scores = StepScores(torch.eye(4), lengths, range(4), metadata=BatchMetadata(torch.arange(2), targets=targets))
    rows = dict(scores.rows())
    metric = registry().metrics.make(name)
    metric.update(scores)
    best = [*rows[0], *rows[1]]
    assert metric.compute() == pytest.approx(ORACLES[name]([2, 1, IGNORED, 1], best))


@pytest.mark.parametrize("name", ORACLES)
def test_wrong_input_is_rejected(name: str) -> None:
    """Predictions without classes or targets, targets of other classes, other numbers of classes, and no target."""
    metric = registry().metrics.make(name)
    with pytest.raises(TargetError, match="must get scores of classes, Scores or StepScores, got a Values"):
        metric.update(Values[float](torch.ones(2)))
    with pytest.raises(TargetError, match="needs a class per row, but the batch has no targets"):
        metric.update(Scores(torch.eye(2), range(2)))
    with pytest.raises(TargetError, match=r"needs at least one target, got none"):
        metric.compute()
    with pytest.raises(TargetError, match="targets must be classes, 0 to 3, got 4"):
        metric.update(make_scores([4], [0]))
    metric.update(make_scores([IGNORED], [0]))
    with pytest.raises(TargetError, match=r"needs at least one target, got none"):
        metric.compute()
    metadata = BatchMetadata(torch.arange(1), targets=torch.tensor([1]))
    with pytest.raises(OptionError, match="has counts of 4 classes, got scores of 2; use one for each model"):
        metric.update(Scores(torch.ones(1, 2), range(2), metadata=metadata))
    other = registry().metrics.make(next(each for each in ORACLES if each != name))
    with pytest.raises(OptionError, match="can be merged with its own kind, got "):
        metric.merge(other)
