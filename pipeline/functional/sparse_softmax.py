"""Sparse alternatives to the softmax: sparsemax and 1.5-entmax, exact, along the last axis."""

from collections.abc import Callable
from typing import Final, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pipeline.functional.transforms import name_transform

Normalize: TypeAlias = Literal["softmax", "sparsemax", "entmax15"]
"""How scores become weights that sum to 1."""

_LOWEST: Final = -4.0
"""A score below every support: relative to the highest score, that of sparsemax ends at -1, and that of 1.5-entmax at
-2. Not -2 itself, which rounding could lift into the support."""


def sparsemax(scores: Float[Tensor, "*axes key"], mask: Bool[Tensor, "*#axes key"]) -> Float[Tensor, "*axes key"]:
    """Return the projection of scores onto the probabilities: the nearest ones, many of which are 0.

    Masked scores get 0, and may hold anything. If all are masked, all get 0.

    Source: Martins and Astudillo 2016, "From Softmax to Sparsemax: A Sparse Model of Attention and Multi-Label
    Classification", arXiv:1602.02068, algorithm 1; the gradient is that of their section 2.5.

    Example:
        >>> sparsemax(torch.tensor([1.0, 0.5, -1.0]), torch.tensor([True, True, True])).tolist()
        [0.75, 0.25, 0.0]
    """
    return _normalize(scores, mask, _sparsemax, _apply_sparsemax)


def entmax15(scores: Float[Tensor, "*axes key"], mask: Bool[Tensor, "*#axes key"]) -> Float[Tensor, "*axes key"]:
    """Return the 1.5-entmax of scores: between softmax and sparsemax, with zeros for low scores, but smooth.

    Masked scores get 0, and may hold anything. If all are masked, all get 0.

    Source: Peters, Niculae and Martins 2019, "Sparse Sequence-to-Sequence Models", arXiv:1905.05702, algorithm 2; the
    gradient is that of their proposition 2.

    Example:
        >>> weights = entmax15(torch.tensor([1.0, 0.5, -3.0]), torch.tensor([True, True, True]))
        >>> [round(weight, 4) for weight in weights.tolist()]
        [0.674, 0.326, 0.0]
    """
    return _normalize(scores, mask, _entmax15, _apply_entmax15)


_Function: TypeAlias = Callable[[Tensor], Tensor]


def _normalize(scores: Tensor, mask: Tensor, plain: _Function, custom: _Function) -> Tensor:
    """Call a function of scores whose maximum is 0; masked ones are below its support."""
    if not scores.shape[-1]:
        return scores
    wide = scores.float() if scores.dtype.itemsize < 4 else scores
    filled = wide.masked_fill(~mask, torch.finfo(wide.dtype).min)
    # Neither function changes if a number is added to all scores, so the maximum needs no gradient.
    shifted = (filled - filled.detach().amax(-1, keepdim=True)).masked_fill(~mask, _LOWEST).clamp(min=_LOWEST)
    # Graphs and transforms use torch's own derivatives: a custom function would break them.
    function = plain if torch.compiler.is_compiling() or name_transform() else custom
    return function(shifted).masked_fill(~mask, 0).to(scores.dtype)


def _count(sorted_scores: Tensor) -> Tensor:
    return torch.arange(1, sorted_scores.shape[-1] + 1, device=sorted_scores.device, dtype=sorted_scores.dtype)


def _sparsemax(scores: Tensor) -> Tensor:
    ordered = scores.sort(dim=-1, descending=True).values
    total, count = ordered.cumsum(-1), _count(ordered)
    # At least one, also if NaN compares false: the weights are NaN then.
    support = (1 + count * ordered > total).sum(-1, keepdim=True).clamp(min=1)
    threshold = (total.gather(-1, support - 1) - 1) / support
    return (scores - threshold).clamp(min=0)


def _entmax15(scores: Tensor) -> Tensor:
    halved = scores / 2
    ordered = halved.sort(dim=-1, descending=True).values
    count = _count(ordered)
    mean = ordered.cumsum(-1) / count
    variance = ordered.square().cumsum(-1) / count - mean.square()
    threshold = mean - (1 / count - variance).clamp(min=0).sqrt()
    support = (threshold <= ordered).sum(-1, keepdim=True).clamp(min=1)
    return (halved - threshold.gather(-1, support - 1)).clamp(min=0).square()


class _Sparsemax(torch.autograd.Function):
    """Sparsemax, whose gradient is that of the support minus its mean."""

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor) -> Tensor:
        """Return the weights."""
        weights = _sparsemax(scores)
        save: Callable[..., None] = ctx.save_for_backward
        save(weights > 0)
        return weights

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        """Return the gradient of the scores."""
        (support,) = _get_saved(ctx)
        inside = gradients[0] * support
        return (inside - inside.sum(-1, keepdim=True) / support.sum(-1, keepdim=True)) * support


class _Entmax15(torch.autograd.Function):
    """1.5-entmax, whose Jacobian is diag(s) - s s^T / sum(s) for s, the square roots of the weights."""

    @staticmethod
    def forward(ctx: FunctionCtx, scores: Tensor) -> Tensor:
        """Return the weights."""
        weights = _entmax15(scores)
        save: Callable[..., None] = ctx.save_for_backward
        save(weights)
        return weights

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        """Return the gradient of the scores."""
        (weights,) = _get_saved(ctx)
        # The root of 0 has no derivative, which the second derivative would need.
        support = weights > 0
        root = torch.where(support, weights, 1).sqrt() * support
        inside = gradients[0] * root
        return inside - root * inside.sum(-1, keepdim=True) / root.sum(-1, keepdim=True)


def _get_saved(ctx: FunctionCtx) -> tuple[Tensor, ...]:
    saved: tuple[Tensor, ...] = getattr(ctx, "saved_tensors")  # noqa: B009 - torch does not declare it
    return saved


_apply_sparsemax: Final[_Function] = getattr(_Sparsemax, "apply")  # noqa: B009
_apply_entmax15: Final[_Function] = getattr(_Entmax15, "apply")  # noqa: B009
"""Both with a type."""
