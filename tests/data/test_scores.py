"""Scores: losses over rows and steps with targets, and predictions with row ids."""

import pytest
import torch
from torch import Tensor

from pipeline import Scores, StepScores
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import TargetError
from support.untyped import seed

LENGTHS = torch.tensor([3, 1])


def make_step_scores(targets: Tensor) -> StepScores[int]:
    """Return scores of two rows of 3 and 1 steps, with one target per step."""
    seed(0)
    return StepScores(torch.randn(4, 5), LENGTHS, range(5), metadata=BatchMetadata(torch.arange(2), targets=targets))


def test_step_loss_averages_over_real_steps_with_a_target() -> None:
    """Padding and steps without a target have no weight, whatever the targets in the padding are."""
    targets = torch.tensor([[1, IGNORED, 4], [2, 0, 0]])
    scores = make_step_scores(targets)
    rows = scores.values[scores.order.reading_order].log_softmax(-1)
    expected = -(rows[0, 1] + rows[2, 4] + rows[3, 2]) / 3
    torch.testing.assert_close(scores.loss(), expected)
    torch.testing.assert_close(scores.log_softmax()[scores.order.reading_order], rows)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_losses_of_low_precision_are_summed_in_float32(dtype: torch.dtype) -> None:
    """The sum of this batch is above the largest float16, and its mean is log(20)."""
    steps = 40_000
    metadata = BatchMetadata(torch.arange(1), targets=torch.zeros(1, steps, dtype=torch.int64))
    values = torch.zeros(steps, 20, dtype=dtype, requires_grad=True)
    loss = StepScores(values, torch.tensor([steps]), range(20), metadata=metadata).loss()
    assert loss.dtype is torch.float32
    torch.testing.assert_close(loss, torch.tensor(20.0).log(), rtol=torch.finfo(dtype).eps, atol=0)
    torch.autograd.backward(loss)
    assert values.grad is not None
    torch.testing.assert_close(values.grad[:, 0].float() * steps, torch.full((steps,), -0.95), rtol=0.01, atol=0)


def test_losses_of_micro_batches_add_up() -> None:
    """Losses divided by the weight of the whole batch sum to its loss, unlike means of means."""
    targets = torch.tensor([0, 1, IGNORED, 1, 0])
    values = torch.randn(5, 2)
    whole = Scores(values, range(2), metadata=BatchMetadata(torch.arange(5), targets=targets))
    parts = [
        Scores(values[i:j], range(2), metadata=BatchMetadata(torch.arange(j - i), targets=targets[i:j]))
        for i, j in ((0, 2), (2, 5))
    ]
    weight = sum((part.metadata.weight for part in parts), torch.tensor(0))
    assert weight == whole.metadata.weight == 4
    torch.testing.assert_close(sum(part.loss(over=weight) for part in parts), whole.loss())


def test_loss_without_targets_of_weight_is_zero() -> None:
    """A batch in which no row has a target gives 0 instead of NaN."""
    metadata = BatchMetadata(torch.arange(2), targets=torch.tensor([IGNORED] * 2))
    scores = Scores(torch.randn(2, 3), range(3), metadata=metadata)
    assert scores.loss() == scores.loss(over=metadata.weight) == scores.loss(over=0.0) == 0


def test_missing_and_invalid_targets_raise() -> None:
    """The error has the row id of the first invalid target, and a fix."""
    with pytest.raises(
        TargetError, match="the loss needs one target per row, but the batch has no targets; pass inputs"
    ):
        Scores(torch.zeros(2, 3), range(3)).loss()
    with pytest.raises(TargetError, match="the loss needs one target per row, but the batch has one class id per step"):
        Scores(torch.zeros(2, 3), range(3), metadata=BatchMetadata(torch.arange(2), torch.zeros(2, 4).long())).loss()
    with pytest.raises(TargetError, match="the loss needs one target per step, but the batch has one class id per row"):
        make_step_scores(torch.tensor([1, 2])).loss()
    with pytest.raises(TargetError, match="targets must be classes from 0 to 4, got 5 in row 1; increase the number"):
        make_step_scores(torch.tensor([[1, 1, 1], [5, 0, 0]])).loss()
    metadata = BatchMetadata(torch.tensor([8, 9]), targets=torch.tensor([0, 3]))
    with pytest.raises(TargetError, match="from 0 to 2, got 3 in row 9"):
        Scores(torch.zeros(2, 3), range(3), metadata=metadata).loss()


def test_predictions_leave_out_steps_outside_the_answer_mask() -> None:
    """For example bos, eos, and all but the first token of a word."""
    answer_mask = torch.tensor([[False, True, True], [True, True, True]])
    metadata = BatchMetadata(torch.tensor([4, 2]), answer_mask=answer_mask)
    values = torch.eye(4)
    scores = StepScores(values, LENGTHS, ["a", "b", "c", "d"], metadata=metadata)
    unmasked = dict(StepScores(values, LENGTHS, ["a", "b", "c", "d"]).rows())
    assert dict(scores.rows()) == {4: unmasked[0][1:], 2: unmasked[1]}


def test_predictions_leave_out_fillers() -> None:
    """Rows that only fill the batch up belong to no input."""
    metadata = BatchMetadata(torch.tensor([-1, 7]))
    assert dict(Scores(torch.eye(2), range(2), metadata=metadata).rows()) == {7: 1}
    assert dict(StepScores(torch.eye(4), LENGTHS, range(4), metadata=metadata).rows()).keys() == {7}
