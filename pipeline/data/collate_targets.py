"""Collate the targets of rows: classes per row or per step, numbers, several classes, and several targets by name."""

from collections.abc import Mapping, Sequence
from itertools import chain
from types import NoneType
from typing import Literal, TypeAlias, cast

import attrs
import numpy as np
from torch import Tensor

from pipeline.checks.hints import describe
from pipeline.data.metadata import IGNORED
from pipeline.data.rows import FILLER
from pipeline.data.tensors import pad_flat, to_tensor
from pipeline.errors import LabelError, TargetError
from pipeline.labels import MAX_ID, Labels, get_scalar, is_missing, is_step_target, to_steps
from pipeline.targets import MISSING, NamedTargets, Targets, TargetType
from pipeline.text import suggest_name

MissingTarget: TypeAlias = Literal["raise", "ignore"]
"""What to do with a row without a target, if other rows of its batch have one."""


@attrs.frozen(eq=False)
class RowTargets:
    """The targets of a batch's rows, with what their conversion needs to know of the rows.

    Attributes:
        targets: the target of each row; those of fillers do not count.
        row_ids: the row ids, for errors.
        counts: the number of steps of each row as it came.
        lengths: the number of steps of each row in the batch, after truncation.
        width: the size of the batch's time axis.
    """

    targets: Sequence[object]
    row_ids: Sequence[int]
    counts: Sequence[int]
    lengths: Sequence[int]
    width: int


def collate_targets(rows: RowTargets, kind: Targets | None, missing: MissingTarget) -> Tensor | None:
    """Return the targets of a batch as one tensor; None if no row has one and `missing` does not allow that.

    Fillers, empty rows, and rows without a target, if `missing` allows them, get `IGNORED`, or NaN if targets are
    numbers.

    Args:
        rows: the targets.
        kind: the type of the targets; None for class ids.
        missing: whether some rows may have no target.

    Raises:
        TargetError: if only some rows have a target, or a target does not fit its row or the type.
        LabelError: if a target is not a label.
    """
    labels = kind if isinstance(kind, Labels) else None
    targets, types = rows.targets, set(map(type, rows.targets))
    # Fast paths: no row has a target, or each has a plain id or name, none of them missing.
    if types == {NoneType} and missing == "raise" and set(rows.row_ids) != {FILLER}:
        return None
    are_plain = types <= {int, str} and "" not in targets
    if not are_plain:
        is_given = [not _is_missing(target, labels) for target in targets]
        # Not a batch of fillers alone: a rank that ran out of rows has one beside the targets of other ranks.
        if not any(is_given) and missing == "raise" and set(rows.row_ids) != {FILLER}:
            return None
        lacking = (row for row, given in enumerate(is_given) if not given and rows.row_ids[row] != FILLER)
        if missing == "raise" and (row := next(lacking, None)) is not None:
            raise _make_missing_error(rows, row)
    if isinstance(kind, TargetType):
        values = kind.convert(targets, rows.row_ids)
        empty = to_tensor(rows.lengths) == 0
        missing_value = MISSING if values.is_floating_point() else IGNORED
        by_row = empty.reshape(-1, *[1] * (values.ndim - 1))
        return values.masked_fill(by_row, missing_value) if bool(empty.any()) else values
    # One row with targets per step makes it a batch of such rows; the others are checked below.
    if not are_plain and any(map(is_step_target, targets)):
        known: dict[object, int] = {}
        steps = [_get_step_targets(rows, row, labels, known)[: rows.lengths[row]] for row in range(len(targets))]
        flat = np.array(list(chain.from_iterable(steps)), np.int64)
        return pad_flat(flat, rows.lengths, rows.width, IGNORED)
    # A missing target is allowed here, or was rejected above.
    ids = to_tensor(
        _get_plain_ids(rows, labels)
        if are_plain
        else [
            IGNORED if _is_missing(target, labels) else _get_id(target, row_id, labels)
            for target, row_id in zip(targets, rows.row_ids, strict=True)
        ]
    )
    return ids if all(rows.lengths) else ids.masked_fill(to_tensor(rows.lengths) == 0, IGNORED)


