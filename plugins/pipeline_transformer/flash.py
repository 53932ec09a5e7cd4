"""Torch's kernels of exact attention in tiles on a CPU, on rows of one length: they read and write without copies."""

from collections.abc import Callable
from operator import attrgetter
from typing import Final, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline_transformer.layout import Group
from pipeline_transformer.shapes import split_features, unfold_axis
from pipeline_transformer.spec import AttentionForm

_Kernels: TypeAlias = tuple[Callable[..., tuple[Tensor, Tensor]], Callable[..., tuple[Tensor, Tensor, Tensor]]]


def _find_kernels() -> _Kernels | None:
    """Return the kernels of the forward and the backward pass; None in a version of torch without them."""
    name = "_scaled_dot_product_flash_attention_for_cpu"
    try:
        forward: Callable[..., tuple[Tensor, Tensor]] = attrgetter(f"aten.{name}.default")(torch.ops)
        backward: Callable[..., tuple[Tensor, Tensor, Tensor]] = attrgetter(f"aten.{name}_backward.default")(torch.ops)
    except AttributeError:
        return None
    return forward, backward


KERNELS: Final = _find_kernels()
"""The kernels, if torch has them."""


def split_group(
    projected: Float[Tensor, "steps feature"], group: Group, form: AttentionForm
) -> tuple[Float[Tensor, "row shared time heads size"], ...]:
    """Return views of the queries, keys and values of a group; there is one set of keys for all `shared` queries."""
    rows = unfold_axis(projected[group.start : group.stop], 0, (group.rows, group.length))
    sizes = (form.heads * form.size, form.kv_heads * form.size, form.kv_heads * form.size)
    query, key, values = split_features(rows, sizes, dim=-1)
    # Heads h * sharing, ..., h * sharing + sharing - 1 of the queries use head h of the keys.
    return (
        unfold_axis(query, -1, (form.kv_heads, form.sharing, form.size)).permute(3, 0, 2, 1, 4),
        unfold_axis(key, -1, (form.kv_heads, form.size)).transpose(1, 2),
        unfold_axis(values, -1, (form.kv_heads, form.size)).transpose(1, 2),
    )


def _split_contexts(contexts: Tensor, group: Group, form: AttentionForm) -> Tensor:
    rows = unfold_axis(contexts[group.start : group.stop], 0, (group.rows, group.length))
    return unfold_axis(rows, -1, (form.kv_heads, form.sharing, form.size)).permute(3, 0, 2, 1, 4)


def _select_bias(bias: Tensor | None, group: Group, form: AttentionForm, shared: int, like: Tensor) -> Tensor | None:
    if bias is None:
        return None
    own = bias[shared :: form.sharing, : group.length, : group.length].to(like.dtype).unsqueeze(0)
    return own.expand(group.rows, -1, -1, -1)


def attend_group(
    projected: Tensor, group: Group, form: AttentionForm, bias: Tensor | None, contexts: Tensor
) -> Float[Tensor, "shared row heads time"]:
    """Write the contexts of a group, and return the logarithms of its sums of powers."""
    assert KERNELS is not None
    query, key, values = split_group(projected, group, form)
    out = _split_contexts(contexts, group, form)
    sums: list[Tensor] = []
    for shared in range(form.sharing):
        found, own = KERNELS[0](
            query[shared],
            key,
            values,
            0.0,
            _uses_triangle(form, bias),
            attn_mask=_make_mask(bias, group, form, shared, query),
            scale=form.scale,
        )
        out[shared].copy_(found)
        sums.append(own)
    return torch.stack(sums)


def _uses_triangle(form: AttentionForm, bias: Tensor | None) -> bool:
    return form.causal and bias is None


def _make_mask(bias: Tensor | None, group: Group, form: AttentionForm, shared: int, like: Tensor) -> Tensor | None:
    """Return the bias, with minus infinity where a step may not be attended to; None if the kernel needs no mask."""
    own = _select_bias(bias, group, form, shared, like)
    if own is None or not form.causal:
        return own
    time = torch.arange(group.length, device=like.device)
    return own.masked_fill(~form.allows(time.unsqueeze(1), time), -torch.inf)


def differentiate_group(
    projected: Tensor,
    group: Group,
    form: AttentionForm,
    bias: Tensor | None,
    contexts: Tensor,
    sums: Tensor,
    gradient: Tensor,
    of_projected: Tensor,
) -> None:
    """Write the gradients of a group's queries, keys and values."""
    assert KERNELS is not None
    query, key, values = split_group(projected, group, form)
    by_query, by_key, by_values = split_group(of_projected, group, form)
    out, by_out = _split_contexts(contexts, group, form), _split_contexts(gradient, group, form)
    for shared in range(form.sharing):
        found = KERNELS[1](
            by_out[shared],
            query[shared],
            key,
            values,
            out[shared],
            sums[shared],
            0.0,
            _uses_triangle(form, bias),
            attn_mask=_make_mask(bias, group, form, shared, query),
            scale=form.scale,
        )
        by_query[shared].copy_(found[0])
        for total, part in ((by_key, found[1]), (by_values, found[2])):
            if shared:
                total.add_(part)
            else:
                total.copy_(part)
