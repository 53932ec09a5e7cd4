"""Sums stay on the device of the predictions, and an update does not wait for it."""

from collections.abc import Callable

import pytest
import torch

from pipeline import MultiLabelScores, Predictions, Scores, StepScores, Values
from pipeline.builtin.span_f1 import SpanF1
from pipeline.builtin.sums import SumMetric
from pipeline.data.metadata import BatchMetadata
from pipeline.registry import registry
from pipeline.training.confusion import ConfusionCounter
from support.untyped import as_any

CLASSES = torch.tensor([0, 1, -100])
FLOATS = torch.ones(3, 2)


def make_rows() -> Scores[int]:
    """Return scores of rows."""
    return Scores(FLOATS, range(2), metadata=BatchMetadata(torch.arange(3), CLASSES))


def make_steps() -> StepScores[str]:
    """Return scores of the steps of two rows, with the tags of spans."""
    targets = torch.tensor([[0, 1], [-100, -100]])
    return StepScores(FLOATS, torch.tensor([2, 1]), ["O", "B-x"], metadata=BatchMetadata(torch.arange(2), targets))


def make_sets() -> MultiLabelScores[int]:
    """Return scores of several classes per row."""
    return MultiLabelScores(FLOATS, range(2), FLOATS[0], metadata=BatchMetadata(torch.arange(3), FLOATS))


def make_numbers() -> Values[list[float]]:
    """Return vectors of numbers."""
    return Values[list[float]](FLOATS, metadata=BatchMetadata(torch.arange(3), FLOATS))


MAKE: dict[str, Callable[[], Predictions[object, object]]] = {
    "accuracy": make_rows,
    "macro_f1": make_steps,
    "weighted_f1": make_rows,
    "perplexity": make_steps,
    "span_f1": make_steps,
    "multi_label_f1": make_sets,
    "mae": make_numbers,
    "mse": make_numbers,
    "rmse": make_numbers,
    "r2": make_numbers,
}


def test_every_metric_of_the_library_is_tested_here() -> None:
    """A new one must be added. Exact matches are counted among generated texts, which are on the CPU."""
    assert registry().metrics.names() == sorted([*MAKE, "exact_match"])


@pytest.mark.parametrize("name", MAKE)
def test_an_update_does_not_wait_for_the_device(name: str) -> None:
    """On the device `meta`, reading a value raises."""
    metric, batch = registry().metrics.make(name), MAKE[name]()
    assert isinstance(metric, SumMetric)
    for _ in range(2):
        metric.update(as_any(batch).to("meta"))
    assert metric.sums is not None
    assert metric.sums.is_meta


def test_a_confusion_matrix_does_not_wait_for_the_device() -> None:
    """As a metric."""
    counter = ConfusionCounter(range(2))
    counter.add(make_rows().to("meta"))
    assert counter.cells.is_meta


def test_an_update_keeps_no_graph() -> None:
    """Predictions of training have gradients, which the sums must not keep alive."""
    batch = make_steps()
    values = batch.values.clone().requires_grad_()
    metric = registry().metrics.make("perplexity")
    metric.update(batch.with_values(values * 2))
    assert isinstance(metric, SumMetric)
    assert metric.sums is not None
    assert not metric.sums.requires_grad


def test_tags_of_spans_are_moved_once() -> None:
    """A copy from the CPU would wait for the device at every batch."""
    metric = SpanF1()
    metric.update(make_steps().to("meta"))
    first = metric.tags
    metric.update(make_steps().to("meta"))
    assert first is not None
    assert metric.tags is not None
    assert metric.tags.prefixes is first.prefixes
