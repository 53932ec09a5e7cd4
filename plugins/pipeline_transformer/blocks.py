"""Attention of blocks of rows by products: for biases with gradients, windows and dropout of weights."""

from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, final

import attrs
import torch
from jaxtyping import Float
from torch import Tensor

from pipeline_transformer.layout import Group
from pipeline_transformer.shapes import unfold_axis
from pipeline_transformer.spec import AttentionForm

_BLOCK_BYTES: Final = 2**20
"""The size of one block's scores, so that they stay in a core's cache between product, softmax and product."""
_BLOCK_STEPS: Final = 128
"""The number of queries in a block of a long row."""
_UNDIVIDED_STEPS: Final = 256
"""The length up to which all queries of a row are in one block."""


@final
@attrs.frozen
class Block:
    """Queries of some rows of a group, and the keys that they may attend to.

    Attributes:
        group: the rows of one length.
        first: the first row of the block, within the group.
        rows: the number of rows.
        queries: the first query, and the one after the last.
        keys: the first key, and the one after the last.
    """

    group: Group
    first: int
    rows: int
    queries: tuple[int, int]
    keys: tuple[int, int]

    def shape_scores(self, form: AttentionForm) -> tuple[int, int, int, int]:
        """Return the shape of the scores: rows, heads, queries and keys."""
        return self.rows, form.heads, self.queries[1] - self.queries[0], self.keys[1] - self.keys[0]

    def count_scores(self, form: AttentionForm) -> int:
        """Return the number of scores."""
        rows, heads, queries, keys = self.shape_scores(form)
        return rows * heads * queries * keys

    def select(self, steps: Float[Tensor, "steps feature"], span: tuple[int, int]) -> Float[Tensor, "row time feature"]:
        """Return a view of the steps of the block's rows, from some time to another."""
        start = self.group.start + self.first * self.group.length
        own = steps[start : start + self.rows * self.group.length]
        return unfold_axis(own, 0, (self.rows, self.group.length))[:, span[0] : span[1]]

    @property
    def is_whole(self) -> bool:
        """True if all queries of its rows are in this block."""
        return self.group.length <= _UNDIVIDED_STEPS


def list_blocks(group: Group, form: AttentionForm) -> Iterator[Block]:
    """Divide a group into blocks. Keys that no query of a block may attend to are left out."""
    length = group.length
    if length > _UNDIVIDED_STEPS:
        for row in range(group.rows):
            for start in range(0, length, _BLOCK_STEPS):
                stop = min(length, start + _BLOCK_STEPS)
                first, last = 0, length
                if form.window is not None:
                    first, last = max(0, start - form.window), min(length, stop + form.window)
                yield Block(group, row, 1, (start, stop), (first, stop if form.causal else last))
        return
    # Of a few numbers of 4 bytes; in float64 a block is twice as large, which does not matter.
    most = max(1, _BLOCK_BYTES // (4 * form.heads * length * length))
    for row in range(0, group.rows, most):
        yield Block(group, row, min(most, group.rows - row), (0, length), (0, length))


_Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]


def _split(projected: Tensor, block: Block, form: AttentionForm) -> _Parts:
    """Return the queries, keys and values of a block as batches of matrices, one per row and head of keys.

    For a single row, and a head of keys per head of queries, they are views.
    """
    query_size, key_size = form.heads * form.size, form.kv_heads * form.size
    query = block.select(projected, block.queries)[..., :query_size]
    others = block.select(projected, block.keys)
    key, values = others[..., query_size : query_size + key_size], others[..., query_size + key_size :]
    return _split_queries(query, form), _split_keys(key, form), _split_keys(values, form)


def _split_queries(query: Tensor, form: AttentionForm) -> Float[Tensor, "matrix query size"]:
    parts = unfold_axis(query, -1, (form.kv_heads, form.sharing, form.size)).permute(0, 2, 3, 1, 4)
    return _widen(parts.reshape(-1, form.sharing * query.shape[1], form.size))


def _split_keys(key: Tensor, form: AttentionForm) -> Float[Tensor, "matrix key size"]:
    parts = unfold_axis(key, -1, (form.kv_heads, form.size)).transpose(1, 2)
    return _widen(parts.reshape(-1, key.shape[1], form.size))


def _widen(values: Tensor) -> Tensor:
    """Return half precision in float32, in which sums and softmaxes are computed."""
    return values.float() if values.dtype.itemsize < 4 else values


