"""Attention to earlier steps on a CPU: it leaves out blocks of scores that are masked, or after the end of a row.

For that it needs rows sorted by length, as `sort_by_length` returns them.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, lru_cache
from typing import Final, NamedTuple, TypeAlias

import attrs
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.functional.attention import dot_product_attention, separate
from pipeline.functional.transforms import are_functions_transformed, name_transform

# Block sizes, measured on CPUs with 1 to 4 MiB of cache per core; the bench `attend` compares them.
_BLOCKS_PER_ROW: Final = 16
"""The number of blocks of queries in a long row. More blocks compute fewer masked scores, but make more calls."""


_BLOCK_STEPS: Final = (32, 128)
"""The smallest and the largest number of queries in a block, whatever the row's length."""


_UNDIVIDED_STEPS: Final = 64
"""The width up to which all queries are one block. Half of the scores are masked, but no result is copied."""


_BLOCK_BYTES: Final = 2**20
"""The size of one block's scores, so that they stay in a core's cache between product, softmax and product."""


_SAVED_FRACTION: Final = 2
"""Weights are saved for the backward pass if they take at most 1 / `_SAVED_FRACTION` of the memory limit."""


def supports_blocks(values: Tensor) -> bool:
    """Return whether `attend_earlier_in_blocks` is the right algorithm for such values.

    Torch's kernels are better on a GPU and in half precision, where they accumulate in float32. A graph cannot
    contain a loop over time.
    """
    if values.device.type != "cpu" or torch.compiler.is_compiling() or are_functions_transformed():
        return False
    return values.dtype in {torch.float32, torch.float64} and not torch.is_autocast_enabled("cpu")


def attend_earlier_in_blocks(
    query: Float[Tensor, "batch time inner"],
    key: Float[Tensor, "batch time inner"],
    values: Float[Tensor, "batch time hidden"],
    batch_sizes: Sequence[int],
    *,
    window: int | None = None,
    memory: int,
) -> Float[Tensor, "batch time hidden"]:
    """Return the mean of earlier steps' values, weighted by softmax(query . key); the first step attends to itself.

    Rows are sorted, the longest first. Blocks that lie in the padding are not computed, and give zeros. Other padding
    must be finite, and its result is undefined. Second derivatives exist, but compute all scores at once.

    Args:
        query: the query vectors.
        key: the key vectors.
        values: the value vectors; pass the same tensor as `key` if they are equal, which is faster.
        batch_sizes: the number of rows longer than t, for each time t.
        window: the number of preceding steps that a step attends to; None for all.
        memory: a limit in bytes. If the weights take less than half of it, they are saved for the backward pass;
            otherwise they are computed again.

    Source: Dao et al. 2022, "FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness",
    arXiv:2205.14135, for the backward pass (appendix B.2). Our blocks contain all keys of their queries, so the softmax
    needs no second pass.

    Example:
        >>> steps = torch.tensor([[[1.0], [3.0], [5.0]]])
        >>> attend_earlier_in_blocks(torch.zeros(1, 3, 1), steps, steps, [1, 1, 1], memory=2**20).flatten().tolist()
        [1.0, 1.0, 2.0]
    """
    tensors = (query, key) if values is key else (query, key, values)
    blocks = _get_blocks(tuple(batch_sizes), window, query.element_size())
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if not needs_grad:
        return _compute_contexts(blocks, query, key, values, saved=None)
    saves = blocks.count_scores() * query.element_size() * _SAVED_FRACTION <= memory
    return _apply(blocks, saves, *tensors)


class _Block(NamedTuple):
    """Queries of some rows, and the keys that they may attend to."""

    rows: slice
    queries: slice
    keys: slice


