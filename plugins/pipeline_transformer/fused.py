"""The parts of a layer between its products, in one pass each: bias, activation and dropout; residual and norm.

On a CPU in float32, compiled kernels compute them if they exist; elsewhere torch's operations do, with the same random
numbers.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from jaxtyping import Float, Int16
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm, relu

from pipeline.extend import draw_bits, drop, find_last_kept, has_hooks, name_transform
from pipeline_transformer import native_layers
from pipeline_transformer.native_layers import KernelActivation


class _Context(Protocol):
    saved_tensors: Sequence[Tensor | None]
    needs_input_grad: Sequence[bool]
    activation: KernelActivation
    dropout: float
    eps: float
    overwrite_gradient: bool

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...
    def set_materialize_grads(self, value: bool, /) -> None: ...


def activate(
    values: Float[Tensor, "*axes feature"],
    bias: Float[Tensor, " feature"] | None,
    activation: KernelActivation,
    dropout: float,
    *,
    overwrite_gradient: bool = False,
) -> Float[Tensor, "*axes feature"]:
    """Return the activations of `values + bias`, with dropout.

    Derivatives of any order exist.

    Args:
        values: the values.
        bias: is added to them; None for nothing.
        activation: "gelu" or "relu".
        dropout: the probability with which a number becomes 0; the others are divided by 1 - dropout.
        overwrite_gradient: whether the memory of the gradient of the result may be used for that of the values. It may
            if the result has one use, whose gradient is a new tensor, such as that of a linear layer.
    """
    if native_layers.computes(values):
        return _activate(values, bias, activation, dropout, overwrite_gradient)
    active = _activate_with_mask(values, bias, activation, None)
    return drop(active, dropout) if dropout else active


def _activate_with_mask(
    values: Tensor, bias: Tensor | None, activation: KernelActivation, mask: Tensor | None
) -> Tensor:
    biased = values if bias is None else values + bias
    active = gelu(biased) if activation == "gelu" else relu(biased)
    return active if mask is None else active * mask


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        values: Tensor,
        bias: Tensor | None,
        activation: KernelActivation,
        dropout: float,
        overwrite_gradient: bool,
    ) -> Tensor:
        """Return the activations."""
        values, bias = values.contiguous(), None if bias is None else bias.contiguous()
        results = torch.empty_like(values)
        bits = draw_bits(values.shape) if dropout else None
        native_layers.run(
            "activate",
            values,
            activation=activation,
            dropout=dropout,
            values=values,
            bias=bias,
            bits=bits,
            results=results,
        )
        ctx.save_for_backward(values, bias, bits)
        ctx.activation, ctx.dropout, ctx.overwrite_gradient = activation, dropout, overwrite_gradient
        return results

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of the values and the bias."""
        values, bias, bits = ctx.saved_tensors
        activation, dropout = ctx.activation, ctx.dropout
        assert values is not None
        if torch.is_grad_enabled() or name_transform(*gradients):
            mask = None if bits is None else make_mask(bits, dropout, values.dtype)

            def compute(values: Tensor | None, bias: Tensor | None) -> tuple[Tensor, ...]:
                assert values is not None
                return (_activate_with_mask(values, bias, activation, mask),)

            return *_differentiate(compute, (values, bias), gradients, ctx.needs_input_grad[:2]), None, None, None
        d_results = gradients[0].contiguous()
        d_values = d_results if ctx.overwrite_gradient else torch.empty_like(values)
        d_bias = torch.empty_like(bias) if bias is not None and ctx.needs_input_grad[1] else None
        native_layers.run(
            "activate_back",
            values,
            activation=activation,
            dropout=dropout,
            values=values,
            bias=bias,
            bits=bits,
            d_results=d_results,
            d_values=d_values,
            d_bias=d_bias,
        )
        return d_values, d_bias, None, None, None


_activate: Final[Callable[..., Tensor]] = getattr(_Activate, "apply")  # noqa: B009
"""`_Activate.apply` with a type."""


def add(
    residual: Float[Tensor, "*axes feature"],
    values: Float[Tensor, "*axes feature"],
    dropout: float,
    *,
    bias: Float[Tensor, " feature"] | None = None,
) -> Float[Tensor, "*axes feature"]:
    """Return `residual + values + bias`, with dropout of `values + bias`; derivatives of any order exist."""
    if (dropout or bias is not None) and native_layers.computes(values):
        return _add_and_normalize(residual, values, bias, None, None, dropout, 0.0)[0]
    biased = values if bias is None else values + bias
    return residual + (drop(biased, dropout) if dropout else biased)


def add_and_normalize(
    residual: Float[Tensor, "*axes feature"],
    values: Float[Tensor, "*axes feature"],
    norm: nn.Module,
    dropout: float,
    *,
    bias: Float[Tensor, " feature"] | None = None,
) -> tuple[Float[Tensor, "*axes feature"], Float[Tensor, "*axes feature"]]:
    """Return `residual + values + bias`, with dropout of `values + bias`, and the norm of the sum.

    Derivatives of any order exist.

    Args:
        residual: the residual.
        values: the values that are added.
        norm: the norm. One of another class than `nn.LayerNorm`, or one with hooks, is called.
        dropout: the probability with which a value becomes 0; the others are divided by 1 - dropout.
        bias: is added to the values; None for nothing.
    """
    if (
        type(norm) is nn.LayerNorm
        and norm.weight.dtype is torch.float32
        and native_layers.computes(values)
        and not has_hooks(norm)
    ):
        sums, normalized = _add_and_normalize(residual, values, bias, norm.weight, norm.bias, dropout, norm.eps)
        return sums, normalized
    sums = add(residual, values, dropout, bias=bias)
    return sums, norm(sums)


