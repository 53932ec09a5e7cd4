"""The options of losses, and their checks."""

import math
from collections.abc import Mapping
from typing import Literal, TypeAlias, TypedDict

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.checks.options import check_number, check_positive
from pipeline.data.tensors import to_floats
from pipeline.errors import OptionError
from pipeline.text import suggest_name

Reduction: TypeAlias = Literal["mean", "sum", "none"]
"""How the losses of rows or steps become one number, as in torch: `none` returns one loss per row or step."""


class ReductionOptions(TypedDict, total=False):
    """The options of every loss.

    Attributes:
        reduction: the mean, the sum, or `none` for one loss per row or step, 0 where there is no target.
        over: a divisor of the sum to use instead of the number of rows or steps with a target. Pass the weight of a
            whole batch (the sum of `batch.metadata.weight`), so that the losses of its micro-batches add up to the
            loss of the batch. For the same over ranks see `sum_over_ranks`.
    """

    reduction: Reduction
    over: Tensor | float | None


class JointLossOptions(TypedDict, total=False):
    """The options of the loss of several heads.

    Attributes:
        reduction: as in `ReductionOptions`.
        over: a divisor for each head by its name, since each target may be missing in other rows. Pass the sums of
            `batch.metadata.weights` over micro-batches.
    """

    reduction: Reduction
    over: Mapping[str, Tensor | float] | None


class ClassLossOptions(ReductionOptions, total=False):
    """The options of the cross-entropy: those of `torch.nn.functional.cross_entropy`, and that of the focal loss.

    Attributes:
        weight: the weight of each class, such as `labels.class_weights(targets)`; the mean is then over the weights.
            With `over`, which counts rows or steps, it is not.
        label_smoothing: the probability that is spread over all classes.
        focal_gamma: for the focal loss, the power of 1 - p by which each loss is multiplied, where p is the probability
            of the target: items that are already right count less. 0 is the cross-entropy, and 2 the usual choice.

    Source of the focal loss: Lin et al. 2017, "Focal Loss for Dense Object Detection", arXiv:1708.02002. Their alpha is
    `weight`.
    """

    weight: Float[Tensor, " classes"] | None
    label_smoothing: float
    focal_gamma: float


class MultiLabelLossOptions(ReductionOptions, total=False):
    """The options of the binary cross-entropy: those of torch's `BCEWithLogitsLoss`, and that of the focal loss.

    Attributes:
        weight: the weight of each class; as in torch, the mean is still over the number of rows.
        pos_weight: the weight of a class where it is one of the row's.
        label_smoothing: how far targets are moved from 0 and 1 towards one half.
        focal_gamma: as in `ClassLossOptions`; p is the probability that a class is, or is not, one of the row's.
    """

    weight: Float[Tensor, " classes"] | None
    label_smoothing: float
    pos_weight: Float[Tensor, " classes"] | None
    focal_gamma: float


class RegressionLossOptions(ReductionOptions, total=False):
    """The options of the losses of numbers.

    Attributes:
        delta: for Huber's loss, the error up to which it is squared; 1 by default.
    """

    delta: float


def check_loss_options(options: Mapping[str, object], known: type, classes: int | None = None) -> None:
    """Reject options that a loss does not have, which it would ignore, and values that do not fit.

    Raises:
        OptionError: naming the option.
    """
    if torch.compiler.is_compiling():
        return
    names: list[str] = sorted(getattr(known, "__optional_keys__", ()))
    unknown = next((name for name in options if name not in names), None)
    if unknown is not None:
        msg = f"the loss has the options {', '.join(names)}, got {unknown!r}."
        raise OptionError(msg + suggest_name(unknown, names), option=unknown)
    for name in ("weight", "pos_weight"):
        weight = options.get(name)
        if weight is not None and (not isinstance(weight, Tensor) or weight.shape != (classes,)):
            msg = f"{name} must be a tensor with one number for each of {classes} classes, got {describe(weight)}."
            raise OptionError(msg, option=name)
        if weight is not None:
            check_class_weights(name, weight)
    check_number("focal_gamma", options.get("focal_gamma", 0.0), minimum=0)
    check_number("label_smoothing", options.get("label_smoothing", 0.0), minimum=0, maximum=1)
    check_positive("delta", options.get("delta", 1.0))


def check_class_weights(name: str, weight: Tensor) -> None:
    """Reject weights of classes that are negative or not finite, or that are all 0, so that nothing is learned.

    They are read on the CPU only: elsewhere the CPU would wait for the device.

    Raises:
        OptionError: naming the option.
    """
    if weight.device.type != "cpu" or not weight.numel():
        return
    # NaN is both ends, and fits neither.
    smallest, largest = (float(end) for end in torch.aminmax(weight.detach()))
    if not 0 <= smallest <= largest < math.inf or not largest:
        got = str(to_floats(weight.detach().flatten().double()))
        msg = f"{name} must be finite, at least 0, and not all 0, got {got:.200}."
        raise OptionError(msg, option=name)


def select_reduction(options: ReductionOptions) -> ReductionOptions:
    """Return only the options of every loss."""
    return {"reduction": options.get("reduction", "mean"), "over": options.get("over")}
