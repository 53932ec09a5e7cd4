"""Metrics of torchmetrics get the rows and steps with a target, and give what they give by themselves."""

import copy
import math
import pickle
from importlib import import_module
from typing import Any

import pytest
import torch

from pipeline import MultiLabelScores, Predictions, Scores, StepScores, Values
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import OptionError, TargetError
from pipeline.registry import registry
from pipeline.training.torch_metric import TorchMetric
from support.needs import needs
from support.untyped import as_any

pytestmark = needs("torchmetrics")

TARGETS = torch.tensor([0, 2, IGNORED, 1, 1, 2, 0])
VALUES = torch.randn(7, 3, generator=torch.Generator().manual_seed(5))
KNOWN = TARGETS != IGNORED


def torchmetrics() -> Any:
    """Return the package, whose types are open."""
    return import_module("torchmetrics")


def make_scores(rows: slice = slice(None), values: torch.Tensor = VALUES) -> Scores[int]:
    """Return scores of rows, one of which has no target."""
    count = len(TARGETS[rows])
    return Scores(values[rows], range(values.shape[1]), metadata=BatchMetadata(torch.arange(count), TARGETS[rows]))


def compute(metric: TorchMetric, *batches: Predictions[object, object]) -> float:
    """Return the result for some batches."""
    for batch in batches:
        metric.update(batch)
    return metric.compute()


@pytest.mark.parametrize("name", ["Accuracy", "AUROC", "F1Score", "CalibrationError", "CohenKappa"])
def test_rows_without_target_are_left_out(name: str) -> None:
    """The result is that of the metric by itself, on probabilities of the other rows."""
    make = getattr(torchmetrics(), name)
    wanted = make(task="multiclass", num_classes=3)
    wanted.update(VALUES[KNOWN].softmax(1), TARGETS[KNOWN])
    given = make(task="multiclass", num_classes=3)
    found = compute(TorchMetric(given), make_scores(slice(3)), make_scores(slice(3, None)))
    assert found == pytest.approx(float(wanted.compute()))
    assert given._update_count == 0


def test_steps_are_flat() -> None:
    """Padding and steps without a target are left out; the order of steps does not matter."""
    lengths, padded = torch.tensor([1, 3]), torch.tensor([[2, IGNORED, IGNORED], [1, IGNORED, 1]])
    metadata = BatchMetadata(torch.arange(2), padded)
    scores = StepScores(torch.eye(4)[[1, 2, 0, 1]][:, :3], lengths, range(3), metadata=metadata)
    ours = registry().metrics.make("accuracy")
    ours.update(scores)
    theirs = torchmetrics().Accuracy(task="multiclass", num_classes=3, average="micro")
    assert compute(TorchMetric(theirs), scores) == pytest.approx(ours.compute())


def test_a_binary_metric_gets_the_probability_of_class_1() -> None:
    """And more than two classes are rejected."""
    targets, values = torch.tensor([1, 0, 1]), torch.tensor([[0.0, 2.0], [1.0, 3.0], [1.0, 0.5]])
    wanted = torchmetrics().AUROC(task="binary")
    wanted.update(values.softmax(1)[:, 1], targets)
    scores = Scores(values, range(2), metadata=BatchMetadata(torch.arange(3), targets))
    assert compute(TorchMetric(torchmetrics().AUROC(task="binary")), scores) == pytest.approx(float(wanted.compute()))
    with pytest.raises(TargetError, match="BinaryAUROC must get two classes, got 3; create it with task='multiclass'"):
        TorchMetric(torchmetrics().AUROC(task="binary")).update(make_scores())


def test_perplexity_gets_one_row_of_steps() -> None:
    """It is that of our own metric."""
    metadata = BatchMetadata(torch.arange(1), TARGETS.unsqueeze(0))
    scores = StepScores(VALUES, torch.tensor([7]), range(3), metadata=metadata)
    ours = registry().metrics.make("perplexity")
    ours.update(scores)
    theirs = import_module("torchmetrics.text").Perplexity()
    assert compute(TorchMetric(theirs), scores) == pytest.approx(ours.compute(), rel=1e-5)


def test_numbers_and_several_classes_are_passed() -> None:
    """NaN marks a row without a target."""
    numbers = BatchMetadata(torch.arange(3), torch.tensor([1.0, math.nan, 4.0]))
    values = Values[float](torch.tensor([2.0, 9.0, 2.0]), metadata=numbers)
    assert compute(TorchMetric(torchmetrics().MeanAbsoluteError()), values) == pytest.approx(1.5)
    sets = BatchMetadata(torch.arange(3), torch.tensor([[1.0, 0.0], [math.nan, math.nan], [1.0, 1.0]]))
    several = MultiLabelScores(
        torch.tensor([[3.0, -3.0], [9.0, 9.0], [-3.0, 3.0]]), range(2), torch.ones(2), metadata=sets
    )
    accuracy = torchmetrics().Accuracy(task="multilabel", num_labels=2)
    assert compute(TorchMetric(accuracy), several) == pytest.approx(0.75)


