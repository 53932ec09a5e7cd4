"""Contexts of earlier steps where a score is an inner product, a block of steps at a time: what a CPU does best."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Final, NamedTuple

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline.functional.product_attention import mixed_by_product

_BLOCKS: Final = 16
"""How many blocks a row is cut into: many, and little is worked out of what they may not see; more, and calls cost."""
_BLOCK: Final = (32, 128)
"""How many steps a block has, at least and at most."""
_WHOLE: Final = 64
"""Up to how many steps all look back at once: half the work is for nothing, but its result is not copied."""
_CACHED: Final = 2**20
"""How many bytes the scores of one block take: as much as a core's cache holds."""
_KEPT: Final = 2
"""Which part of the memory, one in so many, weights may take until the gradients are asked for."""


def in_blocks(values: Tensor) -> bool:
    """Whether `mixed_earlier` is the way to mix these values.

    Elsewhere torch's kernels are: on a GPU, in half precision (they add up in full), and in a graph, which knows no
    loop over steps.
    """
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return values.dtype in {torch.float32, torch.float64} and not torch.is_autocast_enabled("cpu")


def mixed_earlier(
    query: Float[Tensor, "batch time inner"],
    key: Float[Tensor, "batch time inner"],
    values: Float[Tensor, "batch time hidden"],
    running: Sequence[int],
    *,
    window: int | None = None,
    memory: int,
) -> Float[Tensor, "batch time hidden"]:
    """Values, mixed by the softmax of query . key over earlier steps; the first step gets its own.

    Rows stand with the longest first. Blocks that lie in the padding are left out, and hold zeros; other padding must
    be finite, and may get any context. Gradients can be differentiated again, at the cost of all scores at once.

    Args:
        query: what asks.
        key: what is asked.
        values: what is mixed.
        running: how many rows still run at each time.
        window: how many steps back a step sees; None for all.
        memory: how many bytes scores may take. Weights that take less than half of it are kept for the gradients;
            others are worked out again.

    Source: Dao et al. 2022, "FlashAttention", arXiv:2205.14135, for the backward pass (appendix B.2). Our blocks are
    of whole rows of scores, whose softmax needs no second pass.

    Example:
        >>> steps = torch.tensor([[[1.0], [3.0], [5.0]]])
        >>> mixed_earlier(torch.zeros(1, 3, 1), steps, steps, [1, 1, 1], memory=2**20).flatten().tolist()
        [1.0, 1.0, 2.0]
    """
    tensors = (query, key) if values is key else (query, key, values)
    blocks = _Blocks(tuple(running), window, query.element_size())
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    keeps = wanted and blocks.scores * query.element_size() * _KEPT <= memory
    return _differentiable(blocks, keeps, *tensors)


class _Block(NamedTuple):
    """Some steps of some rows, and those that they look back at."""

    rows: slice
    queries: slice
    keys: slice


