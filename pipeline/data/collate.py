"""Collate sequences of any kind into one padded batch: fields each by themselves, inner rows without repetition."""

from collections.abc import Callable, Sequence
from operator import attrgetter, methodcaller
from typing import Final, cast

import attrs
import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.data.batches import Packed, Padded, derive_padded
from pipeline.data.kinds import Composite, Hidden, Ids, Kind, Nested, format_kind, get_inner_kind, get_kind_class
from pipeline.data.metadata import BatchMetadata
from pipeline.data.packing_order import PackingOrder
from pipeline.data.tensors import find_positions, from_numpy, pad_flat, pad_tensors, to_tensor
from pipeline.data.trees import build_unchecked
from pipeline.errors import ShapeError

# attrgetter: `Pad` is called once per batch, and this runs once per row.
_get_values: Final[Callable[[Kind], Tensor]] = attrgetter("values")

_HASH_SEED: Final = 0
"""Any seed is right: rows with equal hashes are compared afterwards."""


def collate(
    kind: type[Kind],
    sequences: Sequence[Kind],
    lengths: Sequence[int],
    width: int,
    *,
    value: float,
    multiple_of: int = 1,
    metadata: BatchMetadata,
    field: str | None = None,
    like: "_Template | None" = None,
) -> Padded[Kind]:
    """Return sequences as one padded batch.

    Args:
        kind: the kind of the sequences.
        sequences: the rows.
        lengths: the length of each row; more than there are sequences if empty rows are to fill up the batch.
        width: the size of the time axis.
        value: the value of the padding.
        multiple_of: of a kind with several lengths per row, round the width of each side up to a multiple of this.
        metadata: row ids, targets and masks.
        field: the name of the field that is collated, for errors.
        like: a field of the same lengths that was collated before.

    Raises:
        ShapeError: if a row is of another kind, dtype, device or feature width than the others.
    """
    base = cast("type[Kind]", get_kind_class(kind))
    if issubclass(base, Composite):
        check_kinds(kind, sequences, metadata, field)
        return _collate_fields(base, sequences, lengths, width, value, multiple_of, metadata)
    positions, found = None if like is None else like.positions, base
    if get_kind_class(kind) is Nested:
        check_kinds(kind, sequences, metadata, field)
        _check_inner(kind, sequences, metadata, field)
        numbers, inner = find_distinct(cast("Sequence[Nested[Kind]]", sequences), get_inner_kind(kind))
        values = pad_tensors(numbers, lengths, width, 0, positions)
    elif base is Ids and (ids := _join_ids(sequences)) is not None:
        values, inner = pad_flat(ids, lengths, width, int(value)), None
    else:
        check_sequences(kind, sequences, metadata, field)
        values, inner = pad_tensors(list(map(_get_values, sequences)), lengths, width, value, positions), None
        # The kind of the rows themselves: where Hidden are wanted, Vectors may come.
        found = type(sequences[0])
    # Without checks: those of the sequences suffice, because lengths and metadata are made of the same rows.
    if like is not None:
        return derive_padded(found, values, like.batch, None, inner=inner)
    steps = to_tensor(lengths)
    fields = {"kind": found, "values": values, "lengths": steps, "initial_carry": None, "fields": None, "inner": inner}
    order = PackingOrder(steps, values.device)
    # Known here, so that no later stage computes them from the tensor.
    order.longest, order.shortest, order.steps = max(lengths), min(lengths), sum(lengths)
    return build_unchecked(cast("type[Padded[Kind]]", Padded), {**fields, "metadata": metadata, "order": order})


@attrs.frozen
class _Template:
    """The first field of a batch: the others have the same lengths, metadata and order, and the same real steps."""

    batch: Padded[Kind]
    positions: Int64[Tensor, " steps"]


