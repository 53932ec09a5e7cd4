"""Contexts where a score is an inner product: the one place that calls torch's fused attention."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def mixed_by_product(
    query: Float[Tensor, "batch query inner"],
    key: Float[Tensor, "batch key inner"],
    values: Float[Tensor, "batch key hidden"],
    mask: Bool[Tensor, "#batch #query key"],
) -> Float[Tensor, "batch query hidden"]:
    """Values, mixed by the softmax of query . key over the keys that may be attended; zeros where none may.

    The scores are never all there at once: memory grows with the steps, and not with their square.

    There is no derivative of its derivative, as torch says when it is asked for one; inside
    `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)` there is.

    Source: Dao et al. 2022, "FlashAttention", arXiv:2205.14135, for how torch does it.

    Example:
        >>> ones = torch.ones(1, 2, 3)
        >>> mixed_by_product(ones, ones, ones, torch.tensor([[[True, False], [False, False]]]))[0, :, 0].tolist()
        [1.0, 0.0]
    """
    # What torch gives a query with nothing to attend depends on its kernel: here it attends to all, and is cleared.
    nothing = ~mask.any(-1, keepdim=True)
    found = scaled_dot_product_attention(
        query.unsqueeze(1), key.unsqueeze(1), values.unsqueeze(1), attn_mask=(mask | nothing).unsqueeze(1), scale=1.0
    )
    return found.squeeze(1).masked_fill(nothing, 0)


def mixed_before_by_product(
    query: Float[Tensor, "batch time inner"],
    key: Float[Tensor, "batch time inner"],
    values: Float[Tensor, "batch time hidden"],
) -> Float[Tensor, "batch time hidden"]:
    """As `mixed_by_product`, each step attending to all before it, and the first to itself alone.

    Queries moved by one against the keys need no mask, but the triangle that torch's kernels know.

    Example:
        >>> steps = torch.tensor([[[1.0], [3.0], [5.0]]])
        >>> mixed_before_by_product(torch.zeros(1, 3, 1), steps, steps).flatten().tolist()
        [1.0, 1.0, 2.0]
    """
    found = scaled_dot_product_attention(
        query[:, 1:].unsqueeze(1),
        key[:, :-1].unsqueeze(1),
        values[:, :-1].unsqueeze(1),
        is_causal=True,
        scale=1.0,
    )
    return torch.cat([values[:, :1], found.squeeze(1)], dim=1)
