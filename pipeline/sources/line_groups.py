"""Lines of a table that make one record, and their fields as numbers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias, cast

import attrs

from pipeline.labels import Target
from pipeline.sources.malformed import (
    Column,
    MalformedError,
)

ColumnType: TypeAlias = type[str] | type[int] | type[float]


@attrs.frozen
class LineGroup:
    """The lines of a record."""

    name: str
    lines: list[int] = attrs.field(factory=list[int])
    fields: list[list[str]] = attrs.field(factory=list[list[str]])
    targets: list[Target] = attrs.field(factory=list[Target])

    def check_targets(self, column: Column | tuple[str, ...] | None) -> None:
        """Reject lines with different targets."""
        for place, target in enumerate(self.targets):
            if target != self.targets[0]:
                msg = (
                    f"column {column!r} must have one class in all lines of a record, got {target!r} here, and "
                    f"{self.targets[0]!r} in line {self.lines[0]}; step_targets=True reads one class per line"
                )
                raise FieldError("target", msg, place)


class FieldError(MalformedError):
    """A field of one line of a record violates a rule; `place` is the number of the line in the record, from 0."""

    def __init__(self, kind: str, reason: str, place: int) -> None:
        super().__init__(kind, reason)
        self.place: Final = place


def join_steps(targets: Sequence[Target]) -> object:
    """Return the targets of lines as one per step; several targets by name become one list each."""
    first = targets[0]
    if not isinstance(first, Mapping):
        return targets
    return {name: [cast("Mapping[str, object]", target)[name] for target in targets] for name in first}


def convert_fields(texts: Sequence[str], kind: ColumnType, column: str) -> list[Any]:
    """Return the fields of a column as numbers, or as they are.

    Raises:
        FieldError: for the first field that is not a finite number.
    """
    # All at once, because most columns have no wrong field.
    try:
        values = [*texts] if kind is str else [*map(kind, texts)]
        if kind is not float or all(map(math.isfinite, cast("list[float]", values))):
            return values
    except ValueError:
        pass
    for place, text in enumerate(texts):
        if not _is_number(text, kind):
            rule = "an integer" if kind is int else "a finite number"
            raise FieldError("number", f"column {column!r} must have {rule}, got {text!r}", place)
    raise AssertionError


def _is_number(text: str, kind: ColumnType) -> bool:
    try:
        value = kind(text)
        return kind is int or math.isfinite(float(value))
    except ValueError:
        return False
