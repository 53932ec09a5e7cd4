"""What an encoder makes of a batch, and what a pool makes of that."""

from typing import Generic, Self, cast

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import TypeVar

from pipeline.checks.shapes import checked, described
from pipeline.checks.switches import at_border
from pipeline.data.batches import Batch, Carry, Packed, Padded
from pipeline.data.device import to_device
from pipeline.data.metadata import BatchMetadata, check_metadata, default_row_metadata
from pipeline.data.order import Order
from pipeline.data.pytrees import as_pytree
from pipeline.data.report import Report
from pipeline.data.row_ends import last_by_row
from pipeline.data.rows import Hidden, Kind
from pipeline.errors import ShapeError


class MaybeCausal:
    """How far a step has seen: with nothing more said, perhaps the whole row."""


class Causal(MaybeCausal):
    """A step has seen no later one."""


S = TypeVar("S", bound=MaybeCausal)
S_co = TypeVar("S_co", bound=MaybeCausal, covariant=True, default=MaybeCausal)


@as_pytree
@checked
@attrs.frozen(eq=False)
class States(Generic[S_co]):
    """One hidden vector a real step, in either layout, and each row's final state.

    Attributes:
        steps: the hidden vectors, as a batch of the rows that they were made of.
        final: what the encoder ended each row with, the two directions merged; attention leaves it
            as it is.
        carried: the encoder's final states in the form that it takes as `initial`.
        engine: what computed them, where an encoder has a choice; for the report.

    Raises:
        ShapeError: if the final states are not of the same rows and size as the steps.

    Example:
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> states.packed().values.shape, states.padded().values[1, :, 0].tolist()
        (torch.Size([4, 4]), [1.0, 0.0, 0.0])
    """

    steps: Batch[Hidden]
    final: Float[Tensor, "batch hidden"]
    carry: Carry | None = attrs.field(default=None, kw_only=True)
    engine: str | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not at_border():
            return
        wanted = (len(self.lengths), self.steps.values.shape[-1])
        if not issubclass(cast("type[Kind]", self.steps.kind), Hidden) or self.final.shape != wanted:
            msg = (
                f"States: final must be batch x hidden, {wanted} like its steps, but {described(self.final)} arrived, "
                f"beside {self.steps.kind.__name__} of {described(self.steps.values)}; make both of the same rows."
            )
            raise ShapeError(msg, argument="final")

    @classmethod
    def from_padded(
        cls, values: Float[Tensor, "batch time hidden"], lengths: Int64[Tensor, " batch"]
    ) -> "States[MaybeCausal]":
        """States from a plain rectangle: how a script without the framework calls any pool or attention.

        Each row's final state is its last real step; zeros if it has none.

        Raises:
            ShapeError: if the tensors do not fit each other.
            LengthError: if a length is negative or larger than the rectangle.
        """
        steps = Padded(Hidden, values, lengths)
        return States(steps, last_by_row(steps))

    @property
    def lengths(self) -> Int64[Tensor, " batch"]:
        """How many steps each row has, rows in reading order; on the CPU."""
        return self.steps.lengths

    @property
    def width(self) -> int:
        """How many steps the padded rectangle of these rows is wide."""
        return self.steps.width

    @property
    def order(self) -> Order:
        """Where each step stands when the rows are packed."""
        return self.steps.order

    @property
    def metadata(self) -> BatchMetadata:
        """What rides along: places, targets, and which steps are asked for."""
        return self.steps.metadata

    @property
    def mask(self) -> Bool[Tensor, "batch time"]:
        """True at the real steps of the rectangle that `padded` gives."""
        return self.order.mask(self.width)

    def packed(self) -> Packed[Hidden]:
        """The hidden vectors, real steps alone."""
        return self.steps.packed()

    def padded(self) -> Padded[Hidden]:
        """The hidden vectors in a rectangle, zeros in its padding."""
        return self.steps.padded().fill_padding(0) if isinstance(self.steps, Padded) else self.steps.padded()

    def with_values(self, steps: Batch[Hidden]) -> Self:
        """These states with other vectors a step, in the layout that these have; final states stay as they are."""
        return attrs.evolve(self, steps=steps if isinstance(self.steps, Padded) else steps.packed())

    def report(self) -> Report:
        """The real and padded steps, and the engine that computed these states of them."""
        return attrs.evolve(self.steps.report(), engines={} if self.engine is None else {self.engine: 1})

    def to(self, device: torch.device | str) -> Self:
        """The same states on another device; their lengths stay on the CPU as well."""
        return to_device(self, device)


@as_pytree
@checked
@attrs.frozen(eq=False)
class Pooled:
    """One vector a row.

    Example:
        >>> Pooled(torch.zeros(2, 3)).metadata.places.tolist()
        [0, 1]
    """

    values: Float[Tensor, "batch hidden"]
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(default_row_metadata, takes_self=True), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if at_border():
            check_metadata(self.metadata, self.values.shape[0])

    def to(self, device: torch.device | str) -> Self:
        """The same vectors on another device."""
        return to_device(self, device)