@attrs.frozen(slots=False)
class _Blocks:
    """The division of a batch into blocks.

    Attributes:
        batch_sizes: the number of rows longer than t, for each time t.
        window: the number of preceding steps that a step attends to; None for all.
        number_bytes: the size of one number.
    """

    batch_sizes: tuple[int, ...]
    window: int | None
    number_bytes: int

    @cached_property
    def block_steps(self) -> int:
        """The number of queries in a block."""
        width, (least, most) = len(self.batch_sizes), _BLOCK_STEPS
        return width if width <= _UNDIVIDED_STEPS else min(most, max(least, width // _BLOCKS_PER_ROW))

    @cached_property
    def block_rows(self) -> int:
        """The number of rows in a block: the most whose scores fit into `_BLOCK_BYTES`."""
        width = len(self.batch_sizes)
        # The keys of a block are its own steps, and the `window` steps before its first query.
        keys = width if self.window is None else min(width, self.block_steps + self.window)
        return max(1, _BLOCK_BYTES // (self.number_bytes * self.block_steps * keys))

    @cached_property
    def is_single(self) -> bool:
        """True if one block contains the whole batch, without padding."""
        width = len(self.batch_sizes)
        return width <= self.block_steps and self.block_rows >= self.batch_sizes[0] == self.batch_sizes[-1]

    @cached_property
    def are_narrow(self) -> bool:
        """True if all keys of a row are fewer numbers than a vector of the processor."""
        return len(self.batch_sizes) * self.number_bytes < _VECTOR_BYTES

    @property
    def is_full(self) -> bool:
        """True if the blocks cover the whole batch, without padding."""
        return self.batch_sizes[0] == self.batch_sizes[-1]

    def count_scores(self) -> int:
        """Return the number of scores in all blocks."""
        return sum(
            (rows.stop - rows.start) * (queries.stop - queries.start) * (keys.stop - keys.start)
            for rows, queries, keys in self
        )

    def __iter__(self) -> Iterator[_Block]:
        return iter(self.blocks)

    @cached_property
    def blocks(self) -> Sequence[_Block]:
        """All blocks, row by row."""
        return list(self._divide())

    def _divide(self) -> Iterator[_Block]:
        width = len(self.batch_sizes)
        for first in range(0, self.batch_sizes[0], self.block_rows):
            for start in range(0, width, self.block_steps):
                # Rows are sorted: those that end before `start` are the last ones.
                last = min(first + self.block_rows, self.batch_sizes[start])
                if last <= first:
                    break
                stop = min(width, start + self.block_steps)
                oldest = 0 if self.window is None else max(0, start - self.window)
                # The last key is masked for every query. It stays, because products of even width are much faster.
                yield _Block(slice(first, last), slice(start, stop), slice(oldest, stop))

    def mask_scores(self, scores: Float[Tensor, "rows query key"], block: _Block) -> None:
        """Set scores of later keys, and of keys before the window, to minus infinity; the first step keeps its own."""
        # Keys end where queries end. So the last `steps` columns are a square around the diagonal, in which later keys
        # are the upper triangle. Older keys fill the `offset` columns before it, all of them earlier. With a window,
        # the first `steps` columns are another square, in which keys before the window are a lower triangle.
        _, queries, keys = block
        steps, offset = queries.stop - queries.start, queries.start - keys.start
        # A mode may replace all new tensors by others; those are not kept.
        is_plain = type(scores) is Tensor
        get_later, get_older = (
            (_get_later_bounds, _get_older_bounds) if is_plain else (_make_later_bounds, _make_older_bounds)
        )
        _lower(scores[:, :, offset:] if offset else scores, get_later(steps, queries.start == 0, scores.dtype))
        if self.window is not None:
            _lower(scores[:, :, :steps], get_older(steps, offset - self.window - 1, scores.dtype))


_get_blocks: Final = lru_cache(maxsize=64)(_Blocks)
"""Batches of rows of one length, or of bucketed rows, have the same blocks again and again."""


# Bounds of scores: minus infinity for keys that a query must not attend to, infinity for all others. The minimum with
# them takes a sixth of the time of `masked_fill_`, which torch does not vectorize. It keeps NaN, also in the scores of
# later keys. But a step with NaN gives NaN in any case: its value is multiplied by a weight of 0.


def _lower(scores: Float[Tensor, "rows query key"], bounds: Float[Tensor, "query key"]) -> None:
    """Replace scores by their bounds, where those are lower."""
    torch.minimum(scores, bounds, out=scores)


def _make_later_bounds(steps: int, is_first: bool, dtype: torch.dtype) -> Float[Tensor, "steps steps"]:
    """Return bounds that leave out keys not earlier than the query; in the first square, step 0 attends to itself."""
    # They are kept for later calls, which may need gradients; tensors of inference mode could not be saved for them.
    with torch.inference_mode(mode=False):
        is_later = torch.ones(steps, steps, dtype=torch.bool, device="cpu").triu()
        if is_first:
            is_later[0, 0] = False
        return _make_bounds(is_later, dtype)


def _make_older_bounds(steps: int, diagonal: int, dtype: torch.dtype) -> Float[Tensor, "steps steps"]:
    """Return bounds that leave out keys before the window: those up to a diagonal, counted as `torch.tril` does."""
    with torch.inference_mode(mode=False):
        return _make_bounds(torch.ones(steps, steps, dtype=torch.bool, device="cpu").tril(diagonal), dtype)


def _make_bounds(is_left_out: Bool[Tensor, "query key"], dtype: torch.dtype) -> Float[Tensor, "query key"]:
    bounds = torch.full(is_left_out.shape, torch.inf, dtype=dtype, device="cpu").masked_fill_(is_left_out, -torch.inf)
    # Stored as the scores are, so that torch vectorizes the minimum.
    return bounds.mT.contiguous().mT if len(bounds) * bounds.itemsize < _VECTOR_BYTES else bounds


_get_later_bounds: Final = lru_cache(maxsize=64)(_make_later_bounds)
_get_older_bounds: Final = lru_cache(maxsize=64)(_make_older_bounds)


# Scores of fewer keys than a vector of the processor has numbers are stored by column: key after key, each with all of
# its queries. Torch's softmax vectorizes along the memory only over whole vectors; over 8 or 15 keys stored by row it
# takes 3.5 times as long, and its derivative 4 to 7 times.


_VECTOR_BYTES: Final = 64 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 32
"""The size of a vector of the processor, as far as torch uses it."""


_softmax_to: Final[Callable[..., Tensor]] = getattr(torch, "_softmax")  # noqa: B009
"""Torch's kernel behind `torch.softmax`, which itself does not write into `out`, but copies its result there."""


def _softmax_in_place(scores: Tensor, *, by_column: bool) -> Tensor:
    """Return the softmax over the keys, written into the scores unless a graph records them."""
    if scores.requires_grad:
        return scores.softmax(-1)
    if by_column:
        return _softmax_to(scores.mT, dim=-2, half_to_float=False, out=scores.mT).mT
    return _softmax_to(scores, dim=-1, half_to_float=False, out=scores)


def _compute_weights(blocks: _Blocks, block: _Block, query: Tensor, key: Tensor) -> Float[Tensor, "rows query key"]:
    if not blocks.is_single:
        rows, queries, keys = block
        query, key = query[rows, queries], key[rows, keys]
    by_column = blocks.are_narrow
    scores = torch.bmm(key, query.mT).mT if by_column else torch.bmm(query, key.mT)
    blocks.mask_scores(scores, block)
    # Every query keeps at least one key, so no softmax is over minus infinity alone, which would give NaN.
    return _softmax_in_place(scores, by_column=by_column)


def _compute_contexts(
    blocks: _Blocks, query: Tensor, key: Tensor, values: Tensor, saved: list[Tensor] | None
) -> Float[Tensor, "batch time hidden"]:
    """Return the contexts, without a graph, and append the weights of each block to `saved`."""
    if blocks.is_single:
        # Its result is returned without a copy into zeros.
        weights = _compute_weights(blocks, blocks.blocks[0], query, key)
        if saved is not None:
            saved.append(weights)
        return torch.bmm(weights, values)
    contexts = torch.empty_like(values) if blocks.is_full else torch.zeros_like(values)
    for block in blocks:
        weights = _compute_weights(blocks, block, query, key)
        if saved is not None:
            saved.append(weights)
        # Written where they belong, instead of copied: that took as long as the product.
        torch.bmm(weights, values[block.rows, block.keys], out=contexts[block.rows, block.queries])
    return contexts


class _AttendEarlier(torch.autograd.Function):
    """Attention to earlier steps, whose backward pass computes the gradients one block at a time."""

    @staticmethod
    def forward(ctx: FunctionCtx, blocks: _Blocks, saves: bool, *tensors: Tensor) -> Tensor:
        """Return the contexts of queries, keys and, if they differ from the keys, values."""
        saved: list[Tensor] = []
        contexts = _compute_contexts(blocks, tensors[0], tensors[1], tensors[-1], saved=saved if saves else None)
        save: Callable[..., None] = ctx.save_for_backward
        save(*tensors, *saved)
        setattr(ctx, "blocks", blocks)  # noqa: B010 - torch does not declare the attributes of a context
        setattr(ctx, "inputs", len(tensors))  # noqa: B010
        return contexts

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of queries, keys and values."""
        blocks: _Blocks = getattr(ctx, "blocks")  # noqa: B009
        count: int = getattr(ctx, "inputs")  # noqa: B009
        saved: tuple[Tensor, ...] = getattr(ctx, "saved_tensors")  # noqa: B009
        tensors, weights = saved[:count], saved[count:]
        # With `create_graph=True` gradients are enabled here, and every operation must be differentiable.
        if torch.is_grad_enabled() or name_transform(*gradients):
            return None, None, *_backward_with_graph(blocks, tensors, gradients[0])
        return None, None, *_backward(blocks, tensors, weights, gradients[0])


_apply: Final[Callable[..., Tensor]] = getattr(_AttendEarlier, "apply")  # noqa: B009
"""`_AttendEarlier.apply` with a type."""


_SoftmaxBackward: TypeAlias = Callable[[Tensor, Tensor, int, torch.dtype], Tensor]


_softmax_backward: Final[_SoftmaxBackward] = getattr(torch, "_softmax_backward_data")  # noqa: B009
"""Torch's kernel from gradients of softmax results, and these results, to gradients of scores."""


def _backward(
    blocks: _Blocks, tensors: Sequence[Tensor], saved: Sequence[Tensor], gradient: Tensor
) -> Sequence[Tensor]:
    """Return the gradients of all tensors. If keys are also the values, their gradient is the sum of both."""
    query, key, values = tensors[0], tensors[1], tensors[-1]
    if blocks.is_single:
        (weights,) = saved or [_compute_weights(blocks, block, query, key) for block in blocks]
        of_query, of_scores = _backward_to_scores(blocks, weights, key, values, gradient)
        of_key = torch.bmm(of_scores.mT, query)
        if values is not key:
            return of_query, of_key, torch.bmm(weights.mT, gradient)
        return of_query, of_key.baddbmm_(weights.mT, gradient)
    # A query is in one block per row, so its gradient is assigned; a key is in several blocks, so its gradients are
    # summed.
    of_query, *of_others = (torch.zeros_like(tensor) for tensor in tensors)
    for index, block in enumerate(blocks):
        rows, queries, keys = block
        weights = saved[index] if saved else _compute_weights(blocks, block, query, key)
        block_query, block_gradient = query[rows, queries], gradient[rows, queries]
        of_query[rows, queries], of_scores = _backward_to_scores(
            blocks, weights, key[rows, keys], values[rows, keys], block_gradient
        )
        if values is key:
            # One product for both terms of the sum, so that the accumulator is read and written once.
            block_query = torch.cat([block_query, block_gradient], 1)
            of_scores = torch.cat([of_scores, weights], 1)
        for of_other, right, left in zip(of_others, (block_query, block_gradient), (of_scores, weights), strict=False):
            of_other[rows, keys].baddbmm_(left.mT, right)
    return of_query, *of_others


def _backward_to_scores(
    blocks: _Blocks, weights: Tensor, key: Tensor, values: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the gradients of a block's queries and scores."""
    # Softmax with weights P and gradient dP: dS = P * (dP - sum(P * dP)), in one pass over the block.
    if blocks.are_narrow:
        of_scores = _softmax_backward(torch.bmm(values, gradient.mT), weights.mT, -2, weights.dtype).mT
    else:
        of_scores = _softmax_backward(torch.bmm(gradient, values.mT), weights, -1, weights.dtype)
    return torch.bmm(of_scores, key), of_scores


def _backward_with_graph(blocks: _Blocks, tensors: Sequence[Tensor], gradient: Tensor) -> Sequence[Tensor | None]:
    """Return differentiable gradients: compute the contexts again with torch's operations, all scores at once."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        tensors = separate(tensors)
    query, key, values = tensors[0], tensors[1], tensors[-1]
    time = torch.arange(query.shape[1], device=query.device)
    distance = time.unsqueeze(1) - time
    is_allowed = (distance > 0) if blocks.window is None else (distance > 0) & (distance <= blocks.window)
    # Positions in no block give zeros in the forward pass, and so must have no gradient.
    in_block = torch.zeros(query.shape[:2], dtype=torch.bool, device=query.device)
    for rows, queries, _ in blocks:
        in_block[rows, queries] = True
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        contexts = dot_product_attention(query, key, values, is_allowed & in_block.unsqueeze(2))
        contexts = torch.cat([values[:, :1], contexts[:, 1:]], 1)
    inputs = [tensor for tensor in tensors if tensor.requires_grad]
    gradients = iter(torch.autograd.grad(contexts, inputs, gradient, create_graph=create_graph, allow_unused=True))
    return [next(gradients) if tensor.requires_grad else None for tensor in tensors]
