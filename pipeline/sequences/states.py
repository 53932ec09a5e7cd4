"""What an encoder makes of a batch, and what a pool makes of that."""

from typing import Generic, Self

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from typing_extensions import TypeVar

from pipeline.checked import checked
from pipeline.errors import ShapeError
from pipeline.sequences.batches import Carry, Padded, check_lengths, check_steps, packed_steps, padded_steps
from pipeline.sequences.moves import STAYS, to_device
from pipeline.sequences.order import Order, longest_of, order_of
from pipeline.sequences.pytrees import as_pytree
from pipeline.sequences.riders import Riders, riders_of, riders_of_vectors
from pipeline.sequences.rows import Vectors


class Sight:
    """How far a step has seen: with nothing more said, perhaps the whole row."""


class Causal(Sight):
    """A step has seen no later one."""


S = TypeVar("S", bound=Sight)
S_co = TypeVar("S_co", bound=Sight, covariant=True, default=Sight)


@as_pytree
@checked
@attrs.frozen(eq=False)
class States(Generic[S_co]):
    """One hidden vector a real step, packed, and each row's final state.

    Attributes:
        values: the hidden vectors in packed order.
        lengths: how many steps each row has, rows in reading order; on the CPU.
        final: what the encoder ended each row with, the two directions merged; attention leaves it
            as it is.
        width: how wide the padded rectangle of these rows is.
        carried: the encoder's final states in the form that it takes as `initial`.

    Raises:
        ShapeError: if the tensors do not fit each other.
        LengthError: if the lengths do not add up to the steps.

    Example:
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> states.values.shape, states.padded().values[1, :, 0].tolist()
        (torch.Size([4, 4]), [1.0, 0.0, 0.0])
    """

    values: Float[Tensor, "steps hidden"]
    lengths: Int64[Tensor, " batch"] = attrs.field(metadata=STAYS)
    final: Float[Tensor, "batch hidden"]
    width: int = attrs.field(default=attrs.Factory(longest_of, takes_self=True), kw_only=True)
    carried: Carry | None = attrs.field(default=None, kw_only=True)
    riders: Riders = attrs.field(default=attrs.Factory(riders_of, takes_self=True), kw_only=True)
    order: Order = attrs.field(default=attrs.Factory(order_of, takes_self=True), kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        check_lengths(self.lengths, self.width)
        check_steps(len(self.values), self.order.steps)

    @classmethod
    def from_padded(
        cls, values: Float[Tensor, "batch time hidden"], lengths: Int64[Tensor, " batch"]
    ) -> "States[Sight]":
        """States from a plain rectangle: how a script without the framework calls any pool or attention.

        Each row's final state is its last real step; zeros if it has none.

        Raises:
            ShapeError: if the tensors do not fit each other.
            LengthError: if a length is negative or larger than the rectangle.
        """
        packed = Padded(Vectors, values, lengths).packed()
        steps, order = packed.values, packed.order
        return States(steps, lengths, at_rows(steps, order, order.last), width=packed.width, order=order)

    def padded(self) -> Padded[Vectors]:
        """The hidden vectors in a rectangle, zeros in its padding."""
        values = padded_steps(self.values, self.order, self.width)
        return Padded(Vectors, values, self.lengths, riders=self.riders, order=self.order)

    @property
    def mask(self) -> Bool[Tensor, "batch time"]:
        """True at the real steps of the rectangle that `padded` gives."""
        return self.order.mask(self.width)

    def with_padded(self, values: Float[Tensor, "batch time hidden"]) -> Self:
        """These states with other vectors, taken from the real steps of a rectangle.

        Raises:
            ShapeError: if the rectangle is not as large as these states' own.
        """
        if values.shape[:2] != (len(self.lengths), self.width):
            msg = (
                f"values must be {len(self.lengths)} x {self.width} x hidden, the size of these states, but "
                f"{tuple(values.shape)} arrived; keep the rectangle that padded() gave."
            )
            raise ShapeError(msg, argument="values")
        return attrs.evolve(self, values=packed_steps(values, self.order))

    def to(self, device: torch.device | str) -> Self:
        """The same states on another device; their lengths stay on the CPU as well."""
        return to_device(self, device)


@as_pytree
@checked
@attrs.frozen(eq=False)
class Pooled:
    """One vector a row.

    Example:
        >>> Pooled(torch.zeros(2, 3)).riders.places.tolist()
        [0, 1]
    """

    values: Float[Tensor, "batch hidden"]
    riders: Riders = attrs.field(default=attrs.Factory(riders_of_vectors, takes_self=True), kw_only=True)

    def to(self, device: torch.device | str) -> Self:
        """The same vectors on another device."""
        return to_device(self, device)


def at_rows(
    steps: Float[Tensor, "steps hidden"], order: Order, chosen: Int64[Tensor, " occupied"]
) -> Float[Tensor, "batch hidden"]:
    """One packed step of each row that has any, such as `order.last`; zeros for rows that have none."""
    found = steps.index_select(0, chosen)
    if order.occupied == len(order.lengths):
        return found
    rows = (order.lengths > 0).nonzero().squeeze(1).to(steps.device)
    return steps.new_zeros(len(order.lengths), steps.shape[1]).index_copy(0, rows, found)
