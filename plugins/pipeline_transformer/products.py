"""Linear layers by the fastest product of a CPU in float32: that of oneDNN, or of MKL without a bias."""

import platform
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeAlias, TypeGuard

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from pipeline.extend import has_hooks, name_transform

_Product: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, str, list[float], str], Tensor]

_LEAST_WORK: Final = 2**24
"""Multiplications below which the call takes longer than torch's, by its preparations."""


_MANY_STEPS: Final = 4096
"""Steps from which on a copy of the gradient of the weights takes little time beside its product."""


def _find_product() -> _Product | None:
    """Return oneDNN's linear layer; None in a build of torch without it, and where torch's own product is faster."""
    has_mkl: Callable[[], bool] = getattr(torch.backends.mkl, "is_available")  # noqa: B009 - untyped
    if has_mkl() and _is_intel():
        return None
    try:
        found: _Product = attrgetter("mkldnn._linear_pointwise.default")(torch.ops)
    except AttributeError:
        return None
    return found


def _is_intel() -> bool:
    """Return whether the processor is one of Intel's; False if it is not known."""
    try:
        found = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        found = platform.processor()
    return "GenuineIntel" in found


_PRODUCT: Final = _find_product()


def apply_linear(layer: nn.Module, steps: Float[Tensor, "*axes feature"]) -> Float[Tensor, "*axes output"]:
    """Return what a linear layer returns, up to rounding.

    On an AMD EPYC processor oneDNN's forward product takes 0.85 to 0.95 of the time of torch's, and that of the
    gradient of the input 0.8 to 0.9. The gradient of the weights is torch's: there it is the faster one. On an Intel
    processor torch's products, by MKL, take 0.85 to 0.95 of the time of oneDNN's, if the bias is added afterwards.

    Args:
        layer: the layer. One of another class than `nn.Linear`, or one with hooks, is called.
        steps: the input.
    """
    if _suits(layer, steps):
        return _apply(steps, layer.weight, layer.bias)
    result: Tensor = layer(steps)
    return result


def multiply(
    layer: nn.Module, steps: Float[Tensor, "*axes feature"]
) -> tuple[Float[Tensor, "*axes output"], Float[Tensor, " output"] | None]:
    """Return the product of a linear layer, and the bias to add to it; None if it is added, or there is none."""
    if _suits(layer, steps):
        return _apply(steps, layer.weight, None), layer.bias
    return layer(steps), None


def _suits(layer: nn.Module, steps: Tensor) -> TypeGuard[nn.Linear]:
    return (
        # Parametrizations, quantization and the exact layers of deterministic inference change the class.
        type(layer) is nn.Linear
        and not has_hooks(layer)
        and not torch.compiler.is_compiling()
        and steps.ndim == 2
        and steps.device.type == "cpu"
        and steps.dtype is layer.weight.dtype is torch.float32
        and steps.shape[0] * layer.weight.numel() >= _LEAST_WORK
        and not torch.is_autocast_enabled("cpu")
        and name_transform() is None
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, steps: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return the output."""
        save: Callable[..., None] = ctx.save_for_backward
        save(steps, weight)
        if _PRODUCT is not None:
            return _PRODUCT(steps, weight, bias, "none", [], "")
        product = steps @ weight.t()
        return product if bias is None else product.add_(bias)

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the input, the weight and the bias."""
        saved: tuple[Tensor, Tensor] = getattr(ctx, "saved_tensors")  # noqa: B009 - torch does not declare it
        needed: tuple[bool, ...] = getattr(ctx, "needs_input_grad")  # noqa: B009
        (steps, weight), (gradient,) = saved, gradients
        by_steps = None
        if needed[0]:
            # With `create_graph=True` gradients are enabled here, and every operation must be differentiable.
            if _PRODUCT is None or torch.is_grad_enabled() or name_transform(gradient):
                by_steps = gradient @ weight
            else:
                by_steps = _PRODUCT(gradient, weight.t(), None, "none", [], "")
        by_weight = _multiply_turned(gradient, steps) if needed[1] else None
        return by_steps, by_weight, gradient.sum(-2) if needed[2] else None


def _multiply_turned(gradient: Tensor, steps: Tensor) -> Tensor:
    """Return `gradient.mT @ steps`, the gradient of the weights."""
    if _PRODUCT is None and gradient.shape[-1] > steps.shape[-1] and steps.shape[0] >= _MANY_STEPS:
        # MKL takes 0.85 to 0.9 of the time for a wide result than for a tall one. With few steps, the copy costs that.
        return (steps.mT @ gradient).mT.contiguous()
    return gradient.mT @ steps


_apply: Final[Callable[[Tensor, Tensor, Tensor | None], Tensor]] = getattr(_Linear, "apply")  # noqa: B009
"""`_Linear.apply` with a type. It is differentiable any number of times."""
