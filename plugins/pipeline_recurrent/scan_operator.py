"""A scan as an operator of torch, `pipeline::linear_scan`: what a graph holds in place of a scan over packed rows.

To a compiler the operator is opaque. It works on padded rows: where a row begins and where it is padding, the factors
are 0. Importing this module registers the operator.
"""

from collections.abc import Callable
from typing import Final, Protocol, cast

import torch
from torch import Tensor

from pipeline.extend import PackingOrder
from pipeline_recurrent.scan import scan

SCAN: Final = "pipeline::linear_scan"
"""The name of the operator."""


def scan_padded(keep: Tensor, add: Tensor, *, reverse: bool) -> Tensor:
    """Return h[t] = keep[t] h[t - 1] + add[t] along the time axis, or h[t] = keep[t] h[t + 1] + add[t] if `reverse`.

    Args:
        keep: the factors, batch x time x feature; with a first axis of 2 for real and imaginary parts if complex.
        add: the terms, of the same shape.
        reverse: the direction.
    """
    return _call(keep, add, reverse)


def _flatten(values: Tensor) -> tuple[Tensor, PackingOrder]:
    """Return padded values as packed ones, all steps of a time together, and complex if they have two parts."""
    if values.ndim == 4:
        values = torch.complex(values[0], values[1])
    batch, time = values.shape[:2]
    lengths = torch.full((batch,), time, device="cpu")
    return values.transpose(0, 1).reshape(batch * time, -1), PackingOrder(lengths, values.device)


def _restore(flat: Tensor, like: Tensor) -> Tensor:
    """Return packed values in the shape of padded ones, in memory of their own."""
    batch, time, features = like.shape[-3:]
    values = flat.view(time, batch, features).transpose(0, 1)
    return torch.stack([values.real, values.imag]) if like.ndim == 4 else values.contiguous()


def _compute(keep: Tensor, add: Tensor, reverse: bool) -> Tensor:
    factors, order = _flatten(keep)
    return _restore(scan(factors, _flatten(add)[0], order, reverse=reverse), add).clone()


def _fake(keep: Tensor, add: Tensor, reverse: bool) -> Tensor:
    """Return a result without values."""
    del keep, reverse
    return add.new_empty(add.shape)


class _Context(Protocol):
    """What an operator keeps for its backward pass; torch leaves the type open."""

    saved_tensors: tuple[Tensor, Tensor]
    reverse: bool
    save_for_backward: Callable[..., None]


def _keep(ctx: _Context, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    """Keep the factors and the states for the backward pass."""
    ctx.save_for_backward(inputs[0], output)
    ctx.reverse = inputs[2]


def _backward(ctx: _Context, by_states: Tensor) -> tuple[Tensor, Tensor, None]:
    """Return the gradients of the factors and the terms: a scan in the other direction, as in `scan`."""
    keep, states = ctx.saved_tensors
    by_add = scan_padded(_conjugate(_shift(keep, reverse=not ctx.reverse)), by_states, reverse=not ctx.reverse)
    before = _conjugate(_shift(states, reverse=ctx.reverse))
    if keep.ndim == 3:
        return by_add * before, by_add, None
    (a, b), (c, d) = by_add.unbind(), before.unbind()
    return torch.stack([a * c - b * d, a * d + b * c]), by_add, None


def _conjugate(values: Tensor) -> Tensor:
    return values if values.ndim == 3 else torch.stack([values[0], -values[1]])


def _shift(values: Tensor, *, reverse: bool) -> Tensor:
    """Return for each step the values of the one before it, or after it if `reverse`; else zeros."""
    zeros = torch.zeros_like(values[..., :1, :])
    time = values.shape[-2]
    parts = [values[..., 1:, :], zeros] if reverse else [zeros, values[..., : time - 1, :]]
    return torch.cat(parts, dim=-2)[..., :time, :]


# Torch leaves the types of operators and of their registration open.
_make_operator: Callable[..., Callable[..., object]] = getattr(torch.library, "custom_op")  # noqa: B009


def _register() -> Callable[[Tensor, Tensor, bool], Tensor]:
    """Register the operator, and return it."""
    operator = _make_operator(
        SCAN, _compute, mutates_args=(), schema="(Tensor keep, Tensor add, bool reverse) -> Tensor"
    )
    register_fake: Callable[..., object] = getattr(operator, "register_fake")  # noqa: B009
    register_fake(_fake)
    register_autograd: Callable[..., object] = getattr(operator, "register_autograd")  # noqa: B009
    register_autograd(_backward, setup_context=_keep)
    return cast("Callable[[Tensor, Tensor, bool], Tensor]", operator)


_call = _register()