def _collate_fields(
    kind: type[Composite],
    sequences: Sequence[Kind],
    lengths: Sequence[int],
    width: int,
    value: float,
    multiple_of: int,
    metadata: BatchMetadata,
) -> Padded[Kind]:
    """Return sequences with fields as one padded batch, each field collated by itself."""
    plain = BatchMetadata(metadata.row_ids)
    fields: dict[str, Padded[Kind]] = {}
    like: _Template | None = None
    for name, field_kind in kind.get_kinds().items():
        parts: list[Kind] = list(map(attrgetter(name), sequences))
        if kind.aligned:
            fields[name] = collate(
                field_kind, parts, lengths, width, value=value, metadata=plain, field=name, like=like
            )
            like = like or _Template(fields[name], find_positions(lengths, width))
        else:
            own = [len(part) for part in parts] + [0] * (len(lengths) - len(parts))
            rounded = -(-max(own) // multiple_of) * multiple_of
            fields[name] = collate(field_kind, parts, own, rounded, value=value, metadata=plain, field=name)
    first = next(iter(fields.values()))
    values = first.values.new_zeros(len(lengths), width, 0, dtype=torch.get_default_dtype())
    if like is None:
        return Padded(kind, values, to_tensor(lengths), metadata=metadata, fields=fields)
    return Padded(kind, values, first.lengths, metadata=metadata, fields=fields, order=first.order)


def check_kinds(kind: type[Kind], sequences: Sequence[Kind], metadata: BatchMetadata, field: str | None) -> None:
    """Reject rows of another kind.

    Raises:
        ShapeError: naming the row.
    """
    base = cast("type[Kind]", get_kind_class(kind))
    for row, sequence in enumerate(sequences):
        if not isinstance(sequence, base):
            name = type(sequence).__name__
            fix = f"make it Pad({name})" if field is None else f"declare the field as {name}, or convert the row"
            msg = f"{_locate(row, metadata, field)} must hold {format_kind(kind)}, got {name}; {fix}."
            raise ShapeError(msg, row=int(metadata.row_ids[row]))


def _check_inner(kind: type[Kind], sequences: Sequence[Kind], metadata: BatchMetadata, field: str | None) -> None:
    """Reject inner rows of another kind, dtype, device or feature width than the others.

    Raises:
        ShapeError: naming the row.
    """
    where = "inner" if field is None else f"{field}.inner"
    inner = [nested.inner for nested in cast("Sequence[Nested[Kind]]", sequences)]
    first = _leave_out_empty(inner)[0]
    _check_parts(get_inner_kind(kind) or type(first), [each if len(each) else first for each in inner], metadata, where)


def _check_parts(kind: type[Kind], sequences: Sequence[Kind], metadata: BatchMetadata, where: str) -> None:
    base = cast("type[Kind]", get_kind_class(kind))
    if issubclass(base, Ids | Hidden):
        check_sequences(kind, sequences, metadata, where)
        return
    check_kinds(kind, sequences, metadata, where)
    if base is Nested:
        _check_inner(kind, sequences, metadata, where)
    elif issubclass(base, Composite):
        for name, field_kind in base.get_kinds().items():
            _check_parts(field_kind, [getattr(each, name) for each in sequences], metadata, f"{where}.{name}")


def _leave_out_empty(inner: Sequence[Kind]) -> Sequence[Kind]:
    """Return inner rows, of all steps of a row each, without empty ones, whose feature width may not be known."""
    return [sequence for sequence in inner if len(sequence)] or inner[:1]


def check_sequences(kind: type[Kind], sequences: Sequence[Kind], metadata: BatchMetadata, field: str | None) -> None:
    """Reject rows that `torch.nn.utils.rnn.pad_sequence` would accept silently, or reject without explanation.

    Raises:
        ShapeError: naming the row, if it is of another kind, dtype, device or feature width than the others.
    """
    if _are_valid(kind, sequences):
        return
    check_kinds(kind, sequences, metadata, field)
    is_ids = kind is Ids
    # The row that the others are compared with. An empty one may have any feature width.
    model = next((row for row, sequence in enumerate(sequences) if len(sequence)), 0)
    first = _get_values(sequences[model])
    for row, sequence in enumerate(sequences):
        values = _get_values(sequence)
        same = values.dtype is first.dtype and values.device == first.device
        same = same and (values.shape[1:] == first.shape[1:] or not len(sequence))
        right = values.dtype is torch.int64 if is_ids else values.is_floating_point()
        if not same or not right or values.ndim != (1 if is_ids else 2):
            rule = "int64 ids of time" if is_ids else "floating-point vectors of time x feature"
            msg = (
                f"{_locate(row, metadata, field)} must be {rule}, of the feature width, dtype and device of the other "
                f"rows, got {describe(values)}; row {int(metadata.row_ids[model])} is {describe(first)}."
            )
            raise ShapeError(msg, row=int(metadata.row_ids[row]))


def _join_ids(sequences: Sequence[Kind]) -> NDArray[np.int64] | None:
    """Fast path: join the ids of all rows; None if some row may be invalid, or the rows are not on the CPU."""
    if set(map(type, sequences)) != {Ids}:
        return None
    tensors = [each.values for each in cast("Sequence[Ids]", sequences)]
    if {tensor.dtype for tensor in tensors} != {torch.int64}:
        return None
    try:
        joined = torch.cat(tensors)
    except RuntimeError:  # of several devices, or numbers of axes
        return None
    return joined.numpy() if joined.ndim == 1 and joined.is_cpu else None


def _are_valid(kind: type[Kind], sequences: Sequence[Kind]) -> bool:
    """Fast path: validate all rows at once, five times as fast as one by one; False if some may be invalid."""
    if set(map(type, sequences)) != {kind}:
        return False
    tensors = list(map(_get_values, sequences))
    dtypes = {tensor.dtype for tensor in tensors}
    axes = {tensor.ndim for tensor in tensors}
    if len(dtypes) > 1 or len({tensor.device for tensor in tensors}) > 1:
        return False
    if kind is Ids:
        return dtypes == {torch.int64} and axes == {1}
    widths = {tensor.shape[1:] for tensor in tensors}
    if len(widths) > 1:  # an empty row may have any feature width
        widths = {tensor.shape[1:] for tensor in tensors if tensor.shape[0]}
    return dtypes.pop().is_floating_point and axes == {2} and len(widths) == 1


def _locate(row: int, metadata: BatchMetadata, field: str | None) -> str:
    where = "" if field is None else f", field {field!r}"
    return f"row {int(metadata.row_ids[row])}{where}"


def find_distinct(
    sequences: Sequence[Nested[Kind]], kind: type[Kind] | None = None
) -> tuple[list[Int64[Tensor, " time"]], Packed[Kind]]:
    """Number the distinct inner rows of a batch, so that each is computed once: words occur again and again.

    Inner rows of ids are compared with each other; those of other kinds count as distinct.

    Returns:
        for each sequence the numbers of its inner rows, and the distinct inner rows as a packed batch. If there is no
        inner row at all, the batch has an empty one.

    Example:
        >>> word = lambda *ids: Nested(Ids(torch.tensor(ids)), torch.tensor([len(ids)]))
        >>> numbers, inner = find_distinct([word(7, 4), word(5), word(7, 4)])
        >>> [each.tolist() for each in numbers], inner.lengths.tolist()
        ([[0], [1], [0]], [2, 1])
    """
    counts = torch.cat([sequence.counts for sequence in sequences])
    inner = _leave_out_empty([sequence.inner for sequence in sequences])
    if isinstance(inner[0], Ids):
        ids = torch.cat(list(map(_get_values, inner)))
        first, numbers = _number_rows(ids.numpy(), counts.numpy())
    else:
        first, numbers = np.arange(len(counts)), np.arange(len(counts))
    ends = counts.cumsum(0)
    chosen = from_numpy(first)
    lengths = counts[chosen] if len(first) else counts.new_zeros(1)
    starts = (ends - counts)[chosen] if len(first) else counts.new_zeros(1)
    order = PackingOrder(lengths)
    steps = starts[order.row_of_step] + order.time_of_step
    batch = _pack(kind or type(inner[0]), inner, steps, lengths, order)
    # Typed by hand: torch's own signature is open.
    split: Callable[[Tensor], tuple[Tensor, ...]] = methodcaller("split_with_sizes", list(map(len, sequences)))
    return list(split(from_numpy(numbers))), batch


def _pack(
    kind: type[Kind], sequences: Sequence[Kind], steps: Tensor, lengths: Tensor, order: PackingOrder
) -> Packed[Kind]:
    """Return a packed batch of steps that are chosen by number from the concatenation of all sequences."""
    base = cast("type[Kind]", get_kind_class(kind))
    if get_kind_class(kind) is Nested:
        numbers, inner = find_distinct(cast("Sequence[Nested[Kind]]", sequences), get_inner_kind(kind))
        return Packed(base, torch.cat(numbers).index_select(0, steps), lengths, order=order, inner=inner)
    if issubclass(base, Composite):
        fields = {
            name: _pack(field_kind, [getattr(each, name) for each in sequences], steps, lengths, order)
            for name, field_kind in base.get_kinds().items()
        }
        return Packed(base, torch.zeros(len(steps), 0, device=steps.device), lengths, order=order, fields=fields)
    values = torch.cat(list(map(_get_values, sequences)))
    return Packed(type(sequences[0]), values.index_select(0, steps), lengths, order=order)


def _number_rows(ids: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the index of the first occurrence of each distinct row of ids, and the number of each row among them.

    Rows are compared by a hash first: the sum of their ids, each multiplied by a random number of its position, modulo
    2**64. That takes no loop and no padding.
    """
    ends = counts.cumsum()
    starts = ends - counts
    row_of_id = np.repeat(np.arange(len(counts)), counts)
    time_of_id = np.arange(len(ids)) - starts[row_of_id]
    factors = np.random.default_rng(_HASH_SEED).integers(
        1, 2**64, size=int(counts.max(initial=0)), dtype=np.uint64, endpoint=False
    )
    sums = np.concatenate([[np.uint64(0)], ((ids + 1).astype(np.uint64) * factors[time_of_id]).cumsum(dtype=np.uint64)])
    _, first, numbers = np.unique(sums[ends] - sums[starts], return_index=True, return_inverse=True)
    # Numbered in the order of their first occurrence, as a reader would.
    rank = np.empty_like(first)
    rank[first.argsort()] = np.arange(len(first))
    first, numbers = np.sort(first), rank[numbers]
    twin = first[numbers]
    same_length = bool((counts[twin] == counts).all())
    if same_length and bool((ids[starts[twin][row_of_id] + time_of_id] == ids).all()):
        return first, numbers
    # Two different rows have one hash: by chance this never happens, and then nothing is saved but nothing is wrong.
    return np.arange(len(counts)), np.arange(len(counts))
