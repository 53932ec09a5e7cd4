"""The layers of a transformer decoder: masked self-attention, attention to the source, and a feed-forward part."""

import math
from typing import Self, final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from torch.nn.functional import dropout, gelu, relu, scaled_dot_product_attention

from pipeline.extend import PackingOrder


@final
@attrs.frozen(eq=False)
class Layout:
    """Where the packed steps of some rows are in a rectangle, in which attention computes.

    Attributes:
        order: the packing order of the steps.
        width: the width of the rectangle.
    """

    order: PackingOrder
    width: int

    def spread(self, steps: Float[Tensor, "steps hidden"]) -> Float[Tensor, "batch time hidden"]:
        """Return packed steps in a rectangle, with zeros in the padding."""
        rows = len(self.order.lengths)
        flat = steps.new_zeros(rows * self.width, steps.shape[1])
        flat = flat.index_copy(0, self.order.flat_indices(self.width), steps)
        return flat.reshape(rows, self.width, steps.shape[1])

    def gather(self, rectangle: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "steps hidden"]:
        """Return the real steps of a rectangle, packed."""
        return rectangle.flatten(0, 1).index_select(0, self.order.flat_indices(self.width))


@final
@attrs.frozen(eq=False)
class Stored:
    """Keys and values of some steps of each row.

    Attributes:
        keys: the projected keys.
        values: the projected values.
    """

    keys: Float[Tensor, "batch heads time part"]
    values: Float[Tensor, "batch heads time part"]

    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        """Return those of some rows, by their indices on the device."""
        return type(self)(self.keys.index_select(0, rows), self.values.index_select(0, rows))

    @property
    def count(self) -> int:
        """The number of steps."""
        return self.keys.shape[2]

    def clear(self) -> Self:
        """Return those of no steps, for the same rows."""
        return type(self)(self.keys[:, :, :0], self.values[:, :, :0])

    def append(self, other: Self) -> Self:
        """Return these steps, followed by others."""
        return type(self)(torch.cat([self.keys, other.keys], 2), torch.cat([self.values, other.values], 2))


@final
class HeadsAttention(nn.Module):
    """Attention with several heads, from queries to keys that may be of other rows.

    A query with nothing to attend to has a context of zeros, and so the bias of the last layer as its result.

    Args:
        size: features of queries and of the result.
        key_size: features of keys.
        num_heads: the number of heads, which divides the size.
        dropout: the probability with which a weight is dropped in training.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.2.
    """

    def __init__(self, size: int, key_size: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query: nn.Linear = nn.Linear(size, size)
        self.key: nn.Linear = nn.Linear(key_size, size)
        self.value: nn.Linear = nn.Linear(key_size, size)
        self.output: nn.Linear = nn.Linear(size, size)
        for layer in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.output.bias)

    def store(self, steps: Float[Tensor, "*item hidden"], layout: Layout | None = None) -> Stored:
        """Return the keys and values of steps: of packed ones, if there is a layout, else of a rectangle."""
        found = [self.key(steps), self.value(steps)]
        return Stored(*(self._split(each if layout is None else layout.spread(each)) for each in found))

    def attend(
        self,
        queries: Float[Tensor, "*item hidden"],
        stored: Stored,
        mask: Bool[Tensor, "batch key"] | None = None,
        layout: Layout | None = None,
        *,
        is_causal: bool = False,
    ) -> Float[Tensor, "*item hidden"]:
        """Return the result for each query.

        Args:
            queries: packed, if there is a layout, else a rectangle.
            stored: the keys and values.
            mask: True at the keys that may be attended to; None for all.
            layout: the places of packed queries.
            is_causal: whether a query attends to the keys up to its own place only.
        """
        projected: Tensor = self.query(queries)
        split = self._split(projected if layout is None else layout.spread(projected))
        heads = self._mix(split, stored, mask, is_causal=is_causal)
        joined = heads.transpose(1, 2).flatten(2)
        result: Tensor = self.output(joined if layout is None else layout.gather(joined))
        return result

    def _mix(self, queries: Tensor, stored: Stored, mask: Tensor | None, *, is_causal: bool) -> Tensor:
        chance = self.dropout if self.training else 0.0
        if not stored.keys.shape[2] or not queries.shape[2]:
            return torch.zeros_like(queries)
        if mask is None:
            return scaled_dot_product_attention(
                queries, stored.keys, stored.values, dropout_p=chance, is_causal=is_causal
            )
        # A row with nothing to attend to attends to everything, and its contexts are replaced: a softmax over nothing
        # would be NaN, in gradients too.
        is_empty = ~mask.any(1, keepdim=True)
        may_attend = (mask | is_empty)[:, None, None]
        heads = scaled_dot_product_attention(queries, stored.keys, stored.values, may_attend, dropout_p=chance)
        return heads.masked_fill(is_empty[:, None, None], 0)

    def _split(self, steps: Float[Tensor, "batch time hidden"]) -> Float[Tensor, "batch heads time part"]:
        part = steps.shape[2] // self.num_heads
        return steps.reshape(*steps.shape[:2], self.num_heads, part).transpose(1, 2)