def test_several_results_are_named() -> None:
    """By class if there is one per class, by the keys of a collection, or by number."""
    names = ["a", "b", "c"]
    scores = Scores(VALUES, names, metadata=BatchMetadata(torch.arange(7), TARGETS))
    package = torchmetrics()
    options = {"task": "multiclass", "num_classes": 3}
    by_class = TorchMetric(package.Recall(**options, average=None))
    by_class.update(as_any(scores))
    assert list(by_class.results()) == names
    with pytest.raises(OptionError, match=r"TorchMetric\(MulticlassRecall\) has several results, a, b, c; use results"):
        by_class.compute()
    both = TorchMetric(
        package.MetricCollection({"f1": package.F1Score(**options), "recall": package.Recall(**options)})
    )
    both.update(as_any(scores))
    assert list(both.results()) == ["f1", "recall"]
    matrix = TorchMetric(package.ConfusionMatrix(**options))
    matrix.update(as_any(scores))
    with pytest.raises(OptionError, match=r"must return numbers, got int64 of shape \(3, 3\)"):
        matrix.results()


def test_merged_metrics_equal_the_whole() -> None:
    """Also after pickling, and if one of them is empty."""
    make = torchmetrics().AUROC
    whole, first, second, merged = (TorchMetric(make(task="multiclass", num_classes=3)) for _ in range(4))
    whole.update(make_scores())
    first.update(make_scores(slice(4)))
    second.update(make_scores(slice(4, None)))
    for part in (TorchMetric(make(task="multiclass", num_classes=3)), first, pickle.loads(pickle.dumps(second))):
        merged.merge(part)
    assert merged.compute() == pytest.approx(whole.compute())
    # Merging changes only one of them.
    assert copy.deepcopy(first).compute() != pytest.approx(whole.compute())


def test_a_metric_that_cannot_be_merged_is_named() -> None:
    """Torchmetrics has no way to merge some of them."""
    first, second = (TorchMetric(torchmetrics().PearsonCorrCoef()) for _ in range(2))
    numbers = BatchMetadata(torch.arange(3), torch.tensor([1.0, 2.0, 4.0]))
    for metric in (first, second):
        metric.update(Values[float](torch.tensor([2.0, 9.0, 2.0]), metadata=numbers))
    with pytest.raises(OptionError, match="PearsonCorrCoef of torchmetrics cannot be merged over ranks or parts: "):
        first.merge(second)
    with pytest.raises(
        OptionError, match=r"TorchMetric\(PearsonCorrCoef\) can be merged with its own kind, got TorchMetric\(Mean"
    ):
        first.merge(TorchMetric(torchmetrics().MeanAbsoluteError()))


def test_inputs_can_be_chosen() -> None:
    """For a metric that needs something else, such as texts."""
    rate = import_module("torchmetrics.text").WordErrorRate()
    metric = TorchMetric(rate, lambda batch: ([f"it is {each}" for _, each in batch.rows()], ["it is 0"] * 7))
    best = VALUES.argmax(1)
    assert compute(metric, make_scores()) == pytest.approx(int((best != 0).sum()) / 21)


def test_the_direction_is_that_of_the_metric() -> None:
    """None if a collection has both."""
    package = torchmetrics()
    error, correlation = package.MeanAbsoluteError(), package.R2Score()
    assert TorchMetric(error).higher_is_better is False
    assert TorchMetric(correlation).higher_is_better is True
    assert TorchMetric(package.MetricCollection([error, correlation])).higher_is_better is None


def test_wrong_input_is_rejected() -> None:
    """An object without the methods, a class, scores without targets, and no target at all."""
    for wrong in (3, torchmetrics().MeanAbsoluteError):
        with pytest.raises(OptionError, match="metric must be one of torchmetrics, got a"):
            TorchMetric(as_any(wrong))
    metric = TorchMetric(torchmetrics().MeanAbsoluteError())
    with pytest.raises(
        TargetError, match="a metric of torchmetrics needs numbers or sets of classes as targets, but the"
    ):
        metric.update(Values[float](torch.ones(2)))
    metric.update(Values[float](torch.ones(1), metadata=BatchMetadata(torch.arange(1), torch.tensor([math.nan]))))
    with pytest.raises(TargetError, match=r"TorchMetric\(MeanAbsoluteError\) needs at least one target, got none"):
        metric.compute()
