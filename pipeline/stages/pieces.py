"""Queries in pieces: as many at a time as fit into a budget of memory; their scores are worked out again if need be."""

from collections.abc import Callable, Iterator
from typing import Final, Self, final

import attrs
import torch
from jaxtyping import Float, Shaped
from torch import Tensor
from torch.utils import checkpoint

from pipeline.errors import OptionError
from pipeline.parts.attention import Attention

MEMORY: Final = 64 * 2**20
"""How many bytes scores may take at once, unless something else is said."""

_PASSES: Final = 3
"""How many times what a score is made of is there at once: itself, and the gradients behind and before it."""
_AROUND: Final = 6
"""How many numbers a score takes beside that: itself, masked, as a weight, and their gradients."""

_again: Callable[..., Tensor] = getattr(checkpoint, "checkpoint")  # noqa: B009
"""Torch leaves its type open."""


def checked_memory(memory: int) -> int:
    """A budget, in bytes.

    Raises:
        OptionError: if it is below 1.
    """
    if memory < 1:
        msg = f"memory must be 1 byte or more, but {memory} arrived; leave it out for {MEMORY}."
        raise OptionError(msg, memory=memory)
    return memory


@final
@attrs.frozen
class Share:
    """How much is taken at a time.

    Attributes:
        rows: of how many rows; None for all.
        queries: how many steps of each; None for all.
        again: whether scores are thrown away after each piece, and worked out again for the gradients.
    """

    rows: int | None
    queries: int | None
    again: bool

    @classmethod
    def of(
        cls,
        attention: Attention,
        values: Float[Tensor, "batch time hidden"],
        *,
        keys: int,
        block: int | None,
        memory: int,
    ) -> Self:
        """As many queries and rows as fit into the memory; one query of one row if that does not.

        Args:
            attention: says how much a score takes.
            values: what attends.
            keys: how many keys a query may have.
            block: how many queries to take at most; None for all.
            memory: how many bytes the scores may take.
        """
        if attention.score_size == 0 or attention.forms_no_scores:
            return cls(None, block, again=False)
        rows, width = values.shape[:2]
        fit = memory // (values.element_size() * (_PASSES * attention.score_size + _AROUND))
        # Queries before rows: to put the gradients of a piece's keys together costs as much whatever it asks of them.
        queries = min(block or max(1, width), max(1, fit // max(1, keys)))
        some = min(rows, max(1, fit // max(1, queries * keys)))
        return cls(some, queries, again=rows * width * keys > fit)

    def by_rows(self, *tensors: Shaped[Tensor, "batch ..."]) -> Iterator[tuple[Tensor, ...]]:
        """The same rows of each.

        Example:
            >>> [some.shape[0] for (some,) in Share(2, 3, False).by_rows(torch.zeros(5, 4))]
            [2, 2, 1]
        """
        return zip(*(torch.split(tensor, self.rows or tensor.shape[0]) for tensor in tensors), strict=True)

    def by_queries(self, width: int) -> list[slice]:
        """Steps that ask at the same time; one piece at least.

        Example:
            >>> Share(2, 3, False).by_queries(4)
            [slice(0, 3, None), slice(3, 4, None)]
        """
        step = self.queries or max(1, width)
        return [slice(start, min(width, start + step)) for start in range(0, max(1, width), step)]

    def run(self, piece: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        """What a piece makes of tensors; nothing in between is kept, if it is to be worked out again."""
        if not (self.again and torch.is_grad_enabled()):
            return piece(*tensors)
        return _again(piece, *tensors, use_reentrant=False)


def joined(parts: list[Tensor], axis: int) -> Tensor:
    """Pieces put together; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)
