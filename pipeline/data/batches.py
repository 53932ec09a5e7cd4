"""Batches: rows collated into tensors, in the padded or the packed layout."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Generic, Literal, Self, TypeAlias, cast

import attrs
import torch
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor
from typing_extensions import TypeIs

from pipeline.checks.hints import describe
from pipeline.checks.shapes import checked
from pipeline.checks.switches import checks_enabled
from pipeline.data.batch_checks import check_carry, check_kind, check_lengths, check_new_values, check_step_count
from pipeline.data.kinds import Composite, Hidden, K, K_co, Kind, Vectors, format_kind, get_kind_class
from pipeline.data.metadata import BatchMetadata, Collated, check_metadata, make_metadata
from pipeline.data.packing_order import PackingOrder, longest_of, make_order
from pipeline.data.report import Report
from pipeline.data.trees import ON_CPU, as_pytree, build_unchecked
from pipeline.errors import OptionError, ShapeError

if TYPE_CHECKING:
    from pipeline.data.states import Causal, States

Carry: TypeAlias = tuple[Tensor, ...]
"""The recurrent state of each row: tensors of layers x batch x size, `(h, c)` for an LSTM."""

Layout: TypeAlias = Literal["packed", "padded"]
"""The layout of a batch: real steps only, or a rectangle."""


def _describe_part(part: "Batch[Kind] | None") -> str:
    """Return the kind and the shape of a field or of the inner rows, whose numbers would fill pages."""
    return "None" if part is None else f"{format_kind(part.kind)}, {describe(part.values)}"


def _describe_fields(fields: "Mapping[str, Batch[Kind]] | None") -> str:
    parts = (f"{name}: {_describe_part(field)}" for name, field in (fields or {}).items())
    return "None" if fields is None else f"{{{', '.join(parts)}}}"


@as_pytree
@checked
@attrs.frozen(eq=False)
class Padded(Collated, Generic[K_co]):
    """Rows of unequal length in one rectangle, real steps first.

    Positions at or past a row's length may hold anything, including NaN, and never affect a result.

    Attributes:
        kind: the kind of the steps: `Ids`, `Vectors` or `Hidden`.
        values: the rectangle.
        lengths: the number of real steps of each row; on the CPU.
        initial_carry: the state from which a recurrent encoder starts; zeros if None.
        fields: for a kind with fields, a batch for each of them; the values then have no features.
        inner: for the kind `Nested`, the distinct inner rows; the values are then their numbers, like ids.
        metadata: row ids, targets and masks; row ids from 0 by default.
        order: the positions of the steps when packed; computed from the lengths by default.

    Raises:
        ShapeError: if the tensors or fields do not fit each other or the kind.
        LengthError: if a length is negative or larger than the width.
        EmptyBatchError: if there is no row.

    Example:
        >>> from pipeline import Ids
        >>> batch = Padded(Ids, torch.tensor([[1, 2, 3], [3, 4, 0]]), torch.tensor([3, 2]))
        >>> packed = batch.packed()
        >>> packed.values.tolist(), packed.order.batch_sizes.tolist()
        ([1, 3, 2, 4, 3], [2, 2, 1])
        >>> print(batch.report())
        2 rows in 1 batch: 5 real steps, 6 padded, 16.7% of the padded work wasted
    """

    kind: type[K_co]
    values: Shaped[Tensor, "batch time *feature"]
    lengths: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)
    initial_carry: Carry | None = attrs.field(default=None, kw_only=True)
    fields: "Mapping[str, Padded[Kind]] | None" = attrs.field(default=None, kw_only=True, repr=_describe_fields)
    inner: "Packed[Kind] | None" = attrs.field(default=None, kw_only=True, repr=_describe_part)
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(make_metadata, takes_self=True), kw_only=True)
    order: PackingOrder = attrs.field(default=attrs.Factory(make_order, takes_self=True), kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        if checks_enabled():
            check_kind(self, axes=2)
            check_lengths(self.lengths, self.order, self.width)
            check_metadata(self.metadata, self.lengths.shape[0], self.width)
            check_carry("initial_carry", self.initial_carry, self.lengths.shape[0])

    @property
    def width(self) -> int:
        """The size of the time axis."""
        return self.values.shape[1]

    @property
    def mask(self) -> Bool[Tensor, "batch time"]:
        """True at the real steps."""
        return self.order.mask(self.width)

    def packed(self) -> "Packed[K_co]":
        """Return the same rows, real steps only. Copies each real step once; a single full row is not copied."""
        return self._pack(None)

    def _pack(self, packed: Tensor | None) -> "Packed[K_co]":
        """Pack; a graph takes the number of steps from a packed tensor of rows of the same lengths, if there is one."""
        values = pack_values(self.values, self.order, packed)
        fields = None
        if self.fields is not None:
            fields = {
                name: field._pack(values if field.order is self.order else None)  # noqa: SLF001 - of the same class
                for name, field in self.fields.items()
            }
        return derive_packed(self.kind, values, self, self.initial_carry, fields, self.inner)

    def padded(self) -> Self:
        """Return this batch, which is padded already."""
        return self

    def fill_padding(self, value: float = 0) -> Self:
        """Return the same rows with one value in all padding, for code that computes on the whole rectangle.

        A batch without padding is returned unchanged, without a copy. Fields are filled with the same value.
        """
        fields = None
        if self.fields is not None:
            fields = {name: field.fill_padding(value) for name, field in self.fields.items()}
        if self.order.is_full(self.width):
            return self if fields is None else attrs.evolve(self, fields=fields)
        if torch.compiler.is_compiling():
            mask = self.mask.reshape(*self.mask.shape, *[1] * (self.values.ndim - 2))
            values = self.values.masked_fill(~mask, value)
        else:
            # By index instead of by mask: three times as fast, because only the padding is touched.
            flat = self.values.flatten(0, 1).index_fill(0, self.order.padding_indices(self.width), value)
            values = flat.reshape(self.values.shape)
        return cast("Self", derive_padded(self.kind, values, self, self.initial_carry, fields, self.inner))

    def with_values(self, values: Float[Tensor, "batch time feature"]) -> "Padded[Hidden]":
        """Return the same rows with hidden vectors as values, and without an initial carry.

        Raises:
            ShapeError: if the values are not floating-point vectors, one per position of this batch.
        """
        check_new_values(values, self.values.shape[:2])
        return derive_padded(Hidden, values, self, None)

    def with_carry(self, before: "States[Causal] | None") -> Self:
        """Return the same rows with the final carry of the preceding batch as initial carry.

        The row at index i continues the row at index i of the preceding batch, as in batches of `BPTTWindows`. Rows
        that continue none start from zeros. No gradient flows into the preceding batch.

        Args:
            before: the states of the preceding batch; None for the first batch.

        Raises:
            OptionError: if `before` is None, but a row continues an earlier one; or if it comes from a bidirectional
                encoder.
            ShapeError: if the states have no carry, or another number of rows.
        """
        return attrs.evolve(self, initial_carry=_select_carry(before, self.metadata))

    def report(self) -> Report:
        """Return the numbers of real and padded steps; of rows with sides, those of all sides."""
        return _report(self)


@as_pytree
@checked
@attrs.frozen(eq=False)
class Packed(Collated, Generic[K_co]):
    """Rows of unequal length, real steps only, in the order of torch's `PackedSequence`.

    Attributes:
        kind: the kind of the steps: `Ids`, `Vectors` or `Hidden`.
        values: the real steps, time-major, the longest row first.
        lengths: the number of steps of each row, in reading order; on the CPU.
        width: the size of the time axis of the rectangle from which the rows came; `padded` restores it.
        initial_carry: the state from which a recurrent encoder starts; zeros if None.
        fields: for a kind with fields, a batch for each of them; the values then have no features.
        inner: for the kind `Nested`, the distinct inner rows; the values are then their numbers, like ids.
        metadata: row ids, targets and masks; row ids from 0 by default.
        order: the positions of the steps; computed from the lengths by default.

    Raises:
        ShapeError: if the tensors do not fit each other or the kind.
        LengthError: if a length is negative or larger than the width, or their sum is not the number of steps.
        EmptyBatchError: if there is no row.
    """

    kind: type[K_co]
    values: Shaped[Tensor, "steps *feature"]
    lengths: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)
    width: int = attrs.field(default=attrs.Factory(longest_of, takes_self=True), kw_only=True)
    initial_carry: Carry | None = attrs.field(default=None, kw_only=True)
    fields: "Mapping[str, Packed[Kind]] | None" = attrs.field(default=None, kw_only=True, repr=_describe_fields)
    inner: "Packed[Kind] | None" = attrs.field(default=None, kw_only=True, repr=_describe_part)
    metadata: BatchMetadata = attrs.field(default=attrs.Factory(make_metadata, takes_self=True), kw_only=True)
    order: PackingOrder = attrs.field(default=attrs.Factory(make_order, takes_self=True), kw_only=True, repr=False)

    def __attrs_post_init__(self) -> None:
        if checks_enabled():
            check_kind(self, axes=1)
            check_lengths(self.lengths, self.order, self.width)
            check_step_count(self.values.shape[0], self.order.steps)
            check_metadata(self.metadata, self.lengths.shape[0], self.width)
            check_carry("initial_carry", self.initial_carry, self.lengths.shape[0])

    @property
    def mask(self) -> Bool[Tensor, "batch time"]:
        """True at the real steps of the rectangle that `padded` returns."""
        return self.order.mask(self.width)

    def packed(self) -> Self:
        """Return this batch, which is packed already."""
        return self

    def padded(self) -> Padded[K_co]:
        """Return the same rows in a rectangle of their original width, with zeros in the padding."""
        values = unpack_values(self.values, self.order, self.width)
        fields = None
        if self.fields is not None:
            fields = {name: field.padded() for name, field in self.fields.items()}
        return derive_padded(self.kind, values, self, self.initial_carry, fields, self.inner)

    def with_values(self, values: Float[Tensor, "steps feature"]) -> "Packed[Hidden]":
        """Return the same rows with hidden vectors as values, and without an initial carry.

        Raises:
            ShapeError: if the values are not floating-point vectors, one per step of this batch.
        """
        check_new_values(values, self.values.shape[:1])
        return derive_packed(Hidden, values, self, None)

    def report(self) -> Report:
        """Return the number of real steps, and of the padded steps that packing leaves out."""
        return _report(self)


Batch: TypeAlias = Padded[K] | Packed[K]
"""A batch in either layout."""


def _report(batch: Batch[Kind]) -> Report:
    kind = get_kind_class(batch.kind)
    has_sides = isinstance(kind, type) and issubclass(kind, Composite) and not kind.aligned
    parts: Sequence[Batch[Kind]] = [*(batch.fields or {}).values()] if has_sides else [batch]
    steps, padded = sum(part.order.steps for part in parts), sum(len(part.lengths) * part.width for part in parts)
    return Report(1, batch.metadata.rows, steps, padded)


def is_batch(value: object) -> TypeIs[Batch[Kind]]:
    """Return whether a value is a batch, in either layout."""
    return isinstance(value, Padded | Packed)


def pack_values(
    values: Shaped[Tensor, "batch time *feature"], order: PackingOrder, packed: Tensor | None = None
) -> Shaped[Tensor, "steps *feature"]:
    """Return the real steps of a rectangle in packed order; `packed` as in `PackingOrder.locate_steps`."""
    if order.is_full(values.shape[1]):
        # Rows of one length keep reading order, and a transposition is cheaper than a look-up per step.
        return values.transpose(0, 1).flatten(0, 1)
    return values.flatten(0, 1).index_select(0, order.flat_indices(values.shape[1], packed))


def unpack_values(
    values: Shaped[Tensor, "steps *feature"], order: PackingOrder, width: int
) -> Shaped[Tensor, "batch time *feature"]:
    """Return packed steps in a rectangle `width` steps wide, with zeros in the padding."""
    batch = order.lengths.shape[0]
    if order.is_full(width):
        return values.reshape(width, batch, *values.shape[1:]).transpose(0, 1).contiguous()
    flat = values.new_zeros(batch * width, *values.shape[1:])
    return flat.index_copy_(0, order.flat_indices(width, values), values).reshape(batch, width, *values.shape[1:])


# A batch derived from a valid batch has valid lengths, metadata and order. Leaving out their checks halves the time of
# all checks of a forward pass. The caller makes sure that the new values have one entry per position.


def derive_padded(
    kind: type[K],
    values: Tensor,
    source: Batch[Kind],
    carry: Carry | None,
    fields: Mapping[str, Padded[Kind]] | None = None,
    inner: Packed[Kind] | None = None,
) -> Padded[K]:
    """Return a padded batch of the same rows with other values, without checks."""
    return build_unchecked(
        cast("type[Padded[K]]", Padded),
        {
            "kind": kind,
            "values": values,
            "lengths": source.lengths,
            "initial_carry": carry,
            "fields": fields,
            "inner": inner,
            "metadata": source.metadata,
            "order": source.order,
        },
    )


def derive_packed(
    kind: type[K],
    values: Tensor,
    source: Batch[Kind],
    carry: Carry | None,
    fields: Mapping[str, Packed[Kind]] | None = None,
    inner: Packed[Kind] | None = None,
) -> Packed[K]:
    """Return a packed batch of the same rows with other values, without checks."""
    return build_unchecked(
        cast("type[Packed[K]]", Packed),
        {
            "kind": kind,
            "values": values,
            "lengths": source.lengths,
            "width": source.width,
            "initial_carry": carry,
            "fields": fields,
            "inner": inner,
            "metadata": source.metadata,
            "order": source.order,
        },
    )


def derive_vectors(values: Tensor, source: Batch[Kind], carry: Carry | None) -> Batch[Vectors]:
    """Return a batch of the same rows, in the same layout, with vectors as values, after a check of their shape.

    Raises:
        ShapeError: if the values are not one vector per position.
    """
    is_padded = isinstance(source, Padded)
    check_new_values(values, source.values.shape[: 2 if is_padded else 1])
    return derive_padded(Vectors, values, source, carry) if is_padded else derive_packed(Vectors, values, source, carry)


def select_field(batch: Batch[Kind], name: str) -> Batch[Kind]:
    """Return the batch of one field, with the metadata of the whole batch and, if lengths are shared, its carry.

    Raises:
        ShapeError: if the batch has no such field.
    """
    if batch.fields is None or name not in batch.fields:
        got = format_kind(batch.kind) if batch.fields is None else f"the fields {', '.join(batch.fields)}"
        msg = f"the batch must have a field {name!r}, got {got}; select a field of the class that the batch holds."
        raise ShapeError(msg, field=name)
    field = batch.fields[name]
    if field.order is not batch.order:  # a side, with lengths of its own
        side: Batch[Kind]
        if isinstance(field, Padded):
            side = derive_padded(field.kind, field.values, field, None, field.fields, field.inner)
        else:
            side = derive_packed(field.kind, field.values, field, None, field.fields, field.inner)
        # Not attrs.evolve, which torch.compile cannot trace.
        object.__setattr__(side, "metadata", batch.metadata)
        return side
    if isinstance(field, Padded):
        return derive_padded(field.kind, field.values, batch, batch.initial_carry, field.fields, field.inner)
    return derive_packed(field.kind, field.values, batch, batch.initial_carry, field.fields, field.inner)


def _select_carry(before: "States[Causal] | None", metadata: BatchMetadata) -> Carry | None:
    """Return the carry of `before` for rows that continue and zeros for the others, detached from its graph."""
    if before is None:
        if metadata.start_steps is not None:
            row = int(metadata.start_steps.argmax())
            msg = (
                f"before must be the states of the preceding batch, got None, but row {int(metadata.row_ids[row])} "
                f"continues at step {int(metadata.start_steps[row])}; pass the states."
            )
            raise OptionError(msg, row=row)
        return None
    if before.bidirectional:
        msg = (
            "before must be states of an encoder that reads forward only, got states of a bidirectional one, whose "
            "backward direction starts at the end of a row; use bidirectional=False, or leave out with_carry."
        )
        raise OptionError(msg, bidirectional=True)
    if before.carry is None:
        msg = "before must be states with a carry, got states without; use a stateful encoder, such as lstm."
        raise ShapeError(msg, argument="before")
    check_carry("before.carry", before.carry, len(metadata.row_ids))
    continues = metadata.continues.to(before.final.device, non_blocking=True).unsqueeze(1)
    # Filled, not multiplied by 0: a row that ended in NaN must not affect the row that starts at its index.
    return tuple(state.detach().masked_fill(~continues, 0) for state in before.carry)