@final
class DecoderLayer(nn.Module):
    """One layer of a transformer decoder.

    Args:
        size: features per step.
        source_size: features per step of the source.
        num_heads: the number of heads.
        feedforward_size: the size of the inner layer of the feed-forward part.
        dropout: the probability of dropout, as in `nn.TransformerDecoderLayer`.
        norm_first: normalize the input of each part (pre-norm), not its sum with the output (post-norm).
        use_gelu: GELU instead of ReLU.

    Source: Vaswani et al. 2017, arXiv:1706.03762, figure 1 (post-norm); Xiong et al. 2020, "On Layer Normalization in
    the Transformer Architecture", arXiv:2002.04745 (pre-norm). The weights are those of `nn.TransformerDecoderLayer`.
    """

    def __init__(
        self,
        size: int,
        source_size: int,
        num_heads: int,
        feedforward_size: int,
        *,
        dropout: float,
        norm_first: bool,
        use_gelu: bool,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.use_gelu = use_gelu
        self.dropout = dropout
        self.self_attention: HeadsAttention = HeadsAttention(size, size, num_heads, dropout)
        self.cross_attention: HeadsAttention = HeadsAttention(size, source_size, num_heads, dropout)
        self.inner: nn.Linear = nn.Linear(size, feedforward_size)
        self.outer: nn.Linear = nn.Linear(feedforward_size, size)
        self.norms: nn.ModuleList = nn.ModuleList([nn.LayerNorm(size) for _ in range(3)])

    def forward(
        self,
        steps: Float[Tensor, "*item hidden"],
        source: Stored,
        mask: Bool[Tensor, "batch key"],
        layout: Layout | None,
        past: Stored | None,
    ) -> tuple[Float[Tensor, "*item hidden"], Stored]:
        """Return the output of each step, and the keys and values of all steps so far.

        Args:
            steps: packed steps with their layout, or a rectangle of the next step of each row without one.
            source: the keys and values of the source.
            mask: True at the real steps of the source.
            layout: the places of packed steps.
            past: the keys and values of the steps before; None at the beginning.
        """
        given = self._before(0, steps)
        own = self.self_attention.store(given, layout)
        stored = own if past is None else past.append(own)
        # A step alone attends to all steps so far; of whole rows, each step to those up to itself, never to padding.
        found = self.self_attention.attend(given, stored, layout=layout, is_causal=past is None)
        steps = self._after(0, steps, found)
        found = self.cross_attention.attend(self._before(1, steps), source, mask, layout)
        steps = self._after(1, steps, found)
        inner: Tensor = self.inner(self._before(2, steps))
        inner = self._drop(gelu(inner) if self.use_gelu else relu(inner))
        return self._after(2, steps, self.outer(inner)), stored

    def _before(self, part: int, steps: Tensor) -> Tensor:
        normalized: Tensor = self.norms[part](steps) if self.norm_first else steps
        return normalized

    def _after(self, part: int, steps: Tensor, found: Tensor) -> Tensor:
        total = steps + self._drop(found)
        normalized: Tensor = total if self.norm_first else self.norms[part](total)
        return normalized

    def _drop(self, values: Tensor) -> Tensor:
        return dropout(values, self.dropout, self.training)


def encode_positions(places: Int64[Tensor, " step"], size: int, dtype: torch.dtype) -> Float[Tensor, "step hidden"]:
    """Return the sinusoidal position of each step.

    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.5. Sines come first, then cosines, instead of in turn: a
    permutation of the features, which changes nothing that is learned.

    Example:
        >>> encode_positions(torch.tensor([0]), 4, torch.float32).tolist()
        [[0.0, 0.0, 1.0, 1.0]]
    """
    half = (size + 1) // 2
    rates = torch.exp(torch.arange(half, device=places.device, dtype=torch.float64) * (-math.log(10_000) / half))
    angles = places.double().unsqueeze(1) * rates
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :size].to(dtype)
