"""Dot-product attention by torch's fused kernels, with second derivatives, and with zeros for queries without keys."""

from collections.abc import Callable, Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pipeline.functional.transforms import are_functions_transformed, name_transform


def dot_product_attention(
    query: Float[Tensor, "batch query inner"],
    key: Float[Tensor, "batch key inner"],
    values: Float[Tensor, "batch key hidden"],
    mask: Bool[Tensor, "#batch #query key"],
) -> Float[Tensor, "batch query hidden"]:
    """Return the mean of the values, weighted by softmax(query . key) over the keys where `mask` is True.

    A query whose mask is False everywhere gives zeros. Memory is linear in the number of steps, because scores are
    computed in tiles. Second derivatives, forward-mode differentiation and `torch.func` compute all scores at once.

    Source: Dao et al. 2022, "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
    arXiv:2205.14135, the algorithm behind torch's kernels.

    Example:
        >>> ones = torch.ones(1, 2, 3)
        >>> dot_product_attention(ones, ones, ones, torch.tensor([[[True, False], [False, False]]]))[0, :, 0].tolist()
        [1.0, 0.0]
    """
    # For a fully masked query some of torch's kernels give NaN and others 0: let it attend to all keys, then fill it.
    fully_masked = ~mask.any(-1, keepdim=True)
    return _call_fused(query, key, values, mask | fully_masked).masked_fill(fully_masked, 0)


def causal_dot_product_attention(
    query: Float[Tensor, "batch time inner"],
    key: Float[Tensor, "batch time inner"],
    values: Float[Tensor, "batch time hidden"],
) -> Float[Tensor, "batch time hidden"]:
    """Return `dot_product_attention` of each step over all earlier steps; the first step attends to itself only.

    Queries are shifted by one step against the keys. Then the mask is the lower triangle that torch's kernels know,
    and no mask is stored.

    Example:
        >>> steps = torch.tensor([[[1.0], [3.0], [5.0]]])
        >>> causal_dot_product_attention(torch.zeros(1, 3, 1), steps, steps).flatten().tolist()
        [1.0, 1.0, 2.0]
    """
    contexts = _call_fused(query[:, 1:], key[:, :-1], values[:, :-1], None)
    return torch.cat([values[:, :1], contexts], dim=1)


def _call_fused(query: Tensor, key: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Call torch's fused kernel, with a causal mask if there is no other, and with second derivatives."""
    if torch.compiler.is_compiling():
        return _call_torch(query, key, values, mask)
    if are_functions_transformed():
        # Of torch's kernels only this one is a sequence of operations that `torch.func` can transform.
        with sdpa_kernel(SDPBackend.MATH):
            return _call_torch(query, key, values, mask)
    if not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, values))):
        return _call_torch(query, key, values, mask)
    return _apply_fused(query, key, values, mask)


def _call_torch(query: Tensor, key: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    return scaled_dot_product_attention(
        query.unsqueeze(1),
        key.unsqueeze(1),
        values.unsqueeze(1),
        attn_mask=None if mask is None else mask.unsqueeze(1),
        is_causal=mask is None,
        scale=1.0,
    ).squeeze(1)


class _FusedAttention(torch.autograd.Function):
    """Torch's fused kernel, whose backward pass is torch's own, unless it will be differentiated itself.

    Torch's backward kernels have no derivative. So a second derivative computes the contexts again with all scores.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, query: Tensor, key: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return the contexts, and keep the graph of torch's kernel for the backward pass."""
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_(tensor.requires_grad) for tensor in (query, key, values)]
            contexts = _call_torch(inputs[0], inputs[1], inputs[2], mask)
        save: Callable[..., None] = ctx.save_for_backward
        save(query, key, values, mask)
        setattr(ctx, "inner", (inputs, contexts))  # noqa: B010 - torch does not declare the attributes of a context
        return contexts.detach()

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        saved: tuple[Tensor, Tensor, Tensor, Tensor | None] = getattr(ctx, "saved_tensors")  # noqa: B009
        inner: tuple[list[Tensor], Tensor] = getattr(ctx, "inner")  # noqa: B009
        inputs, contexts = inner
        # With `create_graph=True` gradients are enabled here, and every operation must be differentiable.
        with_graph = torch.is_grad_enabled()
        if with_graph or name_transform(*gradients):
            with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
                inputs = separate(saved[:3])
                contexts = _call_torch(inputs[0], inputs[1], inputs[2], saved[3])
        needed = [tensor for tensor in inputs if tensor.requires_grad]
        # The inner graph is freed with this context. Until then a second pass through a retained graph needs it.
        found = iter(torch.autograd.grad(contexts, needed, gradients, retain_graph=True, create_graph=with_graph))
        return *(next(found) if tensor.requires_grad else None for tensor in inputs), None


def separate(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return views, each a node of its own in the graph.

    Queries and keys may be one tensor, or one computed from the other. By a view, each has its own gradient only.
    """
    return [tensor.view_as(tensor) for tensor in tensors]


_apply_fused: Final[Callable[..., Tensor]] = getattr(_FusedAttention, "apply")  # noqa: B009
"""`_FusedAttention.apply` with a type."""
