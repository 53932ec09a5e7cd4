"""Losses equal those of torch over the rows that have a target, and the plain loop over real rows in float64."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pipeline import ClassifyMultiLabel, MultiLabelScores, Pooled, StepScores, Values, sum_over_ranks
from pipeline.data.loss_options import Reduction
from pipeline.data.losses import RegressionLoss
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.errors import OptionError, TargetError
from support.rank_losses import CLASSES, compute_gradient, draw, make_scores
from support.ranked import run_on_ranks
from support.untyped import as_any, compile_graph, to_list

REDUCTIONS: list[Reduction] = ["mean", "sum", "none"]
KINDS: list[RegressionLoss] = ["mse", "l1", "huber"]
NAN = torch.nan


def make_metadata(targets: Tensor) -> BatchMetadata:
    """Return metadata with targets."""
    return BatchMetadata(torch.arange(len(targets)), targets)


def make_several(values: Tensor, targets: Tensor) -> MultiLabelScores:
    """Return scores of rows with several classes."""
    halves = values.new_full(values.shape[1:], 0.5)
    return MultiLabelScores(values, range(values.shape[1]), halves, metadata=make_metadata(targets))


def make_values(values: Tensor, targets: Tensor) -> Values:
    """Return predicted numbers."""
    return Values(values, metadata=make_metadata(targets))


WEIGHT = torch.tensor([0.2, 3.0, 1.5], dtype=torch.float64)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_the_focal_loss_is_its_formula(weight: Tensor | None, gamma: float) -> None:
    """(1 - p)^gamma times the cross-entropy; rows without a target have neither loss nor gradient."""
    values = draw(5, 3).requires_grad_()
    known = CLASSES != IGNORED
    chosen = values.softmax(1)[known].gather(1, CLASSES[known].unsqueeze(1)).squeeze(1)
    factors = torch.ones_like(chosen) if weight is None else weight[CLASSES[known]]
    expected = (-factors * (1 - chosen) ** gamma * chosen.log()).sum() / factors.sum()
    found = make_scores(values, CLASSES).loss(weight=weight, focal_gamma=gamma)
    torch.testing.assert_close(found, expected)
    both = (torch.autograd.grad(each, values, retain_graph=True)[0] for each in (found, expected))
    torch.testing.assert_close(*both)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_of_several_classes_is_its_formula(gamma: float) -> None:
    """Each class is right or wrong by itself."""
    values = draw(4, 3).requires_grad_()
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0] * 3, [NAN] * 3, [1.0] * 3], dtype=torch.float64)
    known = ~targets.isnan()
    right = torch.where(targets == 1, values.sigmoid(), 1 - values.sigmoid())[known]
    expected = -((1 - right) ** gamma * right.log()).mean()
    found = make_several(values, targets).loss(focal_gamma=gamma)
    torch.testing.assert_close(found, expected)
    both = (torch.autograd.grad(each, values, retain_graph=True)[0] for each in (found, expected))
    torch.testing.assert_close(*both)


def test_the_focal_loss_of_certain_predictions_has_finite_gradients() -> None:
    """Also for a power below 1, whose derivative at 0 is infinite."""
    values = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    (grad,) = torch.autograd.grad(make_scores(values, torch.tensor([0, 0])).loss(focal_gamma=0.5), values)
    assert grad.isfinite().all()
    assert grad[1].any()
    with pytest.raises(OptionError, match="focal_gamma must be a finite number of 0 or more, got -1"):
        make_scores(values, torch.tensor([0, 0])).loss(focal_gamma=-1)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_class_losses_are_those_of_torch(reduction: Reduction, weight: Tensor | None, label_smoothing: float) -> None:
    """Rows without a target are ignored as by `ignore_index`; the mean is over the weights of the classes."""
    values = draw(5, 3)
    expected = functional.cross_entropy(
        values, CLASSES, weight, ignore_index=IGNORED, reduction=reduction, label_smoothing=label_smoothing
    )
    found = make_scores(values, CLASSES).loss(reduction=reduction, weight=weight, label_smoothing=label_smoothing)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT])
def test_step_losses_are_those_of_torch(reduction: Reduction, weight: Tensor | None) -> None:
    """The loss of each step is in the order of the scores."""
    values, targets = draw(4, 3), torch.tensor([[1, IGNORED, 2], [0, 9, 9]])
    scores = StepScores(values, torch.tensor([3, 1]), range(3), metadata=make_metadata(targets))
    assert scores.packed_targets is not None
    assert to_list(scores.packed_targets[scores.order.reading_order]) == [1, IGNORED, 2, 0]
    expected = functional.cross_entropy(
        values, scores.packed_targets, weight, ignore_index=IGNORED, reduction=reduction
    )
    torch.testing.assert_close(scores.loss(reduction=reduction, weight=weight), expected)


SETS = torch.tensor([[1.0, 0, 1], [NAN, NAN, NAN], [0, 0, 0], [0, 1, 0]], dtype=torch.float64)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("pos_weight", [None, WEIGHT])
def test_multi_label_losses_are_those_of_torch(
    reduction: Literal["mean", "sum"], weight: Tensor | None, pos_weight: Tensor | None
) -> None:
    """Over the rows with a target. The loss of a row is the mean over its classes, so a sum is that of these means."""
    values = draw(4, 3)
    real = [0, 2, 3]
    expected = functional.binary_cross_entropy_with_logits(
        values[real], SETS[real], weight, reduction=reduction, pos_weight=pos_weight
    )
    found = make_several(values, SETS).loss(reduction=reduction, weight=weight, pos_weight=pos_weight)
    torch.testing.assert_close(found, expected if reduction == "mean" else expected / 3)


def test_smoothed_sets_are_closer_to_one_half() -> None:
    """Smoothing by 1 leaves nothing of the targets."""
    values = draw(4, 3)
    smoothed = make_several(values, SETS).loss(label_smoothing=0.2, reduction="none")
    expected = functional.binary_cross_entropy_with_logits(values[0], SETS[0] * 0.8 + 0.1)
    torch.testing.assert_close(smoothed[0], expected)
    assert smoothed[1] == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(), (2,)])
def test_losses_of_numbers_are_those_of_torch(
    reduction: Literal["mean", "sum"], kind: RegressionLoss, size: tuple[int, ...]
) -> None:
    """Over the rows with a target. The loss of a vector is the mean over its numbers."""
    values, targets = draw(5, *size), 3 * draw(5, *size).flip(0)
    targets[1] = NAN
    real = [0, 2, 3, 4]
    losses: dict[str, Callable[..., Tensor]] = {
        "mse": functional.mse_loss,
        "l1": functional.l1_loss,
        "huber": partial(functional.huber_loss, delta=0.7),
    }
    expected = losses[kind](values[real], targets[real], reduction=reduction)
    found = make_values(values, targets).loss(kind, reduction=reduction, delta=0.7)
    torch.testing.assert_close(found, expected / 2 if size and reduction == "sum" else expected)


@given(
    targets=st.lists(st.one_of(st.none(), st.integers(0, 2)), min_size=1, max_size=6),
    cut=st.integers(0, 6),
    kind=st.sampled_from([*KINDS, "class", "sets"]),
)
def test_losses_are_the_loop_over_rows_with_targets_and_add_up(targets: list[int | None], cut: int, kind: Any) -> None:
    """In one batch, and in two micro-batches that are divided by the weight of both."""
    values = draw(len(targets), 3)
    real = [row for row, target in enumerate(targets) if target is not None]
    if kind == "class":
        tensor = torch.tensor([IGNORED if target is None else target for target in targets])
        losses = [-values[row].log_softmax(0)[tensor[row]] for row in real]
    else:
        tensor = torch.tensor([[NAN] * 3 if each is None else [float(each == n) for n in range(3)] for each in targets])
        tensor = tensor.double()
        losses = [loop_over_numbers(values[row], tensor[row], kind) for row in real]
    expected = sum(losses, values.new_zeros(())) / max(len(real), 1)

    def loss(rows: slice, over: Tensor | None) -> Tensor:
        if kind == "class":
            return make_scores(values[rows], tensor[rows]).loss(over=over)
        if kind == "sets":
            return make_several(values[rows], tensor[rows]).loss(over=over)
        return make_values(values[rows], tensor[rows]).loss(kind, over=over)

    weight = make_metadata(tensor).weight
    assert weight == len(real)
    torch.testing.assert_close(loss(slice(None), None), expected)
    parts = [slice(cut), slice(cut, None)] if 0 < cut < len(targets) else [slice(None)]
    torch.testing.assert_close(sum((loss(rows, weight) for rows in parts), values.new_zeros(())), expected)


def loop_over_numbers(values: Tensor, targets: Tensor, kind: str) -> Tensor:
    """Return the mean loss of the numbers of one row, one by one, from the definitions."""
    total = values.new_zeros(())
    for value, target in zip(values, targets, strict=True):
        error = (value - target).abs()
        if kind == "sets":
            total = total - (target * value.sigmoid().log() + (1 - target) * (-value).sigmoid().log())
        elif kind == "l1":
            total = total + error
        else:
            total = total + (error**2 if kind == "mse" else error**2 / 2 if error < 1 else error - 0.5)
    return total / len(values)


@pytest.mark.parametrize("make", [make_values, make_several])
def test_rows_without_a_target_have_no_gradient(make: Callable[[Tensor, Tensor], Any]) -> None:
    """Although their targets are NaN, and NaN times zero is NaN; even if their scores are NaN, too."""
    values = torch.stack([torch.ones(3), torch.full((3,), NAN)]).requires_grad_()
    torch.autograd.backward(make(values, torch.tensor([[0.5] * 3, [NAN] * 3])).loss())
    assert values.grad is not None
    assert values.grad[0].all()
    assert values.grad[0].isfinite().all()
    assert to_list(values.grad[1]) == [0, 0, 0]


@pytest.mark.parametrize("make", [make_values, make_several])
def test_a_batch_without_targets_has_a_loss_of_zero(make: Callable[[Tensor, Tensor], Any]) -> None:
    """In a batch in which all of them are missing, with gradients of zero."""
    values = draw(2, 3).requires_grad_()
    loss = make(values, torch.full((2, 3), NAN, dtype=torch.float64)).loss()
    torch.autograd.backward(loss)
    assert loss == 0
    assert values.grad is not None
    assert not values.grad.any()


def test_steps_of_a_batch_without_targets_have_a_loss_of_zero() -> None:
    """Pad cannot know then that targets are per step."""
    scores = StepScores(draw(4, 3), torch.tensor([3, 1]), range(3), metadata=make_metadata(torch.tensor([IGNORED] * 2)))
    assert scores.loss() == 0
    assert to_list(scores.loss(reduction="none")) == [0] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_scores_of_low_precision_have_losses_in_float32(dtype: torch.dtype) -> None:
    """Targets and weights are not rounded: 1001 would be 1000 in bfloat16."""
    loss = make_values(torch.tensor([1000.0], dtype=dtype), torch.tensor([1001.0])).loss("l1")
    assert (loss.dtype, loss.item()) == (torch.float32, 1)
    several = make_several(torch.zeros(1, 3, dtype=dtype), torch.ones(1, 3)).loss()
    torch.testing.assert_close(several, torch.tensor(2.0).log())
    weight = torch.tensor([1.001, 1.0])
    scores = make_scores(torch.zeros(30_000, 2, dtype=dtype), torch.zeros(30_000).long())
    torch.testing.assert_close(scores.loss(weight=weight), torch.tensor(2.0).log(), rtol=0.01, atol=0)


def test_losses_compile_to_one_graph() -> None:
    """With the values of the eager loss; an invalid class is not reported there."""
    values = draw(5, 3, dtype=torch.float32)
    numbers = values.flip(0).sigmoid()

    def compute(values: Tensor) -> Tensor:
        first = make_scores(values, CLASSES).loss(weight=WEIGHT, label_smoothing=0.1)
        return first + make_several(values, numbers).loss() + make_values(values, numbers).loss("huber", over=3)

    torch.testing.assert_close(compile_graph(compute, backend="eager", fullgraph=True)(values), compute(values))


def test_options_and_targets_that_do_not_fit_raise() -> None:
    """The errors say what to do."""
    values = draw(2, 3)
    with pytest.raises(
        TargetError,
        match=r"needs 3 numbers per row, but the batch has one class id per row; state .* Pad\(targets=Numbers\(3\)\)",
    ):
        make_values(values, torch.tensor([1, 2])).loss()
    with pytest.raises(
        TargetError, match=r"needs one number per row, but the batch has 3 numbers per row; .*=Numbers\(\)\)"
    ):
        make_values(values[:, 0], values).loss()
    with pytest.raises(
        TargetError, match=r"3 numbers per row, but the batch has no targets; .*=MultiLabels\(labels\)\)"
    ):
        MultiLabelScores(values, range(3), torch.ones(3)).loss()
    with pytest.raises(TargetError, match="one target per row, but the batch has 3 numbers per row; pass inputs"):
        make_scores(values, values).loss()
    with pytest.raises(TargetError, match="targets must be sets of classes, as numbers from 0 to 1"):
        make_several(values, values).loss()
    with pytest.raises(OptionError, match="kind must be"):
        make_values(values, values).loss(as_any("l2"))
    with pytest.raises(OptionError, match="reduction must be"):
        make_scores(values, torch.tensor([1, 2])).loss(reduction=as_any("average"))


@pytest.mark.parametrize("over", [{"a": 1}, "x", [1], -1, math.nan, math.inf, torch.ones(2)])
def test_a_divisor_is_one_number(over: Any) -> None:
    """A negative one would train in the wrong direction; several are for several heads."""
    scores = make_scores(torch.zeros(2, 3), torch.tensor([0, 1]))
    with pytest.raises(
        OptionError, match="over must be one number of 0 or more, by which the sum of the losses is div"
    ):
        scores.loss(over=over)
    assert scores.loss(over=torch.tensor([4])).item() == pytest.approx(math.log(3) / 2)


def test_options_that_a_loss_does_not_have_raise() -> None:
    """They were ignored, so that a wrong name of an option changed nothing. Values are checked as well."""
    values = draw(2, 3)
    scores, several = make_scores(values, torch.tensor([1, 2])), make_several(values, torch.ones(2, 3))
    with pytest.raises(OptionError, match="the loss has the options .*, got 'weigth'. Did you mean 'weight'?"):
        as_any(scores).loss(weigth=WEIGHT)
    with pytest.raises(OptionError, match="the loss has the options delta, over, reduction, got 'weight'"):
        as_any(make_values(values, values)).loss(weight=WEIGHT)
    with pytest.raises(OptionError, match="delta must be a finite number above 0, got 0"):
        make_values(values, values).loss("huber", delta=0)
    for each in (scores, several):
        with pytest.raises(OptionError, match="label_smoothing must be a number from 0 to 1, got 2"):
            as_any(each).loss(label_smoothing=2)
        with pytest.raises(OptionError, match="weight must be a tensor with one number for each of 3 classes, got flo"):
            as_any(each).loss(weight=torch.ones(2))
        with pytest.raises(OptionError, match="weight must be a tensor with one number for each of 3 classes, got a l"):
            as_any(each).loss(weight=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("weight", [[-1.0, 1.0, 1.0], [NAN, 1.0, 1.0], [1.0, math.inf, 1.0], [0.0, 0.0, 0.0]])
def test_weights_of_classes_that_train_nothing_useful_are_rejected(weight: list[float]) -> None:
    """A loss that is NaN, falls without end, or is 0 for every prediction."""
    scores, several = make_scores(draw(2, 3), torch.tensor([1, 2])), make_several(draw(2, 3), torch.ones(2, 3))
    for loss, name in ((scores.loss, "weight"), (several.loss, "weight"), (several.loss, "pos_weight")):
        with pytest.raises(OptionError, match=f"^{name} must be finite, at least 0, and not all 0, got \\["):
            as_any(loss)(**{name: torch.tensor(weight)})
    # A class alone may be left out.
    assert scores.loss(weight=torch.tensor([0.0, 1.0, 1.0])).isfinite()


def test_thresholds_do_not_change_the_loss() -> None:
    """They decide predictions only."""
    head = ClassifyMultiLabel(3, 0.9, input_size=2)
    scores = head(Pooled(draw(2, 2, dtype=torch.float32)))
    assert not any(names for _, names in scores.with_values(torch.ones(2, 3)).rows())
    assert [names for _, names in scores.with_values(torch.full((2, 3), 9.0)).rows()] == [[0, 1, 2]] * 2


def test_without_ranks_a_weight_is_its_own_sum() -> None:
    """So a training loop need not ask whether there are ranks."""
    weight = torch.tensor(3)
    assert sum_over_ranks(weight) is weight
    assert sum_over_ranks({"a": weight})["a"] is weight


def test_ranks_have_the_gradients_of_all_rows_together(tmp_path: Path) -> None:
    """Although they have different numbers of rows with a target."""
    factor = torch.ones(3, dtype=torch.float64, requires_grad=True)
    torch.autograd.backward(make_scores(draw(5, 3) * factor, CLASSES).loss())
    assert factor.grad is not None
    for gradient, sums in run_on_ranks(compute_gradient, 2, tmp_path):
        torch.testing.assert_close(torch.tensor(gradient, dtype=torch.float64), factor.grad)
        assert sums == {"a": 4, "b": 1}
