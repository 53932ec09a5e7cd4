"""Pad rows of unequal length to a rectangle, real steps first."""

from collections.abc import Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Final, Literal, TypedDict, cast, final, get_args, overload

import numpy as np
from jaxtyping import Bool
from torch import Tensor
from typing_extensions import Unpack, override

from pipeline.batching.policies import Policy
from pipeline.checks.options import check_choice, check_int, check_optional_int
from pipeline.core.stage import Spec, Stage
from pipeline.data.batches import Padded
from pipeline.data.collate import collate
from pipeline.data.collate_targets import MissingTarget, RowTargets, collate_named_targets, collate_targets
from pipeline.data.kinds import Composite, Ids, K, Kind, count_steps, format_kind, get_kind_class, list_lengths
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.data.rows import Row, make_filler
from pipeline.data.tensors import pad_flat, to_tensor
from pipeline.errors import EmptyBatchError, LengthError, OptionError
from pipeline.labels import Labels, check_labels
from pipeline.targets import MultiLabels, NamedTargets, Targets, TargetType

TooLong = Literal["raise", "truncate"]

_LARGEST_ID: Final = 2**63 - 1


class PadOptions(TypedDict, total=False):
    """The options of `Pad`, which describes them."""

    value: float
    multiple_of: int
    policy: Policy | None
    max_length: int | None
    too_long: TooLong
    labels: Labels | None
    targets: Targets | NamedTargets | None
    missing: MissingTarget


