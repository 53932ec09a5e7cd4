"""Pad rows of unequal length to a rectangle, real steps first."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from types import NoneType
from typing import Final, Literal, TypedDict, cast, final, overload

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from typing_extensions import Unpack, override

from pipeline.batching.policies import Policy
from pipeline.core.stage import Spec, Stage
from pipeline.data.batches import Padded
from pipeline.data.collate import collate
from pipeline.data.kinds import Ids, K, Kind
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.data.rows import Row, make_filler
from pipeline.data.tensors import pad_tensors, to_tensor, to_tensors
from pipeline.errors import EmptyBatchError, LengthError, OptionError, TargetError
from pipeline.labels import MAX_ID, Labels, get_scalar, is_missing, is_step_target, to_steps

TooLong = Literal["raise", "truncate"]

# attrgetter: `Pad` is called once per batch, and these run once per row.
_get_sequence: Final[Callable[[Row[Kind]], Kind]] = attrgetter("sequence")
_get_target: Final[Callable[[Row[Kind]], object]] = attrgetter("target")
_get_start: Final[Callable[[Row[Kind]], int]] = attrgetter("start_step")


class PadOptions(TypedDict, total=False):
    """The options of `Pad`, which describes them."""

    value: float
    multiple_of: int
    policy: Policy | None
    max_length: int | None
    too_long: TooLong
    labels: Labels | None


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

    Raises:
        OptionError: if a number is below 1, or if both `policy` and `multiple_of` are given.

    Example:
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
    ) -> None:
        for name, number in (("multiple_of", multiple_of), ("max_length", max_length)):
            if number is not None and number < 1:
                msg = f"{name} must be 1 or more, got {number}; leave it out for no rounding or limit."
                raise OptionError(msg, **{name: number})
        if policy is not None and multiple_of != 1:
            msg = f"Pad takes a policy or multiple_of, got both; pass multiple_of={multiple_of} to the policy instead."
            raise OptionError(msg, multiple_of=multiple_of)
        self.kind: Final = kind
        self.value = value
        self.multiple_of = multiple_of
        self.policy = policy
        self.max_length = max_length
        self.too_long: TooLong = too_long
        self.labels = labels

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
        sequences: list[Kind] = list(map(_get_sequence, value))
        if self.max_length is not None:
            sequences = [self._truncate(row, self.max_length) for row in value]
        lengths = list(map(len, sequences))
        count, width = self._get_shape(len(value), max(lengths))
        # A policy with fixed shapes may ask for more rows than there are.
        missing = count - len(value)
        rows = [*value, *(make_filler(value[0]) for _ in range(missing))] if missing else value
        lengths += [0] * missing
        metadata = BatchMetadata(
            row_ids=to_tensor([row.row_id for row in rows]),
            targets=self._pad_targets(rows, lengths, width),
            answer_mask=_pad_answer_mask(rows, width),
            start_steps=to_tensor([row.start_step for row in rows]) if any(map(_get_start, rows)) else None,
        )
        batch = collate(
            self.kind, sequences, lengths, width, value=self.value, multiple_of=self.multiple_of, metadata=metadata
        )
        return cast("Padded[K]", batch)

    def _get_shape(self, rows: int, longest: int) -> tuple[int, int]:
        """Return the number of rows and of steps that a batch is padded to."""
        if self.policy is None:
            return rows, -(-longest // self.multiple_of) * self.multiple_of
        if rows > self.policy.room(longest):
            msg = (
                f"a batch of {rows} rows of up to {longest} steps exceeds the limits of {self.policy}; make batches "
                "with the same policy: Bucket(policy=policy)."
            )
            raise LengthError(msg, rows=rows, longest=longest)
        shape: list[int] = self.policy.shapes(np.array([rows]), np.array([[longest]]))[0].tolist()
        return shape[0], shape[1]

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

    def _pad_targets(self, rows: Sequence[Row[K]], lengths: list[int], width: int) -> Int64[Tensor, "..."] | None:
        targets = list(map(_get_target, rows))
        # Fast path: plain ids and names are not missing, apart from the empty name.
        if not set(map(type, targets)) <= {int, str} or "" in targets:
            is_given = [not self._is_missing(target) for target in targets]
            if not any(is_given):
                return None
            if not all(is_given):
                row = rows[is_given.index(False)]
                raise _make_missing_error(row)
            # One row with targets per step makes it a batch of such rows; the others are checked below.
            if any(map(is_step_target, targets)):
                steps = [self._get_step_targets(row)[:count] for row, count in zip(rows, lengths, strict=True)]
                return pad_tensors(to_tensors(steps), lengths, width, IGNORED)
        ids = to_tensor([self._get_id(row.target, row.row_id) for row in rows])
        return ids if all(lengths) else ids.masked_fill(to_tensor(lengths) == 0, IGNORED)

    def _is_missing(self, target: object) -> bool:
        """Return whether a target is missing. An empty name is one only if the labels do not have it."""
        return is_missing(target) and not (target == "" and self.labels is not None and "" in self.labels.names)

    def _get_step_targets(self, row: Row[K]) -> list[int]:
        if not is_step_target(row.target):
            got = "one target for the whole row"
        elif len(row.target) != len(row):
            got = f"{len(row.target)} targets"
        else:
            return [
                IGNORED if self._is_missing(step) else self._get_id(step, row.row_id) for step in to_steps(row.target)
            ]
        msg = (
            f"row {row.row_id} has {len(row)} steps but {got}, in a batch with targets per step; "
            "give each step a target, None for those that have none."
        )
        raise TargetError(msg, row=row.row_id)

    def _get_id(self, target: object, row: int) -> int:
        target = get_scalar(target)
        if not isinstance(target, int | str):
            msg = f"the target of row {row} must be a class id or a class name, got {target!r}; convert it to one."
            raise TargetError(msg, row=row)
        if self.labels is not None:
            return self.labels.to_id(target, row=row)
        if isinstance(target, str):
            msg = (
                f"the target of row {row} is a class name, {target!r}, but Pad has no labels; "
                "pass those of the head: Pad(labels=labels)."
            )
            raise TargetError(msg, row=row)
        if not 0 <= target <= MAX_ID:
            msg = (
                f"the target of row {row} must be 0 or more, up to 2**63 - 1, got {target}; use None for a step "
                "without a target."
            )
            raise TargetError(msg, row=row)
        return target


def _make_missing_error(row: Row[Kind]) -> TargetError:
    got = "no target" if row.target is None else f"the missing target {row.target!r}"
    msg = (
        f"row {row.row_id} has {got}, but other rows of its batch have one; give all examples a target, or none of "
        "them (a step without one: None in its list)."
    )
    return TargetError(msg, row=row.row_id)


def _pad_answer_mask(rows: Sequence[Row[Kind]], width: int) -> Bool[Tensor, "batch time"] | None:
    if {type(row.answer_mask) for row in rows} == {NoneType}:
        return None
    mask = torch.ones(len(rows), width, dtype=torch.bool)
    for cells, row in zip(mask, rows, strict=True):
        if row.answer_mask is not None:
            cells[: len(row.answer_mask)] = torch.tensor(row.answer_mask, dtype=torch.bool)[:width]
    return mask
