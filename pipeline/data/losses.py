"""Losses of rows and steps that have a target; those without one weigh nothing."""

import math
from collections.abc import Callable, Mapping
from typing import Final, Literal, SupportsFloat, TypeAlias, get_args, overload

import torch
from jaxtyping import Float, Int64
from torch import Tensor, distributed
from torch.nn import functional
from typing_extensions import Unpack

from pipeline.checks.options import check_choice
from pipeline.data.loss_options import (
    ClassLossOptions,
    MultiLabelLossOptions,
    Reduction,
    RegressionLossOptions,
    check_loss_options,
    select_reduction,
)
from pipeline.data.metadata import IGNORED, BatchMetadata, TargetTensor
from pipeline.errors import OptionError, TargetError

# Typed here, because torch's own function is untyped.
_all_reduce: Final[Callable[[Tensor], object]] = getattr(distributed, "all_reduce", torch.clone)


RegressionLoss: TypeAlias = Literal["mse", "l1", "huber"]
"""The losses of numbers: squared error, absolute error, and Huber's, squared near 0 and absolute further away."""


def reduce_losses(
    losses: Float[Tensor, " item"],
    weights: Tensor,
    reduction: Reduction = "mean",
    over: Tensor | float | None = None,
) -> Float[Tensor, " *item"]:
    """Return the mean or sum of losses, or the losses.

    Args:
        losses: the loss of each row or step; 0 for those without a target.
        weights: the weight of each in the mean.
        reduction: the mean, the sum, or no reduction.
        over: a divisor of the sum to use instead of the sum of the weights.

    Raises:
        OptionError: if there is no such reduction, or `over` is no such number.
    """
    check_choice("reduction", reduction, get_args(Reduction))
    _check_over(over)
    if reduction == "none":
        return losses
    # The sum of a long batch in float16 is infinite.
    total = losses.sum(dtype=torch.promote_types(losses.dtype, torch.float32))
    if over is None and reduction == "sum":
        return total
    # Summed as they are: weights of classes are in float32 or more, and True counts as 1.
    weight = weights.sum() if over is None else torch.as_tensor(over, device=total.device)
    # 0 if nothing has a target, not NaN. Not clamp(min=1): weights of classes may add up to less.
    return total / weight.masked_fill(weight == 0, 1)


def _check_over(over: object) -> None:
    """Reject a divisor that is not one number of 0 or more. That in a tensor is not read, which would wait for it."""
    if over is None or torch.compiler.is_compiling():
        return
    if isinstance(over, Tensor):
        is_valid, got = over.numel() == 1, f"a tensor of shape {tuple(over.shape)}"
    else:
        is_valid, got = isinstance(over, SupportsFloat) and 0 <= float(over) < math.inf, f"{over!r:.200}"
    if not is_valid:
        msg = f"over must be one number of 0 or more, by which the sum of the losses is divided, got {got}."
        raise OptionError(msg, over=over)