@final
class Pad(Stage[list[Row[K]], Padded[K]]):
    """Pad a list of rows to a rectangle, with their lengths, targets and row ids.

    Also a `collate_fn` for a stock `DataLoader`. The target of an empty row has no weight in a loss.

    Args:
        kind: the kind of the rows; `Ids` by default.
        value: the value of the padding. It does not change any result.
        multiple_of: round the width up to a multiple of this.
        policy: instead of `multiple_of`, the policy that made the batches and determines their padded shape. If that
            shape is fixed, missing rows are filled with empty ones, which have no weight in a loss and no prediction.
        max_length: the maximum number of steps of a row.
        too_long: what to do with a longer row: `raise` an error, or `truncate` it and its targets.
        labels: the classes, if targets are class names.
        targets: instead of labels, the type of the targets: `Numbers`, `MultiLabels`, `Texts`, or a mapping with the
            types of several targets by their names. Each target of a row is then a mapping with these names.
        missing: what to do with a row without a target, if others of its batch have one: `raise` an error, or `ignore`
            it, which means that it has no weight in the loss; nor has a batch without any target then. Of several
            targets by name, each may be missing in either case.

    Raises:
        TypeError: if the kind is a class of fields without a field, or not decorated as an attrs class.
        OptionError: if a number is below 1, the value does not suit the kind, or both `policy` and `multiple_of`, or
            `labels` and `targets`, are given.

    Example:
        >>> import torch
        >>> rows = [Row(Ids(torch.tensor([5, 6, 7])), target=1), Row(Ids(torch.tensor([8])), target=0)]
        >>> batch = Pad()(rows)
        >>> batch.values.tolist(), batch.lengths.tolist(), batch.metadata.targets.tolist()
        ([[5, 6, 7], [8, 0, 0]], [3, 1], [1, 0])
    """

    @overload
    def __init__(self: "Pad[Ids]", **options: Unpack[PadOptions]) -> None: ...
    @overload
    def __init__(self, kind: type[K], **options: Unpack[PadOptions]) -> None: ...
    def __init__(
        self,
        kind: type[Kind] = Ids,
        *,
        value: float = 0,
        multiple_of: int = 1,
        policy: Policy | None = None,
        max_length: int | None = None,
        too_long: TooLong = "raise",
        labels: Labels | None = None,
        targets: Targets | NamedTargets | None = None,
        missing: MissingTarget = "raise",
    ) -> None:
        check_int("multiple_of", multiple_of, minimum=1, advice="leave it out for no rounding")
        check_optional_int("max_length", max_length, minimum=1, advice="leave it out for no limit")
        check_choice("too_long", too_long, get_args(TooLong))
        if policy is not None and multiple_of != 1:
            msg = f"Pad takes a policy or multiple_of, got both; pass multiple_of={multiple_of} to the policy instead."
            raise OptionError(msg, multiple_of=multiple_of)
        if labels is not None and targets is not None:
            msg = "Pad takes labels or targets, got both; pass the labels in targets."
            raise OptionError(msg)
        if labels is not None:
            check_labels("labels", labels)
        _check_targets(labels if targets is None else targets)
        check_choice("missing", missing, get_args(MissingTarget))
        _check_value(kind, value)
        self.kind: Final = kind
        self.value = value
        self.multiple_of = multiple_of
        self.policy = policy
        self.max_length = max_length
        self.too_long: TooLong = too_long
        self.targets: Targets | NamedTargets | None = labels if targets is None else targets
        self.missing: MissingTarget = missing

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        names = ("kind", "value", "multiple_of", "policy", "max_length", "too_long", "targets", "missing")
        return {name: getattr(self, name) for name in names}

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def __call__(self, value: list[Row[K]], /) -> Padded[K]:
        """Return the rows as one padded batch.

        Raises:
            EmptyBatchError: if there are no rows.
            ShapeError: if a row is of another kind, dtype, device or feature width than the others.
            LengthError: if a row is longer than `max_length` and not truncated, or the policy does not allow the batch.
            TargetError: if only some rows have a target, or a target does not fit its row.
            LabelError: if a target is not a label.
        """
        if not value:
            msg = "rows is empty, but a batch needs at least one row; skip empty batches."
            raise EmptyBatchError(msg)
        sequences: list[Kind] = [row.sequence for row in value]
        counts = lengths = list_lengths(sequences)
        if self.max_length is not None and max(lengths) > self.max_length:
            sequences = [self._truncate(row, self.max_length) for row in value]
            lengths = list_lengths(sequences)
        count, width = self._get_shape(sequences, max(lengths))
        # A policy with fixed shapes may ask for more rows than there are.
        missing = count - len(value)
        rows = [*value, *(make_filler(value[0]) for _ in range(missing))] if missing else value
        lengths, counts = lengths + [0] * missing, counts + [0] * missing
        row_ids = [row.row_id for row in rows]
        targets = RowTargets([row.target for row in rows], row_ids, counts, lengths, width)
        starts = [row.start_step for row in rows]
        one, named = (None, self.targets) if isinstance(self.targets, Mapping) else (self.targets, None)
        kinds = {"": one} if named is None else named
        found = collate_targets(targets, one, self.missing) if named is None else None
        found_by_name = None if named is None else collate_named_targets(targets, named, self.missing)
        metadata = BatchMetadata(
            row_ids=to_tensor(row_ids),
            targets=found,
            named_targets=found_by_name,
            target_lengths=_measure_sequences(kinds, {"": found} if found_by_name is None else found_by_name),
            answer_mask=_pad_answer_mask(rows, width),
            start_steps=to_tensor(starts) if any(starts) else None,
            label_sets=frozenset(name for name, each in kinds.items() if isinstance(each, MultiLabels)),
        )
        batch = collate(
            self.kind, sequences, lengths, width, value=self.value, multiple_of=self.multiple_of, metadata=metadata
        )
        return cast("Padded[K]", batch)

    def _get_shape(self, sequences: Sequence[Kind], width: int) -> tuple[int, int]:
        """Return the number of rows and of steps that a batch is padded to."""
        rows = len(sequences)
        if self.policy is None:
            return rows, -(-width // self.multiple_of) * self.multiple_of
        widths = [width]
        if isinstance(first := sequences[0], Composite) and first.has_sides():
            # Of pairs, each side has a longest one.
            widths = list(map(max, zip(*map(count_steps, sequences), strict=True)))
        longest = sum(widths)
        if rows > self.policy.room(longest):
            msg = (
                f"a batch of {rows} rows of up to {longest} steps exceeds the limits of {self.policy}; make batches "
                "with the same policy: Bucket(policy=policy)."
            )
            raise LengthError(msg, rows=rows, longest=longest)
        shape: list[int] = self.policy.shapes(np.array([rows]), np.array([widths]))[0].tolist()
        return shape[0], max(shape[1:])

    def _truncate(self, row: Row[K], limit: int) -> Kind:
        sequence = row.sequence
        if len(sequence) <= limit:
            return sequence
        if self.too_long == "truncate":
            return sequence.cut(slice(limit))
        msg = (
            f"row {row.row_id} has {len(sequence)} steps, but max_length is {limit}; "
            'raise max_length, or truncate longer rows: Pad(too_long="truncate").'
        )
        raise LengthError(msg, row=row.row_id, length=len(sequence), max_length=limit)


def _check_value(kind: type[Kind], value: float) -> None:
    """Reject a padding value that is no number, or that ids cannot have.

    Raises:
        OptionError: naming the field of ids.
    """
    given = cast("object", value)
    if isinstance(given, bool) or not isinstance(given, int | float):
        msg = f"value must be a number, got {given!r:.60}; leave it out for 0."
        raise OptionError(msg, value=value)
    base = get_kind_class(kind)
    kinds: Mapping[str, object] = {"": base}
    if isinstance(base, type) and issubclass(base, Composite):
        kinds = base.get_kinds()
    holder = next((name for name, each in kinds.items() if each is Ids), None)
    # Not `int(value)`, which raises an error for NaN.
    if holder is not None and not (-_LARGEST_ID <= value <= _LARGEST_ID and value == round(value)):
        where = f"field {holder!r} of {format_kind(kind)} holds" if holder else "the rows hold"
        msg = f"value must be an integer, since {where} ids, got {value!r}; leave it out for 0."
        raise OptionError(msg, value=value)


def _measure_sequences(
    kinds: Mapping[str, Targets | None], found: Mapping[str, Tensor | None]
) -> Mapping[str, Tensor] | None:
    """Return the lengths of targets that are sequences, by name; None without any."""
    lengths = {
        name: (targets != IGNORED).sum(1)
        for name, targets in found.items()
        if targets is not None and isinstance(kind := kinds[name], TargetType) and kind.is_sequence
    }
    return lengths or None


def _check_targets(targets: Targets | NamedTargets | None) -> None:
    """Reject objects that are not types of targets.

    Raises:
        OptionError: with what was given.
    """
    kinds: list[object] = list(targets.values()) if isinstance(targets, Mapping) else [targets]
    if targets is not None and (not kinds or not all(isinstance(kind, Labels | TargetType) for kind in kinds)):
        known = "Labels, Numbers, MultiLabels, Texts"
        msg = f"targets must be {known}, or one of these for each name, got {targets!r:.60}."
        raise OptionError(msg, targets=targets)


def _pad_answer_mask(rows: Sequence[Row[Kind]], width: int) -> Bool[Tensor, "batch time"] | None:
    masks = [row.answer_mask for row in rows]
    if set(map(type, masks)) == {NoneType}:
        return None
    given = [() if mask is None else mask[:width] for mask in masks]
    return pad_flat(np.array(list(chain.from_iterable(given)), np.bool_), list(map(len, given)), width, value=True)
