"""What rides along with a batch's values, from the input to the answers."""

from typing import Protocol

import attrs
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pipeline.checks.shapes import checked
from pipeline.data.device import STAYS
from pipeline.data.pytrees import as_pytree
from pipeline.data.rows import FILLER
from pipeline.errors import ShapeError

IGNORED = -100
"""The target of whatever has none: torch's own `ignore_index`."""


@as_pytree
@checked
@attrs.frozen(eq=False)
class BatchMetadata:
    """Each row's place in the input, its target, and which of its steps are asked for.

    Attributes:
        places: where each row stood in the input; on the CPU.
        targets: a class a row, or a class a step in a padded rectangle whatever the layout of
            the values; `IGNORED` where there is none.
        asked: True at the steps of which an answer is wanted; None means every real step; on the CPU.
        begins: which step of its row each row begins with, where rows were cut; None means the first; on the CPU.
    """

    row_ids: Int64[Tensor, " batch"] = attrs.field(metadata=STAYS)
    targets: Int64[Tensor, " batch"] | Int64[Tensor, "batch time"] | None = None
    answer_mask: Bool[Tensor, "batch time"] | None = attrs.field(default=None, metadata=STAYS)
    start_steps: Int64[Tensor, " batch"] | None = attrs.field(default=None, metadata=STAYS)

    @property
    def weight(self) -> Int64[Tensor, ""]:
        """How many targets count: rows or steps that have one."""
        if self.targets is None:
            return torch.zeros((), dtype=torch.int64)
        return (self.targets != IGNORED).sum()

    @property
    def rows(self) -> int:
        """How many rows stand for one of the input: those that fill a batch up do not."""
        return int((self.row_ids != FILLER).sum())

    @property
    def continues(self) -> Bool[Tensor, " batch"]:
        """True at the rows that go on with a row of which earlier steps came before; on the CPU."""
        return torch.zeros_like(self.row_ids, dtype=torch.bool) if self.start_steps is None else self.start_steps > 0


def check_metadata(metadata: BatchMetadata, batch: int, width: int | None = None) -> None:
    """Refuse metadata that are not those of `batch` rows, or, where they speak of each step, not `width` steps wide.

    Raises:
        ShapeError: naming the field.
    """
    if metadata.row_ids.shape[0] != batch:
        msg = (
            f"metadata has places of {len(metadata.row_ids)} rows, but the batch has {batch}; give each row one place."
        )
        raise ShapeError(msg, argument="metadata")
    for field, steps in (("targets", metadata.targets), ("asked", metadata.answer_mask)):
        if width is not None and steps is not None and steps.ndim == 2 and steps.shape[1] != width:
            msg = (
                f"metadata.{field} has {steps.shape[1]} steps a row, but the batch is {width} steps wide; "
                "pad them together with the values."
            )
            raise ShapeError(msg, argument="metadata")


class _HasLengths(Protocol):
    @property
    def lengths(self) -> Tensor: ...


class _HasValues(Protocol):
    @property
    def values(self) -> Tensor: ...


def default_metadata(batch: _HasLengths) -> BatchMetadata:
    """BatchMetadata of a batch made by hand: places in order, and no targets."""
    return BatchMetadata(torch.arange(batch.lengths.shape[0]))


def default_row_metadata(batch: _HasValues) -> BatchMetadata:
    """The same where there is one vector a row, and so no lengths."""
    return BatchMetadata(torch.arange(batch.values.shape[0]))
