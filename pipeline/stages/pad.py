"""Make ragged rows rectangular, real steps first."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from types import NoneType
from typing import Final, Literal, final, overload

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from typing_extensions import override

from pipeline.batching.policy import Policy
from pipeline.checks.shapes import described
from pipeline.core.stage import Spec, Stage
from pipeline.data.batches import Padded
from pipeline.data.lists import tensor_of, tensors_of
from pipeline.data.metadata import IGNORED, BatchMetadata
from pipeline.data.pad_rows import rectangle
from pipeline.data.rows import Ids, K, Kind, Row, values_of
from pipeline.data.windows import filler_like
from pipeline.errors import EmptyBatchError, LengthError, OptionError, ShapeError, TargetError
from pipeline.labels import Labels, Target

TooLong = Literal["raise", "truncate"]

_values: Final[Callable[[Row[Kind]], Tensor]] = attrgetter("sequence.values")
_begin: Final[Callable[[Row[Kind]], int]] = attrgetter("start_step")


@final
class Pad(Stage[list[Row[K]], Padded[K]]):
    """A list of rows to one rectangle, their lengths, targets and places beside it.

    It is also a `collate_fn` for a stock `DataLoader`. The target of a row of no steps weighs nothing.

    Args:
        kind: what the rows are; ids if left out.
        value: what stands in the padding. It changes no answer.
        multiple_of: round the width up to a multiple of this.
        policy: instead of `multiple_of`, the policy that cut the batches, which says what they are padded to. Rows
            that a fixed shape has room for are filled up with rows of no steps, which weigh nothing, and of which
            there is no answer.
        max_length: how many steps a row may have.
        too_long: what becomes of a longer row: `raise` it with an error, or `truncate` it and its targets.
        labels: the classes, where targets are names.

    Raises:
        OptionError: if a number is below 1, or if there are both a policy and `multiple_of`.

    Example:
        >>> rows = [Row(Ids(torch.tensor([5, 6, 7])), target=1), Row(Ids(torch.tensor([8])), target=0)]
        >>> batch = Pad()(rows)
        >>> batch.values.tolist(), batch.lengths.tolist(), batch.metadata.targets.tolist()
        ([[5, 6, 7], [8, 0, 0]], [3, 1], [1, 0])
    """

    @overload
    def __init__(
        self: "Pad[Ids]",
        *,
        value: float = 0,
        multiple_of: int = 1,
        policy: Policy | None = None,
        max_length: int | None = None,
        too_long: TooLong = "raise",
        labels: Labels | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        kind: type[K],
        *,
        value: float = 0,
        multiple_of: int = 1,
        policy: Policy | None = None,
        max_length: int | None = None,
        too_long: TooLong = "raise",
        labels: Labels | None = None,
    ) -> None: ...
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
                msg = f"{name} must be 1 or more, but {number} arrived."
                raise OptionError(msg, **{name: number})
        if policy is not None and multiple_of != 1:
            msg = f"Pad has a policy, and multiple_of={multiple_of} beside it; say it in the policy alone."
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
        """The rows in one rectangle.

        Raises:
            EmptyBatchError: if there is no row.
            ShapeError: if a row is of another kind, dtype, device or feature width than the others.
            LengthError: if a row is longer than `max_length`, and may not be truncated, or if the policy has no room
                for the batch.
            TargetError: if some rows have a target and some have none, or one does not fit its row.
            LabelError: if a target is no label.
        """
        if not value:
            msg = "rows is empty: a batch holds at least one row; skip batches of none."
            raise EmptyBatchError(msg)
        sequences = list(map(_values, value))
        if not self._alike(value, sequences):
            for row, sequence in zip(value, sequences, strict=True):
                self._check(row, sequence, value[0], sequences[0])
        if self.max_length is not None:
            sequences = [self._cut(row, self.max_length) for row in value]
        counts = [sequence.shape[0] for sequence in sequences]
        count, width = self._shape(len(value), max(counts))
        rows = value if count == len(value) else [*value, *(filler_like(value[0]) for _ in range(count - len(value)))]
        counts += [0] * (count - len(value))
        lengths = tensor_of(counts)
        metadata = BatchMetadata(
            row_ids=tensor_of([row.row_id for row in rows]),
            targets=self._targets(rows, counts, width),
            answer_mask=_asked(rows, width),
            start_steps=tensor_of([row.start_step for row in rows]) if any(map(_begin, rows)) else None,
        )
        return Padded(_kind_of(value[0]), rectangle(sequences, counts, width, self.value), lengths, metadata=metadata)

    def _shape(self, rows: int, longest: int) -> tuple[int, int]:
        """How many rows, and how many steps, a batch is padded to."""
        if self.policy is None:
            return rows, -(-longest // self.multiple_of) * self.multiple_of
        if rows > self.policy.room(longest):
            msg = (
                f"a batch of {rows} rows of up to {longest} steps is more than {self.policy} has room for; cut batches "
                "by the same policy: Bucket(policy=policy)."
            )
            raise LengthError(msg, rows=rows, longest=longest)
        shape: list[int] = self.policy.shapes(np.array([rows]), np.array([[longest]]))[0].tolist()
        return shape[0], shape[1]

    def _cut(self, row: Row[K], most: int) -> Tensor:
        sequence = values_of(row.sequence)
        if len(sequence) <= most:
            return sequence
        if self.too_long == "truncate":
            return sequence[:most]
        msg = (
            f"row {row.row_id} has {len(sequence)} steps, but max_length is {most}; "
            'raise it, or let Pad cut what is longer: Pad(too_long="truncate").'
        )
        raise LengthError(msg, row=row.row_id, length=len(sequence), max_length=most)

    def _alike(self, rows: Sequence[Row[K]], sequences: Sequence[Tensor]) -> bool:
        """Whether all rows are surely right, looked at together: it takes a fifth of the time of one by one."""
        kinds = {type(row.sequence) for row in rows}
        dtypes = {sequence.dtype for sequence in sequences}
        axes = {sequence.ndim for sequence in sequences}
        if len(dtypes) > 1 or kinds != {self.kind} or len({sequence.device for sequence in sequences}) > 1:
            return False
        if self.kind is Ids:
            return dtypes == {torch.int64} and axes == {1}
        widths = {sequence.shape[1:] for sequence in sequences}
        return dtypes.pop().is_floating_point and axes == {2} and len(widths) == 1

    def _check(self, row: Row[K], sequence: Tensor, first: Row[K], model: Tensor) -> None:
        """Refuse what `torch.nn.utils.rnn.pad_sequence` would take in silence, or would not explain."""
        if not isinstance(row.sequence, self.kind):
            msg = (
                f"row {row.row_id} holds {type(row.sequence).__name__}, but Pad was made for {self.kind.__name__}; "
                f"make it Pad({type(row.sequence).__name__})."
            )
            raise ShapeError(msg, row=row.row_id)
        same = (
            sequence.shape[1:] == model.shape[1:] and sequence.dtype is model.dtype and sequence.device == model.device
        )
        right = sequence.dtype is torch.int64 if self.kind is Ids else sequence.is_floating_point()
        if not same or not right or sequence.ndim != (1 if self.kind is Ids else 2):
            rule = "int64 ids of time" if self.kind is Ids else "floating-point vectors of time x feature"
            msg = (
                f"row {row.row_id} is {described(sequence)}, but every row must be {rule}, and alike in feature width, "
                f"dtype and device; row {first.row_id} is {described(model)}."
            )
            raise ShapeError(msg, row=row.row_id)

    def _targets(self, rows: Sequence[Row[K]], counts: list[int], width: int) -> Int64[Tensor, "..."] | None:
        types = {type(row.target) for row in rows}
        if types == {NoneType}:
            return None
        if NoneType in types:
            missing = next(row.row_id for row in rows if row.target is None)
            msg = (
                f"row {missing} has no target, but other rows of its batch have one; give every example a "
                "target (a step without one: None in its list), or none."
            )
            raise TargetError(msg, row=missing)
        if any(issubclass(kind, Sequence) and not issubclass(kind, str) for kind in types):
            steps = [self._steps_of(row)[:count] for row, count in zip(rows, counts, strict=True)]
            return rectangle(tensors_of(steps), counts, width, IGNORED)
        ids = tensor_of([self._id(row.target, row.row_id) for row in rows])
        return ids if all(counts) else ids.masked_fill(tensor_of(counts) == 0, IGNORED)

    def _steps_of(self, row: Row[K]) -> list[int]:
        target = row.target
        if isinstance(target, str) or not isinstance(target, Sequence) or len(target) != len(row):
            came = f"{len(target)} targets" if isinstance(target, Sequence) and not isinstance(target, str) else "one"
            msg = (
                f"row {row.row_id} has {len(row)} steps but {came}, in a batch of a target a step; "
                "give each step a target, None for those that have none."
            )
            raise TargetError(msg, row=row.row_id)
        return [IGNORED if step is None else self._id(step, row.row_id) for step in target]

    def _id(self, target: Target, place: int) -> int:
        if not isinstance(target, int | str):
            msg = f"row {place} has target {target!r}, but a target is a class number or a class name."
            raise TargetError(msg, row=place)
        if self.labels is not None:
            return self.labels.to_id(target, row=place)
        if isinstance(target, str):
            msg = (
                f"row {place} has target {target!r}, a name, but Pad knows no labels; "
                "give it the same ones as the head: Pad(labels=labels)."
            )
            raise TargetError(msg, row=place)
        if target < 0:
            msg = f"row {place} has target {target}, but classes count from 0; leave a step without one None."
            raise TargetError(msg, row=place)
        return target


def _kind_of(row: Row[K]) -> type[K]:
    return type(row.sequence)


def _asked(rows: Sequence[Row[Kind]], width: int) -> Bool[Tensor, "batch time"] | None:
    if {type(row.answer_mask) for row in rows} == {NoneType}:
        return None
    asked = torch.ones(len(rows), width, dtype=torch.bool)
    for cells, row in zip(asked, rows, strict=True):
        if row.answer_mask is not None:
            cells[: len(row.answer_mask)] = torch.tensor(row.answer_mask, dtype=torch.bool)[:width]
    return asked
