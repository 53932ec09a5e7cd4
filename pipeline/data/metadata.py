"""Metadata that accompanies the values of a batch: row ids, targets, and which steps need a prediction."""

from collections.abc import Mapping
from typing import Final, Protocol, Self, TypeAlias, cast

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pipeline.checks.shapes import checked
from pipeline.data.rows import FILLER
from pipeline.data.tensors import to_ints
from pipeline.data.trees import ON_CPU, as_pytree, build_unchecked, move_to_device, pin_memory
from pipeline.errors import CompositionError, ShapeError, TargetError

IGNORED = -100
"""The target of a row or step without one: the default `ignore_index` of torch's losses."""

TargetTensor: TypeAlias = (
    Int64[Tensor, " batch"] | Int64[Tensor, "batch _"] | Float[Tensor, " batch"] | Float[Tensor, "batch size"]
)
"""Targets: classes per row or per step, numbers, one or several per row, or sequences with lengths of their own."""


@as_pytree
@checked
@attrs.frozen(eq=False)
class BatchMetadata:
    """Row ids, targets and masks of a batch's rows.

    Attributes:
        row_ids: the position of each row in the input; `FILLER` for rows that belong to no input; on the CPU.
        targets: one class per row, or one class per step in a padded rectangle (in either layout of the values);
            `IGNORED` for a missing one. Or numbers, one or several per row, NaN for missing ones. Or sequences of ids
            with lengths of their own, `IGNORED` in the padding; see `target_lengths`.
        named_targets: several targets by their names, each like `targets`; None if there is one target, or none.
        answer_mask: True at the steps that need a prediction; None means every real step; on the CPU.
        label_sets: the names of the targets whose numbers stand for sets of classes, 1 for each class of a row; an
            empty name stands for `targets`.
        target_lengths: for each target that is a sequence with lengths of its own, such as a text to generate, the
            lengths, 0 for a missing one; an empty name stands for `targets`; on the CPU.
        start_steps: the step of the original row at which each row begins, where rows were cut; None means 0; on the
            CPU.

    Example:
        >>> metadata = BatchMetadata(torch.tensor([4, 7]), targets=torch.tensor([1, IGNORED]))
        >>> metadata.rows, metadata.weight.item()
        (2, 1)
    """

    row_ids: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)
    targets: TargetTensor | None = None
    answer_mask: Bool[Tensor, "batch time"] | None = attrs.field(default=None, metadata=ON_CPU)
    start_steps: Int64[Tensor, " batch"] | None = attrs.field(default=None, metadata=ON_CPU)
    named_targets: Mapping[str, TargetTensor] | None = attrs.field(default=None, kw_only=True)
    label_sets: frozenset[str] = attrs.field(default=frozenset(), kw_only=True)
    target_lengths: Mapping[str, Int64[Tensor, " batch"]] | None = attrs.field(
        default=None, kw_only=True, metadata=ON_CPU
    )

    @property
    def weight(self) -> Int64[Tensor, ""]:
        """The number of rows or steps that have a target; for several targets by name see `weights`."""
        if self.targets is None:
            return torch.zeros((), dtype=torch.int64)
        return has_target(self.targets).sum()

    @property
    def weights(self) -> Mapping[str, Int64[Tensor, ""]]:
        """The number of rows or steps that have a target, for each of several targets by name."""
        return {name: has_target(targets).sum() for name, targets in (self.named_targets or {}).items()}

    def select_targets(self, name: str) -> "BatchMetadata":
        """Return the metadata with one of several targets as `targets`.

        Raises:
            TargetError: if there is no target of this name.
        """
        if self.named_targets is None or name not in self.named_targets:
            got = "none" if self.named_targets is None else ", ".join(self.named_targets)
            msg = f"the batch must have a target {name!r}, got {got}; pass Pad(targets={{{name!r}: ...}})."
            raise TargetError(msg, name=name)
        label_sets = frozenset({""} if name in self.label_sets else ())
        lengths = (self.target_lengths or {}).get(name)
        return attrs.evolve(
            self,
            targets=self.named_targets[name],
            named_targets=None,
            label_sets=label_sets,
            target_lengths=None if lengths is None else {"": lengths},
        )

    @property
    def rows(self) -> int:
        """The number of rows that belong to the input; fillers are not counted."""
        return len(self.row_ids) - to_ints(self.row_ids).count(FILLER)

    @property
    def continues(self) -> Bool[Tensor, " batch"]:
        """True at the rows that continue a row whose earlier steps were in earlier batches; on the CPU."""
        return torch.zeros_like(self.row_ids, dtype=torch.bool) if self.start_steps is None else self.start_steps > 0


_DEFAULTS: Final[Mapping[str, object]] = {
    field.name: field.default for field in attrs.fields(BatchMetadata) if field.default is not attrs.NOTHING
}


def has_target(targets: TargetTensor) -> Bool[Tensor, "*item"]:
    """Return which rows, or which steps of the rectangle, have a target.

    Example:
        >>> has_target(torch.tensor([1, IGNORED])).tolist(), has_target(torch.tensor([[1.0, 2.0]])).tolist()
        ([True, False], [True])
    """
    if not targets.is_floating_point():
        return targets != IGNORED
    missing = targets.isnan()
    return ~(missing.any(1) if missing.ndim > 1 else missing)