def cross_entropy(
    values: Float[Tensor, "item classes"],
    targets: Int64[Tensor, " item"],
    row_ids: Int64[Tensor, " batch"],
    locate: Callable[[], Int64[Tensor, " item"]] | None = None,
    **options: Unpack[ClassLossOptions],
) -> Float[Tensor, " *item"]:
    """Return the cross-entropy of scores.

    Args:
        values: the scores before softmax.
        targets: the classes; `IGNORED` for a missing one.
        row_ids: the row ids of the batch, for errors.
        locate: returns the row of each item, for errors; by default each item is a row.
        options: see `ClassLossOptions`.

    Raises:
        OptionError: if the loss does not have an option, or it does not fit.
        TargetError: if a target is not a class.
    """
    classes = values.shape[1]
    check_loss_options(options, ClassLossOptions, classes)
    # On a device, torch's own kernel asserts.
    check_classes(targets, classes, row_ids, locate)
    weight, label_smoothing = options.get("weight"), options.get("label_smoothing", 0.0)
    has_class = targets != IGNORED
    losses = functional.cross_entropy(
        values,
        targets,
        None if weight is None else weight.to(values),
        ignore_index=IGNORED,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    if gamma := options.get("focal_gamma", 0.0):
        # Of the targets themselves, without weights and smoothing. Ignored ones have the probability 1.
        surprise = functional.cross_entropy(values, targets, ignore_index=IGNORED, reduction="none")
        losses = losses * _focus(-torch.expm1(-_to_precise(surprise)), gamma).to(losses.dtype)
    weights = has_class
    if weight is not None:
        # Not in the type of the scores: a sum of weights in bfloat16 has three digits.
        weight = weight.to(values.device, torch.promote_types(weight.dtype, torch.float32))
        weights = weight[targets.masked_fill(~has_class, 0)].masked_fill(~has_class, 0)
    return reduce_losses(losses, weights, **select_reduction(options))


def check_classes(
    targets: Int64[Tensor, " item"],
    classes: int,
    row_ids: Int64[Tensor, " batch"],
    locate: Callable[[], Int64[Tensor, " item"]] | None = None,
) -> None:
    """Reject targets that are no classes. They are read on the CPU only: elsewhere the CPU would wait for the device.

    Args:
        targets: the targets.
        classes: the number of classes.
        row_ids: as in `cross_entropy`.
        locate: as in `cross_entropy`.

    Raises:
        TargetError: naming the row.
    """
    if targets.device.type != "cpu" or torch.compiler.is_compiling():
        return
    # Fast path: the smallest and the largest one, in one operation.
    if not len(targets) or all(0 <= int(end) < classes for end in torch.aminmax(targets)):
        return
    is_invalid = (targets != IGNORED) & ((targets < 0) | (targets >= classes))
    if is_invalid.any():
        item = int(is_invalid.nonzero()[0])
        row_id = int(row_ids[item if locate is None else locate()[item]])
        msg = (
            f"targets must be classes from 0 to {classes - 1}, got {int(targets[item])} in row {row_id}; "
            "increase the number of classes of the head, or build Pad and the head from one Labels."
        )
        raise TargetError(msg, row=row_id, target=int(targets[item]), classes=classes)


def regression_loss(
    values: Float[Tensor, "batch *size"],
    targets: Float[Tensor, "batch *size"],
    kind: RegressionLoss = "mse",
    **options: Unpack[RegressionLossOptions],
) -> Float[Tensor, " *batch"]:
    """Return the loss of numbers; the loss of a vector is the mean over its numbers.

    Args:
        values: the predicted numbers.
        targets: the true numbers; NaN in rows without a target.
        kind: squared error, absolute error, or Huber's.
        options: see `RegressionLossOptions`.

    Raises:
        OptionError: if there is no such loss, or it does not have an option, or one does not fit.
    """
    check_choice("kind", kind, get_args(RegressionLoss))
    check_loss_options(options, RegressionLossOptions)
    missing = _find_missing(targets)
    # The difference is filled and not the loss: NaN times zero is NaN, in gradients too.
    difference = (_to_precise(values) - targets).masked_fill(missing.reshape(-1, *[1] * (values.ndim - 1)), 0)
    if kind == "mse":
        losses = difference.square()
    elif kind == "l1":
        losses = difference.abs()
    else:
        losses = functional.huber_loss(
            difference, torch.zeros_like(difference), reduction="none", delta=options.get("delta", 1.0)
        )
    losses = losses.mean(1) if losses.ndim > 1 else losses
    return reduce_losses(losses, ~missing, **select_reduction(options))


def multi_label_loss(
    values: Float[Tensor, "batch classes"],
    targets: Float[Tensor, "batch classes"],
    **options: Unpack[MultiLabelLossOptions],
) -> Float[Tensor, " *batch"]:
    """Return the binary cross-entropy, as the mean over all classes.

    Args:
        values: the scores before the sigmoid.
        targets: 1 for the classes of a row and 0 for others; NaN in rows without a target.
        options: see `MultiLabelLossOptions`.

    Raises:
        OptionError: if the loss does not have an option, or it does not fit.
        TargetError: if a target is not from 0 to 1.
    """
    check_loss_options(options, MultiLabelLossOptions, values.shape[1])
    # On the CPU only, as above. NaN is neither: a row without a target.
    is_readable = targets.device.type == "cpu" and not torch.compiler.is_compiling()
    if is_readable and bool(((targets < 0) | (targets > 1)).any()):
        msg = "targets must be sets of classes, as numbers from 0 to 1, got others; use MultiLabels(labels)."
        raise TargetError(msg)
    values = _to_precise(values)
    weight, pos_weight = options.get("weight"), options.get("pos_weight")
    label_smoothing = options.get("label_smoothing", 0.0)
    missing = _find_missing(targets)
    known = targets.masked_fill(missing.unsqueeze(1), 0)
    smoothed = known * (1 - label_smoothing) + label_smoothing / 2
    losses = functional.binary_cross_entropy_with_logits(
        values.masked_fill(missing.unsqueeze(1), 0),
        smoothed,
        None if weight is None else weight.to(values),
        reduction="none",
        pos_weight=None if pos_weight is None else pos_weight.to(values),
    )
    if gamma := options.get("focal_gamma", 0.0):
        losses = losses * _focus((known - values.masked_fill(missing.unsqueeze(1), 0).sigmoid()).abs(), gamma)
    return reduce_losses(losses.mean(1).masked_fill(missing, 0), ~missing, **select_reduction(options))


def _focus(error: Tensor, gamma: float) -> Tensor:
    """Return the factor of the focal loss for one minus the probability of the target."""
    # Not 0, at which the derivative of a power below 1 is infinite.
    return error.clamp(min=torch.finfo(error.dtype).tiny) ** gamma


def _to_precise(values: Tensor) -> Tensor:
    """Return values in float32 or more, in which torch computes such losses under autocast, too."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _find_missing(targets: Tensor) -> Tensor:
    return targets.isnan().any(1) if targets.ndim > 1 else targets.isnan()


def get_numbers(metadata: BatchMetadata, values: Tensor, kind: str | None = None) -> Tensor:
    """Return the targets of a batch as numbers of the shape of the values, in float32 or the values' higher precision.

    Args:
        metadata: the metadata of the batch.
        values: the predictions.
        kind: the type of targets to advise; by default `Numbers`.

    Raises:
        TargetError: if the batch has no such targets.
    """
    targets = metadata.targets
    if kind is None and "" in metadata.label_sets:
        msg = (
            "the loss needs numbers, but the targets are sets of classes; end the model with ClassifyMultiLabel, or "
            "state that they are numbers: Pad(targets=Numbers(...))."
        )
        raise TargetError(msg)
    if targets is None or not targets.is_floating_point() or targets.shape != values.shape:
        wanted, size = ("one number", "") if values.ndim == 1 else (f"{values.shape[1]} numbers", values.shape[1])
        msg = (
            f"the loss needs {wanted} per row, but the batch has {describe_targets(metadata)}; state their type: "
            f"Pad(targets={kind or f'Numbers({size})'})."
        )
        raise TargetError(msg)
    return targets.to(torch.promote_types(values.dtype, torch.float32))


@overload
def sum_over_ranks(weight: Tensor) -> Tensor: ...
@overload
def sum_over_ranks(weight: Mapping[str, Tensor]) -> Mapping[str, Tensor]: ...
def sum_over_ranks(weight: Tensor | Mapping[str, Tensor]) -> Tensor | Mapping[str, Tensor]:
    """Return the sum of a weight, or of each of several, over all ranks, in one call of `all_reduce`.

    DDP and FSDP average gradients over ranks, so divide the loss by the weight per rank:
    `loss(over=sum_over_ranks(weight) / world_size)` has the gradients of the loss of all ranks' rows together.

    Args:
        weight: `batch.metadata.weight`, or `weights`, or sums of them over micro-batches, on the device of the ranks'
            backend.

    Returns:
        the sums; without `torch.distributed`, the weight itself.

    Example:
        >>> sum_over_ranks(torch.tensor(3)).item()
        3
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return weight
    stacked = torch.stack([*weight.values()]) if isinstance(weight, Mapping) else weight.clone()
    _all_reduce(stacked)
    return dict(zip(weight, stacked, strict=True)) if isinstance(weight, Mapping) else stacked


def describe_targets(metadata: BatchMetadata) -> str:
    """Describe the targets of a batch, for an error."""
    if metadata.named_targets is not None:
        return f"several by name, {', '.join(metadata.named_targets)} (use Heads, or metadata.select_targets)"
    if metadata.targets is None:
        return "no targets"
    return _describe(metadata.targets)


def _describe(targets: TargetTensor) -> str:
    if targets.is_floating_point():
        return "one number per row" if targets.ndim == 1 else f"{targets.shape[1]} numbers per row"
    return "one class id per row" if targets.ndim == 1 else "one class id per step"