def collate_named_targets(rows: RowTargets, kinds: NamedTargets, missing: MissingTarget) -> Mapping[str, Tensor] | None:
    """Return a tensor for each target by name. Each of them may be missing in some rows.

    Returns:
        the tensors; None if no row has targets and `missing` does not allow that.

    Raises:
        TargetError: if only some rows have targets, or the target of a row is not a mapping, or has an unknown name.
        LabelError: if a target is not a label.
    """
    if missing == "raise":
        real = [row for row, row_id in enumerate(rows.row_ids) if row_id != FILLER]
        lacking = [row for row in real if is_missing(rows.targets[row])]
        if real and len(lacking) == len(real):
            return None
        if lacking:
            raise _make_missing_error(rows, lacking[0])
    given: list[Mapping[str, object]] = []
    for target, row_id in zip(rows.targets, rows.row_ids, strict=True):
        if is_missing(target):
            given.append({})
            continue
        if not isinstance(target, Mapping):
            msg = (
                f"the target of row {row_id} must be a mapping with {', '.join(kinds)}, got {describe(target)} "
                f"{target!r:.60}; give each target its name."
            )
            raise TargetError(msg, row=row_id)
        named = cast("Mapping[str, object]", target)
        unknown = next((name for name in named if name not in kinds), None)
        if unknown is not None:
            msg = f"the target of row {row_id} has the name {unknown!r}, but targets are {', '.join(kinds)}."
            raise TargetError(msg + suggest_name(unknown, list(kinds)), row=row_id)
        given.append(named)
    found: dict[str, Tensor | None] = {}
    for name, kind in kinds.items():
        try:
            own = attrs.evolve(rows, targets=[named.get(name) for named in given])
            found[name] = collate_targets(own, kind, "ignore")
        except (TargetError, LabelError) as error:
            msg = f"target {name!r}: {error}"
            raise type(error)(msg, **{**error.details, "name": name}) from error
    return {name: targets for name, targets in found.items() if targets is not None}


def _is_missing(target: object, labels: Labels | None) -> bool:
    """Return whether a target is missing. An empty name is one only if the labels do not have it."""
    return is_missing(target) and not (target == "" and labels is not None and "" in labels.names)


def _get_step_targets(rows: RowTargets, row: int, labels: Labels | None, known: dict[object, int]) -> list[int]:
    """Return the id of each step of a row. Each distinct integer or name is converted once, and added to `known`."""
    target, row_id, count = rows.targets[row], rows.row_ids[row], rows.counts[row]
    if is_missing(target):  # allowed, or rejected before
        return [IGNORED] * count
    if not is_step_target(target):
        got = "one target for the whole row"
    elif len(target) != count:
        got = f"{len(target)} targets"
    else:
        steps = to_steps(target)
        # Not by equality alone: 1.0 equals 1, but is rejected.
        if not set(map(type, steps)) <= {int, str, NoneType}:
            return [_get_step_id(step, row_id, labels) for step in steps]
        for step in dict.fromkeys(steps):
            if step not in known:
                known[step] = _get_step_id(step, row_id, labels)
        return [known[step] for step in steps]
    msg = (
        f"row {row_id} has {count} steps but {got}, in a batch with targets per step; "
        "give each step a target, None for those that have none."
    )
    raise TargetError(msg, row=row_id)


def _get_step_id(step: object, row: int, labels: Labels | None) -> int:
    return IGNORED if _is_missing(step, labels) else _get_id(step, row, labels)


def _get_plain_ids(rows: RowTargets, labels: Labels | None) -> list[int]:
    """Return the id of each target, all of them integers or names. Each distinct one is converted once."""
    known: dict[object, int] = {}
    for target, row_id in zip(rows.targets, rows.row_ids, strict=True):
        if target not in known:
            known[target] = _get_id(target, row_id, labels)
    return [known[target] for target in rows.targets]


def _get_id(target: object, row: int, labels: Labels | None) -> int:
    target = get_scalar(target)
    if not isinstance(target, int | str):
        msg = (
            f"the target of row {row} must be a class id or a class name, got {target!r:.60}; convert it to one, or "
            "state the type of the targets: Pad(targets=Numbers()), Pad(targets=MultiLabels(labels))."
        )
        raise TargetError(msg, row=row)
    if labels is not None:
        return labels.to_id(target, row=row)
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


def _make_missing_error(rows: RowTargets, row: int) -> TargetError:
    target, row_id = rows.targets[row], rows.row_ids[row]
    got = "no target" if target is None else f"the missing target {target!r}"
    msg = (
        f"row {row_id} has {got}, but other rows of its batch have one; give all examples a target, or none of "
        'them (a step without one: None in its list), or leave rows without one out of the loss: Pad(missing="ignore").'
    )
    return TargetError(msg, row=row_id)
