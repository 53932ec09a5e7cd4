"""Test perplexity against the plain mean over tokens in float64."""

import math

import pytest
import torch

from pipeline import Scores, StepScores
from pipeline.builtin.perplexity import Perplexity
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import TargetError
from pipeline.registry import registry
from support.untyped import to_list


def make_scores(values: torch.Tensor, targets: list[list[int]]) -> StepScores[int]:
    """Return scores of the steps of rows."""
    lengths = torch.tensor([len(row) for row in targets])
    padded = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in targets], batch_first=True, padding_value=1)
    return StepScores(
        values, lengths, range(values.shape[1]), metadata=BatchMetadata(torch.arange(len(targets)), padded)
    )


def compute_loop(batches: list[StepScores[int]], targets: list[list[list[int]]]) -> float:
    """Compute the exponential of the mean of minus log-probabilities, step by step."""
    losses: list[float] = []
    for batch, rows in zip(batches, targets, strict=True):
        reading = to_list(batch.values.double()[batch.order.reading_order])
        flat = [target for row in rows for target in row]
        for scores, target in zip(reading, flat, strict=True):
            if target != IGNORED:
                losses.append(math.log(sum(map(math.exp, scores))) - scores[target])
    return math.exp(sum(losses) / len(losses))


def test_perplexity_equals_the_loop() -> None:
    """The mean is over the tokens of all batches, and not of the means of batches."""
    generator = torch.Generator().manual_seed(3)
    targets = [[[2, 0, IGNORED], [1]], [[0], [1, 2, 2, 0, 1, IGNORED], [IGNORED]]]
    batches = [make_scores(torch.randn(sum(map(len, rows)), 3, generator=generator) * 3, rows) for rows in targets]
    metric = registry().metrics.make("perplexity")
    for batch in batches:
        metric.update(batch)
    assert metric.compute() == pytest.approx(compute_loop(batches, targets), rel=1e-6)
    assert metric.higher_is_better is False


def test_many_tokens_are_added_in_float64() -> None:
    """A sum in float32 would stop growing."""
    metric = Perplexity()
    batch = make_scores(torch.zeros(1, 2), [[0]])
    metric.update(batch)
    assert metric.sums is not None
    metric.sums = metric.sums + 2.0**24
    metric.update(batch)
    assert float(metric.sums) == pytest.approx(2**24 + 2 * math.log(2), abs=1e-6)


def test_scores_in_low_precision_are_widened() -> None:
    """The logarithm of a probability in bfloat16 has three digits."""
    values = (torch.tensor([[3.0, 1.0, -2.0]]) + 0.5).bfloat16()
    metric = Perplexity()
    metric.update(make_scores(values, [[1]]))
    assert metric.compute() == pytest.approx(compute_loop([make_scores(values, [[1]])], [[[1]]]), rel=1e-6)


def test_a_target_of_probability_zero_is_infinite() -> None:
    """And not an error of overflow."""
    metric = Perplexity()
    metric.update(make_scores(torch.tensor([[0.0, -2_000.0]]), [[1]]))
    assert metric.compute() == math.inf


def test_scores_of_rows_are_rejected() -> None:
    """Perplexity is of steps."""
    with pytest.raises(TargetError, match="Perplexity must get scores of steps, StepScores, got a Scores"):
        Perplexity().update(Scores(torch.ones(1, 2), range(2)))