def check_metadata(metadata: BatchMetadata, batch: int, width: int | None = None) -> None:
    """Reject metadata of another number of rows than `batch`, or with per-step entries of another width.

    Raises:
        ShapeError: naming the field.
    """
    if metadata.row_ids.shape[0] != batch:
        msg = (
            f"metadata must have one row id per row, got {len(metadata.row_ids)} row ids for {batch} rows; "
            "pass the metadata of the same rows."
        )
        raise ShapeError(msg, argument="metadata")
    if width is None:
        return
    named = (metadata.named_targets or {}).items()
    per_step = [("targets", metadata.targets), ("answer_mask", metadata.answer_mask), *named]
    own_lengths = metadata.target_lengths or {}
    for field, steps in per_step:
        if steps is None or steps.is_floating_point() or ("" if field == "targets" else field) in own_lengths:
            continue
        if steps.ndim == 2 and steps.shape[1] != width:
            msg = (
                f"metadata.{field} must be {width} steps wide like the batch, got {steps.shape[1]}; "
                "pad targets and masks together with the values."
            )
            raise ShapeError(msg, argument="metadata")


def check_same_metadata(stage: str, before: BatchMetadata, after: BatchMetadata) -> None:
    """Reject the metadata of a stage's output if they are not those of its input.

    Metadata derived from those of the input keep the tensor `row_ids`. They may have other targets or masks, but
    not lose the answer mask.

    Raises:
        CompositionError: naming the stage, if it dropped the metadata or took those of other rows.
    """
    if after.row_ids.is_meta or before.row_ids.is_meta:
        return
    # Steps that need no prediction, such as eos, would get one without the mask.
    if after.row_ids is before.row_ids and (before.answer_mask is None or after.answer_mask is not None):
        return
    lost = [
        name
        for name in ("targets", "named_targets", "answer_mask", "start_steps")
        if getattr(before, name) is not None and getattr(after, name) is None
    ]
    if lost or not torch.equal(before.row_ids, after.row_ids):
        # Metadata made by default have row ids from 0.
        is_new = bool(lost) or torch.equal(after.row_ids, torch.arange(len(after.row_ids), device=after.row_ids.device))
        what = "dropped the metadata of its input" if is_new else "returned the metadata of other rows"
        msg = (
            f"{stage} {what}: row ids were {_list_some(before)}, and are {_list_some(after)}"
            + (f" without {lost[0]}" if lost else "")
            + "; keep the rows in their order, and pass the metadata on: value.with_values(values), or "
            "metadata=value.metadata."
        )
        raise CompositionError(msg, stage=stage)


def _list_some(metadata: BatchMetadata) -> str:
    row_ids = to_ints(metadata.row_ids[:8])
    return f"[{', '.join(map(str, row_ids))}{', ...' if len(metadata.row_ids) > 8 else ''}]"


class _HasMetadata(Protocol):
    @property
    def metadata(self) -> BatchMetadata: ...


class Collated:
    """Mixin of all data with one entry per row of a batch: access to the metadata, and moves between devices."""

    __slots__ = ()

    @property
    def row_ids(self: _HasMetadata) -> Int64[Tensor, " batch"]:
        """The position of each row in the input; on the CPU."""
        return self.metadata.row_ids

    @property
    def targets(self: _HasMetadata) -> TargetTensor | None:
        """The target of each row, or of each step; None if the rows have none, or several by name."""
        return self.metadata.targets

    @property
    def named_targets(self: _HasMetadata) -> Mapping[str, TargetTensor] | None:
        """Several targets by their names; None if the rows have one target, or none."""
        return self.metadata.named_targets

    def to(self, device: torch.device | str) -> Self:
        """Return the same data on another device. Lengths, row ids and answer masks stay on the CPU."""
        return cast("Self", move_to_device(cast("attrs.AttrsInstance", self), device))

    def pin_memory(self) -> Self:
        """Return the same data in page-locked memory; a `DataLoader` with `pin_memory=True` calls this."""
        return cast("Self", pin_memory(cast("attrs.AttrsInstance", self)))


class _HasLengths(Protocol):
    @property
    def lengths(self) -> Tensor: ...


class _HasValues(Protocol):
    @property
    def values(self) -> Tensor: ...


def make_metadata(batch: _HasLengths) -> BatchMetadata:
    """Return default metadata of a batch: row ids from 0, and no targets."""
    return number_rows(batch.lengths.shape[0])


def make_row_metadata(batch: _HasValues) -> BatchMetadata:
    """Return default metadata of data with one vector per row, and so no lengths."""
    return number_rows(batch.values.shape[0])


def number_rows(rows: int) -> BatchMetadata:
    """Return metadata with row ids from 0, and no targets."""
    # Without checks: nothing of it comes from a caller, and most batches that are made by hand need it.
    row_ids = torch.arange(rows, device="cpu")
    return build_unchecked(BatchMetadata, {**_DEFAULTS, "row_ids": row_ids})
