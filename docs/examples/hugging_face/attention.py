"""Attention within each row for models of `transformers`: no padding, and one kernel per length of row."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, final

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pipeline.extend import PackingOrder

NAME: Final = "packed_rows"
"""The `attn_implementation` under which `transformers` finds `attend_groups`."""


@final
@attrs.frozen
class Group:
    """Rows of equal length, side by side.

    Attributes:
        start: the first step of the first row.
        rows: the number of rows.
        length: the number of steps of each.
    """

    start: int
    rows: int
    length: int


@final
@attrs.frozen(eq=False)
class RowOrder:
    """The steps of a batch row by row, the longest row first, so that rows of equal length are neighbours.

    Attributes:
        places: for each step of the packed batch its place in this order.
        groups: the rows of each length; empty rows have no step and are in no group.
    """

    places: Int64[Tensor, " steps"]
    groups: Sequence[Group]

    @classmethod
    def of(cls, order: PackingOrder) -> "RowOrder":
        """Return the order of the steps of a packed batch."""
        lengths = order.lengths[order.sorted_indices]
        starts = torch.empty_like(lengths)
        starts[order.sorted_indices] = lengths.cumsum(0) - lengths
        groups: list[Group] = []
        start = 0
        for length, rows in sorted(Counter(map(int, lengths)).items(), reverse=True):
            if length:
                groups.append(Group(start, rows, length))
                start += rows * length
        return cls(starts.to(order.device)[order.row_of_step] + order.time_of_step, groups)

    def arrange(self, values: Tensor) -> Tensor:
        """Return values of the steps, row by row."""
        return torch.empty_like(values).index_copy(0, self.places, values)


def attend_groups(
    module: object,
    query: Float[Tensor, "1 heads steps size"],
    key: Float[Tensor, "1 heads steps size"],
    value: Float[Tensor, "1 heads steps size"],
    _: object = None,
    *,
    groups: Sequence[Group],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_options: object,
) -> tuple[Float[Tensor, "1 steps heads size"], None]:
    """Return the contexts of all heads; the signature is that of an attention function of `transformers`.

    Args:
        module: the layer that calls; some say there that they are causal.
        query: the queries of all rows of a batch, one row after the other.
        key: their keys.
        value: their values.
        groups: the rows of each length.
        scaling: the factor of the scores.
        dropout: the probability with which a weight becomes 0.
        sliding_window: a step attends to steps at a smaller distance than this; None for all.
    """
    contexts: list[Tensor] = []
    for group in groups:
        q, k, v = (_split(each, group) for each in (query, key, value))
        mask = _make_window(group.length, sliding_window, query)
        causal = bool(getattr(module, "is_causal", False))
        found = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask.tril() if mask is not None and causal else mask,
            dropout_p=dropout,
            is_causal=causal and mask is None,
            scale=scaling,
            enable_gqa=k.shape[1] < q.shape[1],
        )
        contexts.append(found.transpose(1, 2).flatten(0, 1))
    return torch.cat(contexts).unsqueeze(0), None


def _split(states: Tensor, group: Group) -> Float[Tensor, "row heads time size"]:
    steps = states[0, :, group.start : group.start + group.rows * group.length]
    return steps.reshape(-1, group.rows, group.length, steps.shape[-1]).transpose(0, 1)


def _make_window(length: int, window: int | None, like: Tensor) -> Tensor | None:
    if window is None or length <= window:
        return None
    times = torch.arange(length, device=like.device)
    return (times.unsqueeze(1) - times).abs() < window
