"""Rows collated into tensors, in either layout."""

from typing import TYPE_CHECKING, Generic, Self, TypeAlias

import attrs
import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from typing_extensions import TypeIs

from pipeline.checks.shapes import checked, described
from pipeline.checks.switches import at_border
from pipeline.data.device import STAYS, pinned, to_device
from pipeline.data.metadata import BatchMetadata, check_metadata, default_metadata
from pipeline.data.order import Order, longest_of, order_of
from pipeline.data.pytrees import as_pytree
from pipeline.data.report import Report
from pipeline.data.rows import Hidden, Ids, K, K_co, Kind
from pipeline.errors import EmptyBatchError, LengthError, OptionError, ShapeError

if TYPE_CHECKING:
    from pipeline.data.states import Causal, States

Carry: TypeAlias = tuple[Tensor, ...]
"""What a recurrent encoder carries from step to step: tensors of layers x batch x size, `(h, c)` for an LSTM."""


def check_lengths(lengths: Tensor, order: Order, width: int | None = None) -> None:
    """Refuse lengths that cannot be true of rows at most `width` steps long.

    Raises:
        EmptyBatchError: if there is no row.
        ShapeError: if the lengths are not on the CPU, or are not those of the order.
        LengthError: if one is negative or larger than the width.
    """
    if lengths.device.type != "cpu":
        msg = (
            f"lengths must be on the CPU, but they are on {lengths.device}; they steer the packing, and "
            "reading them back would stall the device: pass lengths.cpu(), made once when the batch is collated."
        )
        raise ShapeError(msg, device=str(lengths.device))
    if len(lengths) == 0:
        raise EmptyBatchError("lengths is empty: a batch holds at least one row; skip batches of none.")
    if order.lengths is not lengths and not torch.equal(order.lengths, lengths):
        msg = "order was made of other lengths than those beside it; leave it out, and it is worked out."
        raise ShapeError(msg, argument="order")
    # Asked of the order, which all that is made of one batch shares: the lengths are read once.
    if order.shortest < 0:
        row = int(lengths.argmin())
        msg = f"lengths[{row}] is {int(lengths[row])}, but a row has 0 steps or more; count its steps again."
        raise LengthError(msg, row=row, length=int(lengths[row]))
    if width is not None and order.longest > width:
        row = int(lengths.argmax())
        msg = (
            f"lengths[{row}] is {int(lengths[row])}, but values has only {width} steps; "
            "build the batch with Pad, or pass the lengths from before truncation."
        )
        raise LengthError(msg, row=row, length=int(lengths[row]), width=width)


def _check_kind(kind: type[Kind], values: Tensor, axes: int) -> None:
    if kind is Ids:
        rule, right = "int64 ids", values.dtype is torch.int64 and values.ndim == axes
    else:
        rule, right = "floating-point vectors", values.is_floating_point() and values.ndim == axes + 1
    if not right:
        layout = "batch x time" if axes == 2 else "steps"
        msg = (
            f"values must be {rule} of {layout}{'' if kind is Ids else ' x feature'} for kind {kind.__name__}, "
            f"but {described(values)} arrived; say Ids for numbered tokens and Vectors for features."
        )
        raise ShapeError(msg, argument="values")


def _check_initial(initial: Carry | None, batch: int) -> None:
    for index, tensor in enumerate(initial or ()):
        if tensor.ndim != 3 or tensor.shape[1] != batch:
            msg = (
                f"initial[{index}] must be layers x batch x size with a batch of {batch}, but {described(tensor)} "
                "arrived; pass what an encoder gave as `carried` for the same rows."
            )
            raise ShapeError(msg, argument="initial")


def _carried(before: "States[Causal] | None", metadata: BatchMetadata) -> Carry | None:
    """What the rows start from that go on, zeros for those that begin; no gradient goes back through it."""
    if before is None:
        if metadata.start_steps is not None:
            row = int(metadata.start_steps.argmax())
            msg = (
                f"row {int(metadata.row_ids[row])} goes on at step {int(metadata.start_steps[row])}, but no states arrived; pass "
                "those of the batch before."
            )
            raise OptionError(msg, row=row)
        return None
    if before.carry is None:
        msg = "the states that arrived carry nothing on; encode with an encoder that is stateful, such as lstm."
        raise ShapeError(msg, argument="before")
    _check_initial(before.carry, len(metadata.row_ids))
    goes_on = metadata.continues.to(before.final.device, non_blocking=True).unsqueeze(1)
    # Filled, not multiplied: a row that ended in NaN does not spoil the one that begins.
    return tuple(state.detach().masked_fill(~goes_on, 0) for state in before.carry)


