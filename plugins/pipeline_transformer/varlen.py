"""Torch's kernel for rows of unequal length on a GPU."""

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Final, cast

import torch
from jaxtyping import Float
from torch import Tensor

from pipeline_transformer.layout import RowLayout
from pipeline_transformer.shapes import split_features, unfold_axis
from pipeline_transformer.spec import AttentionForm

_DTYPES: Final = frozenset({torch.float16, torch.bfloat16})
_LARGEST_HEAD: Final = 256
_MULTIPLE: Final = 8
"""The kernel's limits: half precision, and heads of a multiple of 8 features up to 256."""


def _find_kernel() -> Callable[..., Tensor] | None:
    """Return the kernel; None in a version of torch in which it lacks the options that are used here."""
    try:
        found = cast("Callable[..., Tensor]", getattr(import_module("torch.nn.attention.varlen"), "varlen_attn"))  # noqa: B009
    except (ImportError, AttributeError):
        return None
    return found if {"window_size", "enable_gqa", "scale"} <= inspect.signature(found).parameters.keys() else None


def supports_varlen(device: torch.device, dtype: torch.dtype, form: AttentionForm, *, plain: bool) -> bool:
    """Return whether the kernel computes an attention.

    Args:
        device: the device of the steps.
        dtype: the dtype of queries, keys and values.
        form: the form of the attention.
        plain: whether there is neither a bias nor dropout of weights.
    """
    fits = form.size <= _LARGEST_HEAD and form.size % _MULTIPLE == 0
    return device.type == "cuda" and dtype in _DTYPES and fits and plain and _find_kernel() is not None


def attend_varlen(
    projected: Float[Tensor, "steps feature"], layout: RowLayout, form: AttentionForm
) -> Float[Tensor, "steps hidden"]:
    """Return the contexts of all heads of each step, side by side; as `attend_rows`, on a GPU."""
    kernel = _find_kernel()
    assert kernel is not None
    offsets = layout.make_offsets().to(projected.device, torch.int32, non_blocking=True)
    sizes = [form.heads * form.size, form.kv_heads * form.size, form.kv_heads * form.size]
    query, key, values = (unfold_axis(part, -1, (-1, form.size)) for part in split_features(projected, sizes, dim=-1))
    window = -1 if form.window is None else form.window
    contexts = kernel(
        query,
        key,
        values,
        offsets,
        offsets,
        layout.longest,
        layout.longest,
        scale=form.scale,
        window_size=(window, 0 if form.causal else window),
        enable_gqa=form.sharing > 1,
    )
    return contexts.flatten(1)
