"""Process attention queries in chunks whose scores fit a memory budget, recomputing scores in the backward pass."""

from collections.abc import Callable, Iterator
from typing import Final, Self, final

import attrs
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils import checkpoint

from pipeline.checks.options import check_int
from pipeline.parts.attention import Attention

MEMORY: Final = 64 * 2**20
"""The default memory budget of scores, in bytes."""

# The peak memory of a score and its gradients, in numbers per pair of query and key. The intermediate values of a score
# (`Attention.score_size` of them) exist up to 3 times at once: themselves, and the gradients before and after an
# operation. On top come 6 numbers: the score, the masked score, the weight, and their gradients.
_COPIES: Final = 3
_FIXED: Final = 6

# Torch's stubs leave its type open.
_checkpoint: Callable[..., Tensor] = getattr(checkpoint, "checkpoint")  # noqa: B009


def check_memory(memory: int) -> int:
    """Return a memory budget in bytes.

    Raises:
        OptionError: if it is no integer, or is below 1.
    """
    return check_int("memory", memory, minimum=1, advice=f"leave it out for {MEMORY} bytes")


@final
@attrs.frozen
class QueryChunks:
    """The size of the chunks in which queries are processed.

    Attributes:
        rows: the rows of a chunk; None for all.
        queries: the steps per row of a chunk; None for all.
        recompute: whether scores are discarded after each chunk, and recomputed in the backward pass.
    """

    rows: int | None
    queries: int | None
    recompute: bool

    @classmethod
    def of(
        cls,
        attention: Attention,
        values: Float[Tensor, "batch time hidden"],
        *,
        keys: int,
        block: int | None,
        memory: int,
        stores_scores: bool = False,
    ) -> Self:
        """Return the largest chunks that fit the memory; at least one query of one row.

        Args:
            attention: states how much memory a score takes.
            values: the queries.
            keys: the maximum number of keys per query.
            block: the maximum number of queries per row; None for all.
            memory: the budget in bytes.
            stores_scores: whether the caller computes all scores, even if the attention does not need to.
        """
        if attention.score_size == 0 or (attention.uses_fused_attention and not stores_scores):
            return cls(None, block, recompute=False)
        rows, width = values.shape[:2]
        pairs = memory // (values.element_size() * (_COPIES * attention.score_size + _FIXED))
        # Fill up queries before rows: adding up the keys' gradients over chunks costs the same for few queries as for
        # many.
        queries = min(block or max(1, width), max(1, pairs // max(1, keys)))
        chunk_rows = min(rows, max(1, pairs // max(1, queries * keys)))
        return cls(chunk_rows, queries, recompute=rows * width * keys > pairs)

    def split_rows(self, *tensors: Shaped[Tensor, "batch ..."]) -> Iterator[tuple[Tensor, ...]]:
        """Yield the same rows of each tensor.

        Example:
            >>> [rows.shape[0] for (rows,) in QueryChunks(2, 3, False).split_rows(torch.zeros(5, 4))]
            [2, 2, 1]
        """
        return zip(*(torch.split(tensor, self.rows or tensor.shape[0]) for tensor in tensors), strict=True)

    def split_queries(self, width: int) -> list[slice]:
        """Return the steps of each chunk; at least one chunk.

        Example:
            >>> QueryChunks(2, 3, False).split_queries(4)
            [slice(0, 3, None), slice(3, 4, None)]
        """
        step = self.queries or max(1, width)
        return [slice(start, min(width, start + step)) for start in range(0, max(1, width), step)]

    def run(self, function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """Call a function on a chunk; intermediate values are discarded if they are to be recomputed."""
        if not (self.recompute and torch.is_grad_enabled()):
            return function(*tensors)
        return _checkpoint(function, *tensors, use_reentrant=False)


def concatenate(chunks: list[Tensor], axis: int) -> Tensor:
    """Concatenate chunks; a single one is not copied."""
    return chunks[0] if len(chunks) == 1 else torch.cat(chunks, axis)