@as_pytree
@checked
@attrs.frozen(eq=False)
class Padded(Generic[K_co]):
    """Rows of unequal length in one rectangle, real steps first.

    Cells at or past a row's length may hold anything, NaN included, and change no answer.

    Attributes:
        kind: what the steps are: `Ids`, `Vectors` or `Hidden`.
        values: the rectangle.
        lengths: how many steps of each row are real; on the CPU.
        initial: what a recurrent encoder starts from; zeros if None.

    Raises:
        ShapeError: if the tensors do not fit each other or the kind.
        LengthError: if a length is negative or larger than the rectangle.
        EmptyBatchError: if there is no row.

    Example:
        >>> batch = Padded(Ids, torch.tensor([[1, 2, 3], [3, 4, 0]]), torch.tensor([3, 2]))
        >>> packed = batch.packed()
        >>> packed.values.tolist(), packed.order.batch_sizes.tolist()
        ([1, 3, 2, 4, 3], [2, 2, 1])
        >>> print(batch.report())
        2 rows in 1 batch: 5 real steps, 6 padded, 16.7% of the padded work wasted
    """

    kind: type[K_co]
    values: Shaped[Tensor, "batch time *feature"]
    lengths: Int64[Tensor, " batch"] = attrs.field(metadata=STAYS)
    initial_carry: Carry | None = attrs.field(default=None, kw_only=True)
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(default_metadata, takes_self=True), kw_only=True)
    order: Order = attrs.field(default=attrs.Factory(order_of, takes_self=True), kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        if not at_border():
            return
        _check_kind(self.kind, self.values, axes=2)
        check_lengths(self.lengths, self.order, self.width)
        check_metadata(self.metadata, len(self.lengths), self.width)
        _check_initial(self.initial_carry, len(self.lengths))

    @property
    def width(self) -> int:
        """How many steps the rectangle is wide."""
        return self.values.shape[1]

    def packed(self) -> "Packed[K_co]":
        """The same rows, real steps only. Copies each real step once, but of a lone row without padding none."""
        return Packed(
            self.kind,
            packed_steps(self.values, self.order),
            self.lengths,
            width=self.width,
            initial_carry=self.initial_carry,
            metadata=self.metadata,
            order=self.order,
        )

    def padded(self) -> Self:
        """This batch, which is padded already."""
        return self

    def fill_padding(self, value: float = 0) -> Self:
        """The same rows, their padding filled with one value: for those who compute on the whole rectangle.

        A rectangle without padding comes back as it is.
        """
        if torch.compiler.is_compiling():
            mask = self.order.mask(self.width)
            filled = self.values.masked_fill(~mask.reshape(*mask.shape, *[1] * (self.values.ndim - 2)), value)
            return attrs.evolve(self, values=filled)
        if self.order.fills(self.width):
            return self
        # By cells, and not by a mask: three times as fast, since nothing is looked at but the padding.
        cells = self.values.flatten(0, 1).index_fill(0, self.order.padding(self.width), value)
        return attrs.evolve(self, values=cells.reshape(self.values.shape))

    def with_values(self, values: Float[Tensor, "batch time feature"]) -> "Padded[Hidden]":
        """The same rows with hidden vectors in place of what they hold, and without an initial state."""
        return Padded(Hidden, values, self.lengths, metadata=self.metadata, order=self.order)

    def with_carry(self, before: "States[Causal] | None") -> Self:
        """The same rows, those that go on starting from the states that the batch before ended with.

        A row goes on from the row at the same index of the batch before: so `BPTTWindows` deals them. The others start from
        zeros. No gradient goes back into the batch before.

        Args:
            before: the states of the batch before; None for the first batch.

        Raises:
            OptionError: if a row goes on, but there are no states.
            ShapeError: if the states carry nothing on, or are of another number of rows.
        """
        return attrs.evolve(self, initial_carry=_carried(before, self.metadata))

    def report(self) -> Report:
        """Its real and padded steps."""
        return Report(1, self.metadata.rows, self.order.steps, len(self.lengths) * self.width)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device; its lengths stay on the CPU as well."""
        return to_device(self, device)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, as a `DataLoader` asks for it."""
        return pinned(self)


@as_pytree
@checked
@attrs.frozen(eq=False)
class Packed(Generic[K_co]):
    """Rows of unequal length, real steps only, in the order of torch's `PackedSequence`.

    Attributes:
        kind: what the steps are: `Ids`, `Vectors` or `Hidden`.
        values: the real steps, time-major, the longest row first.
        lengths: how many steps each row has, rows in reading order; on the CPU.
        width: how wide the rectangle is that these rows came from, and go back to.
        initial: what a recurrent encoder starts from; zeros if None.

    Raises:
        ShapeError: if the tensors do not fit each other or the kind.
        LengthError: if a length is negative or larger than the width, or they do not add up to the steps.
        EmptyBatchError: if there is no row.
    """

    kind: type[K_co]
    values: Shaped[Tensor, "steps *feature"]
    lengths: Int64[Tensor, " batch"] = attrs.field(metadata=STAYS)
    width: int = attrs.field(default=attrs.Factory(longest_of, takes_self=True), kw_only=True)
    initial_carry: Carry | None = attrs.field(default=None, kw_only=True)
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(default_metadata, takes_self=True), kw_only=True)
    order: Order = attrs.field(default=attrs.Factory(order_of, takes_self=True), kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        if not at_border():
            return
        _check_kind(self.kind, self.values, axes=1)
        check_lengths(self.lengths, self.order, self.width)
        check_steps(len(self.values), self.order.steps)
        check_metadata(self.metadata, len(self.lengths), self.width)
        _check_initial(self.initial_carry, len(self.lengths))

    def packed(self) -> Self:
        """This batch, which is packed already."""
        return self

    def with_values(self, values: Float[Tensor, "steps feature"]) -> "Packed[Hidden]":
        """The same rows with hidden vectors in place of what they hold, and without an initial state."""
        return Packed(
            Hidden,
            values,
            self.lengths,
            width=self.width,
            metadata=self.metadata,
            order=self.order,
        )

    def padded(self) -> Padded[K_co]:
        """The same rows in a rectangle as wide as the one that they came from, zeros in its padding."""
        return Padded(
            self.kind,
            padded_steps(self.values, self.order, self.width),
            self.lengths,
            initial_carry=self.initial_carry,
            metadata=self.metadata,
            order=self.order,
        )

    def report(self) -> Report:
        """Its real steps, and the padded ones that packing left out."""
        return Report(1, self.metadata.rows, self.order.steps, len(self.lengths) * self.width)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device; its lengths stay on the CPU as well."""
        return to_device(self, device)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory, as a `DataLoader` asks for it."""
        return pinned(self)


Batch: TypeAlias = Padded[K] | Packed[K]
"""A batch in either layout."""


def is_batch(value: object) -> TypeIs[Batch[Kind]]:
    """Whether something is a batch, in either layout."""
    return isinstance(value, Padded | Packed)


def check_steps(steps: int, wanted: int) -> None:
    """Refuse packed values whose number of steps is not the sum of the lengths."""
    if steps != wanted:
        msg = f"lengths add up to {wanted} steps, but values has {steps}; pack values and lengths of the same rows."
        raise LengthError(msg, steps=steps, wanted=wanted)


def packed_steps(values: Shaped[Tensor, "batch time *feature"], order: Order) -> Shaped[Tensor, "steps *feature"]:
    """The real steps of a rectangle, in packed order."""
    if order.fills(values.shape[1]):
        # Rows of one length keep reading order: to turn the rectangle is cheaper than to look each step up.
        return values.transpose(0, 1).flatten(0, 1)
    return values.flatten(0, 1).index_select(0, order.cells(values.shape[1]))


def padded_steps(
    values: Shaped[Tensor, "steps *feature"], order: Order, width: int
) -> Shaped[Tensor, "batch time *feature"]:
    """Packed steps in a rectangle `width` wide, zeros in its padding."""
    batch = len(order.lengths)
    if order.fills(width):
        return values.reshape(width, batch, *values.shape[1:]).transpose(0, 1).contiguous()
    cells = values.new_zeros(batch * width, *values.shape[1:])
    return cells.index_copy_(0, order.cells(width), values).reshape(batch, width, *values.shape[1:])
