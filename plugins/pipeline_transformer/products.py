"""Linear layers by oneDNN's product, which on a CPU in float32 is faster than that of torch's layer."""

from collections.abc import Callable
from operator import attrgetter
from typing import Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from pipeline.extend import has_forward_hooks, name_transform

_Product: TypeAlias = Callable[[Tensor, Tensor, Tensor | None, str, list[float], str], Tensor]

_LEAST_WORK: Final = 2**24
"""Multiplications below which the call takes longer than torch's, by its preparations."""


def _find_product() -> _Product | None:
    """Return oneDNN's linear layer; None in a build of torch without it."""
    try:
        found: _Product = attrgetter("mkldnn._linear_pointwise.default")(torch.ops)
    except AttributeError:
        return None
    return found


_PRODUCT: Final = _find_product()


def apply_linear(layer: nn.Module, steps: Float[Tensor, "*axes feature"]) -> Float[Tensor, "*axes output"]:
    """Return what a linear layer returns, up to rounding.

    On an AMD EPYC processor the forward product takes 0.85 to 0.95 of the time of torch's, and that of the gradient of
    the input 0.8 to 0.9. The gradient of the weights is torch's: there it is the faster one.

    Args:
        layer: the layer. One of another class than `nn.Linear`, or one with hooks, is called.
        steps: the input.
    """
    # Parametrizations, quantization and the exact layers of deterministic inference change the class.
    if type(layer) is nn.Linear and _PRODUCT is not None and _suits(layer, steps) and not has_forward_hooks(layer):
        return _apply(steps, layer.weight, layer.bias)
    result: Tensor = layer(steps)
    return result


def _suits(layer: nn.Linear, steps: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()
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
        assert _PRODUCT is not None
        save: Callable[..., None] = ctx.save_for_backward
        save(steps, weight)
        return _PRODUCT(steps, weight, bias, "none", [], "")

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
        by_weight = gradient.mT @ steps if needed[1] else None
        return by_steps, by_weight, gradient.sum(-2) if needed[2] else None


_apply: Final[Callable[[Tensor, Tensor, Tensor | None], Tensor]] = getattr(_Linear, "apply")  # noqa: B009
"""`_Linear.apply` with a type. It is differentiable any number of times."""