def _join_queries(parts: Tensor, block: Block, form: AttentionForm) -> Float[Tensor, "row query hidden"]:
    """Return the inverse of `_split_queries`."""
    queries = block.queries[1] - block.queries[0]
    return parts.view(block.rows, form.kv_heads, form.sharing, queries, form.size).permute(0, 3, 1, 2, 4).flatten(2)


def _compute_weights(
    query: Tensor, key: Tensor, block: Block, form: AttentionForm, bias: Tensor | None
) -> Float[Tensor, "row heads query key"]:
    # Of few keys the product takes about the time of a copy, so it has the factor already.
    scores = torch.baddbmm(query.new_zeros(()), query, key.mT, beta=0, alpha=form.scale)
    scores = scores.view(block.shape_scores(form))
    (first, last), (start, stop) = block.queries, block.keys
    # In a graph of second derivatives nothing may be changed in place.
    in_place = not torch.is_grad_enabled()
    if bias is not None:
        own = bias[:, first:last, start:stop]
        scores = scores.add_(own) if in_place else scores + own
    if form.causal or form.window is not None:
        time = torch.arange(max(last, stop), device=query.device)
        masked = ~form.allows(time[first:last].unsqueeze(1), time[start:stop])
        scores = scores.masked_fill_(masked, -torch.inf) if in_place else scores.masked_fill(masked, -torch.inf)
    return scores.softmax(-1)


def attend_block(
    projected: Tensor,
    block: Block,
    form: AttentionForm,
    bias: Tensor | None,
    mask: Float[Tensor, "row heads query key"] | None,
) -> tuple[Float[Tensor, "row query hidden"], Float[Tensor, "row heads query key"]]:
    """Return the contexts of a block's queries, and the weights before dropout."""
    query, key, values = _split(projected, block, form)
    weights = _compute_weights(query, key, block, form, bias)
    used = weights if mask is None else weights * mask
    contexts = torch.bmm(used.view(len(key), -1, key.shape[1]), values)
    return _join_queries(contexts, block, form).to(projected.dtype), weights


_SoftmaxBackward: TypeAlias = Callable[[Tensor, Tensor, int, torch.dtype], Tensor]
_softmax_backward: Final[_SoftmaxBackward] = getattr(torch, "_softmax_backward_data")  # noqa: B009
"""Torch's kernel from gradients of softmax results, and these results, to gradients of scores."""


def differentiate_block(
    projected: Tensor,
    block: Block,
    form: AttentionForm,
    bias: Tensor | None,
    weights: Tensor | None,
    mask: Tensor | None,
    gradient: Tensor,
    of_projected: Tensor,
    of_bias: Tensor | None,
) -> None:
    """Write the gradients of a block's queries, add those of its keys and values, and those of the bias.

    Args:
        projected: queries, keys and values of all steps.
        block: the block.
        form: the form of the attention.
        bias: the bias of scores.
        weights: the weights before dropout, if they were saved.
        mask: the numbers by which weights were multiplied: 0, or 1 / (1 - dropout).
        gradient: the gradient of all contexts.
        of_projected: the gradient of all queries, keys and values.
        of_bias: the gradient of the bias; None if it needs none.
    """
    query, key, values = _split(projected, block, form)
    if weights is None:
        weights = _compute_weights(query, key, block, form, bias)
    by_context = _split_queries(block.select(gradient, block.queries), form)
    by_used = torch.bmm(by_context, values.mT).view_as(weights)
    used = weights
    if mask is not None:
        by_used.mul_(mask)
        used = weights * mask
    by_scores = _softmax_backward(by_used, weights, -1, weights.dtype)
    if of_bias is not None:
        (first, last), (start, stop) = block.queries, block.keys
        of_bias[:, first:last, start:stop] += by_scores.sum(0)
    by_scores, used = (each.view(len(key), -1, key.shape[1]) for each in (by_scores, used))
    size, key_size = form.heads * form.size, form.kv_heads * form.size
    by_query = torch.bmm(by_scores, key).mul_(form.scale)
    block.select(of_projected, block.queries)[..., :size].copy_(_join_queries(by_query, block, form))
    others = block.select(of_projected, block.keys)[..., size:]
    by_key = torch.bmm(by_scores.mT, query).mul_(form.scale)
    by_values = torch.bmm(used.mT, by_context)
    for total, part in ((others[..., :key_size], by_key), (others[..., key_size:], by_values)):
        own = part.view(block.rows, form.kv_heads, -1, form.size).transpose(1, 2).flatten(2)
        if block.is_whole:
            total.copy_(own)
        else:  # the blocks of a long row add up, from zeros
            total.add_(own)