def _normalize(sums: Tensor, weight: Tensor | None, shift: Tensor | None, eps: float) -> tuple[Tensor, ...]:
    return (sums,) if weight is None else (sums, layer_norm(sums, weight.shape, weight, shift, eps))


class _AddAndNormalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: _Context,
        residual: Tensor,
        values: Tensor,
        bias: Tensor | None,
        weight: Tensor | None,
        shift: Tensor | None,
        dropout: float,
        eps: float,
    ) -> tuple[Tensor, ...]:
        """Return the sum, and its norm if there is a weight."""
        residual, values, bias = residual.contiguous(), values.contiguous(), None if bias is None else bias.contiguous()
        sums = torch.empty_like(values)
        bits = draw_bits(values.shape) if dropout else None
        results, means, scales = None, None, None
        if weight is not None:
            results = torch.empty_like(values)
            means, scales = (values.new_empty(len(values)) for _ in range(2))
        native_layers.run(
            "normalize",
            values,
            dropout=dropout,
            eps=eps,
            residual=residual,
            values=values,
            bias=bias,
            bits=bits,
            weight=weight,
            shift=shift,
            sums=sums,
            results=results,
            means=means,
            scales=scales,
        )
        ctx.save_for_backward(sums, bias, weight, shift, bits, means, scales)
        ctx.dropout, ctx.eps = dropout, eps
        ctx.set_materialize_grads(False)
        return (sums,) if results is None else (sums, results)

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the residual, the values, the bias, the weight and the shift."""
        sums, bias, weight, shift, bits, means, scales = ctx.saved_tensors
        dropout, eps = ctx.dropout, ctx.eps
        assert sums is not None
        d_sums, d_results = (*gradients, None)[:2]
        if torch.is_grad_enabled() or name_transform(*(each for each in gradients if each is not None)):

            def compute(sums: Tensor, weight: Tensor | None, shift: Tensor | None) -> tuple[Tensor, ...]:
                return _normalize(sums, weight, shift, eps)

            needed = (True, *ctx.needs_input_grad[3:5])
            d_residual, d_weight, d_shift = _differentiate(compute, (sums, weight, shift), gradients, needed)
            d_values = d_residual
            if bits is not None and d_residual is not None:
                d_values = d_residual * make_mask(bits, dropout, sums.dtype)
            d_bias = d_values.sum(0) if d_values is not None and ctx.needs_input_grad[2] else None
            return d_residual, d_values, d_bias, d_weight, d_shift, None, None
        d_residual = torch.empty_like(sums)
        d_values = d_residual if bits is None else torch.empty_like(sums)
        d_bias, d_weight, d_shift = (
            torch.empty_like(tensor) if tensor is not None and need else None
            for tensor, need in zip((bias, weight, shift), ctx.needs_input_grad[2:5], strict=True)
        )
        if d_results is None:
            d_weight, d_shift = None, None
        native_layers.run(
            "normalize_back",
            sums,
            dropout=dropout,
            bits=bits,
            weight=weight,
            sums=sums,
            means=means,
            scales=scales,
            d_results=None if d_results is None else d_results.contiguous(),
            d_sums=None if d_sums is None else d_sums.contiguous(),
            d_residual=d_residual,
            d_values=None if bits is None else d_values,
            d_bias=d_bias,
            d_weight=d_weight,
            d_shift=d_shift,
        )
        return d_residual, d_values, d_bias, d_weight, d_shift, None, None


_add_and_normalize: Final[Callable[..., tuple[Tensor, ...]]] = getattr(_AddAndNormalize, "apply")  # noqa: B009
"""`_AddAndNormalize.apply` with a type."""


def make_mask(bits: Int16[Tensor, "*axes"], dropout: float, dtype: torch.dtype) -> Float[Tensor, "*axes"]:
    """Return the numbers by which dropout multiplied: 0, or 1 / (1 - dropout)."""
    return (bits <= find_last_kept(dropout)).to(dtype).mul_(1 / (1 - dropout))


def _differentiate(
    compute: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor | None],
    gradients: Sequence[Tensor | None],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return differentiable gradients: compute the results again, with torch's operations."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # A view is a node of its own in the graph.
        own = [None if tensor is None else tensor.view_as(tensor) for tensor in inputs]
        results = compute(*own)
    pairs = [(one, other) for one, other in zip(results, gradients, strict=True) if other is not None]
    wanted = [tensor for tensor, need in zip(own, needed, strict=True) if need and tensor is not None]
    found = iter(
        torch.autograd.grad(
            [one for one, _ in pairs],
            wanted,
            [other for _, other in pairs],
            create_graph=create_graph,
            allow_unused=True,
        )
    )
    return [next(found) if need else None for need in needed]