@attrs.frozen(slots=False)
class _Blocks:
    """How a batch is cut into blocks.

    Attributes:
        running: how many rows still run at each time.
        window: how many steps back a step sees; None for all.
        size: how many bytes a number takes.
    """

    running: tuple[int, ...]
    window: int | None
    size: int

    @cached_property
    def step(self) -> int:
        """How many steps a block has."""
        width, (least, most) = len(self.running), _BLOCK
        return width if width <= _WHOLE else min(most, max(least, width // _BLOCKS))

    @cached_property
    def alone(self) -> bool:
        """Whether one block holds everything."""
        width = len(self.running)
        return width <= self.step and self.rows >= self.running[0] == self.running[-1]

    @cached_property
    def rows(self) -> int:
        """How many rows a block has."""
        width = len(self.running)
        reach = width if self.window is None else min(width, self.step + self.window)
        return max(1, _CACHED // (self.size * self.step * reach))

    @property
    def scores(self) -> int:
        """How many scores all blocks have."""
        return sum(
            (rows.stop - rows.start) * (queries.stop - queries.start) * (keys.stop - keys.start)
            for rows, queries, keys in self
        )

    def __iter__(self) -> Iterator[_Block]:
        width, step, some = len(self.running), self.step, self.rows
        for first in range(0, self.running[0], some):
            for start in range(0, width, step):
                last = min(first + some, self.running[start])
                if last <= first:
                    break
                stop = min(width, start + step)
                back = 0 if self.window is None else max(0, start - self.window)
                # The last query may not see the last key; but widths that are even are worked on much faster.
                yield _Block(slice(first, last), slice(start, stop), slice(back, stop))

    def hide(self, scores: Float[Tensor, "rows query key"], block: _Block) -> None:
        """Fill the scores of what is not earlier, or too long ago, with minus infinity; the first step has itself."""
        _, queries, keys = block
        steps, ahead = queries.stop - queries.start, queries.start - keys.start
        square = torch.ones(steps, steps, dtype=torch.bool, device=scores.device)
        later = square.triu()
        if queries.start == 0:
            later[0, 0] = False
        scores[:, :, ahead:].masked_fill_(later, -torch.inf)
        if self.window is not None:
            scores[:, :, :steps].masked_fill_(square.tril(ahead - self.window - 1), -torch.inf)


def _weights(blocks: _Blocks, block: _Block, query: Tensor, key: Tensor) -> Float[Tensor, "rows query key"]:
    rows, queries, keys = block
    scores = torch.bmm(query[rows, queries], key[rows, keys].mT)
    blocks.hide(scores, block)
    return scores.softmax(-1)


class _Earlier(torch.autograd.Function):
    """Contexts whose backward pass makes one block's gradients at a time."""

    @staticmethod
    def forward(ctx: FunctionCtx, blocks: _Blocks, keeps: bool, *tensors: Tensor) -> Tensor:
        """Contexts of queries, keys and, if they are others, values."""
        query, key, values = tensors[0], tensors[1], tensors[-1]
        # What no block holds is zeros; a single one is all there is, and is not copied.
        found = values if blocks.alone else torch.zeros_like(values)
        kept: list[Tensor] = []
        for block in blocks:
            weights = _weights(blocks, block, query, key)
            if keeps:
                kept.append(weights)
            mixed = torch.bmm(weights, values[block.rows, block.keys])
            if blocks.alone:
                found = mixed
            else:
                found[block.rows, block.queries] = mixed
        save: Callable[..., None] = ctx.save_for_backward
        save(*tensors, *kept)
        setattr(ctx, "blocks", blocks)  # noqa: B010 - torch leaves open what a context holds
        setattr(ctx, "inputs", len(tensors))  # noqa: B010
        return found

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by queries, keys and values."""
        blocks: _Blocks = getattr(ctx, "blocks")  # noqa: B009
        count: int = getattr(ctx, "inputs")  # noqa: B009
        saved: tuple[Tensor, ...] = getattr(ctx, "saved_tensors")  # noqa: B009
        tensors, kept = saved[:count], saved[count:]
        # Gradients that shall be differentiated themselves are made of operations that can be.
        if torch.is_grad_enabled():
            return None, None, *_again(blocks, tensors, gradients[0])
        return None, None, *_backward(blocks, tensors, kept, gradients[0])


_differentiable: Final[Callable[..., Tensor]] = getattr(_Earlier, "apply")  # noqa: B009
"""Contexts of blocks, whether weights are kept, and of queries, keys and values; with gradients."""

_behind_softmax: Final[Callable[[Tensor, Tensor, int, torch.dtype], Tensor]] = getattr(torch, "_softmax_backward_data")  # noqa: B009
"""Gradients by scores, of those by weights, and weights."""


def _backward(blocks: _Blocks, tensors: Sequence[Tensor], kept: Sequence[Tensor], gradient: Tensor) -> Sequence[Tensor]:
    """Gradients by all tensors. Keys that are the values too get the sum of both."""
    query, key, values = tensors[0], tensors[1], tensors[-1]
    if blocks.alone:
        (weights,) = kept or [_weights(blocks, block, query, key) for block in blocks]
        by_query, by_scores = _behind(weights, key, values, gradient)
        by_key = torch.bmm(by_scores.mT, query)
        if values is not key:
            return by_query, by_key, torch.bmm(weights.mT, gradient)
        return by_query, by_key.baddbmm_(weights.mT, gradient)
    by_query, *others = (torch.zeros_like(tensor) for tensor in tensors)
    for index, block in enumerate(blocks):
        rows, queries, keys = block
        weights = kept[index] if kept else _weights(blocks, block, query, key)
        asking, asked = query[rows, queries], gradient[rows, queries]
        by_query[rows, queries], by_scores = _behind(weights, key[rows, keys], values[rows, keys], asked)
        if values is key:
            # Both in one product: what they are added to is gone through once.
            asking, by_scores = torch.cat([asking, asked], 1), torch.cat([by_scores, weights], 1)
        for by_key, of, by in zip(others, (asking, asked), (by_scores, weights), strict=False):
            by_key[rows, keys].baddbmm_(by.mT, of)
    return by_query, *others


def _behind(weights: Tensor, key: Tensor, values: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients by some queries, and by their scores."""
    by_scores = _behind_softmax(torch.bmm(gradient, values.mT), weights, -1, weights.dtype)
    return torch.bmm(by_scores, key), by_scores


def _again(blocks: _Blocks, tensors: Sequence[Tensor], gradient: Tensor) -> Sequence[Tensor | None]:
    """The gradients as a graph of their own, of contexts that are worked out once more, all scores at once."""
    query, key, values = tensors[0], tensors[1], tensors[-1]
    time = torch.arange(query.shape[1], device=query.device)
    behind = time.unsqueeze(1) - time
    earlier = (behind > 0) if blocks.window is None else (behind > 0) & (behind <= blocks.window)
    # What no block holds, zeros, stays that.
    held = torch.zeros(query.shape[:2], dtype=torch.bool, device=query.device)
    for rows, queries, _ in blocks:
        held[rows, queries] = True
    with sdpa_kernel(SDPBackend.MATH):
        found = mixed_by_product(query, key, values, earlier & held.unsqueeze(2))
    found = torch.cat([values[:, :1], found[:, 1:]], 1)
    asked = [tensor for tensor in tensors if tensor.requires_grad]
    given = iter(torch.autograd.grad(found, asked, gradient, create_graph=True, allow_unused=True))
    return [next(given) if tensor.requires_grad else None for tensor in tensors]
