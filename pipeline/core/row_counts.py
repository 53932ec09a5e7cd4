"""Check that every row is predicted once: count the rows around a stage, and compare their row ids."""

from collections.abc import Callable, Iterable, Iterator
from itertools import count
from operator import itemgetter
from typing import Any, TypeVar, cast

import attrs

from pipeline.data.kinds import Kind
from pipeline.data.metadata import Collated
from pipeline.data.rows import FILLER, Example, Row, is_row
from pipeline.errors import CompositionError

A = TypeVar("A")


class RowCounter:
    """Counts the rows that a stream takes and yields, if its inputs and outputs are rows."""

    def __init__(self) -> None:
        self.given: int = 0
        self.is_known: bool = True

    def count(self, values: Iterable[Any]) -> Iterator[Any]:
        """Yield the inputs of the stream."""
        for value in values:
            rows = 1 if isinstance(value, Row) else _count_rows(value)
            self.is_known = self.is_known and rows is not None
            self.given += rows or 0
            yield value

    def check(self, outputs: Iterable[Any], number: int, stage: object) -> Iterator[Any]:
        """Yield the outputs of the stream, and compare the numbers of rows at the end."""
        returned = 0
        for output in outputs:
            rows = 1 if isinstance(output, Row) else _count_rows(output)
            self.is_known = self.is_known and rows is not None
            returned += rows or 0
            yield output
        if self.is_known and returned != self.given:
            msg = (
                f"stage {number} `{type(stage).__name__}`: it returned {returned} rows for {self.given}; in prediction "
                "each row must be returned once. Leave rows out in training only: override predict_batches."
            )
            raise CompositionError(msg, stage_number=number, rows=self.given, returned=returned)


def _count_rows(value: object) -> int | None:
    """Return the number of rows of a batch, or of a list of rows; None for other values."""
    row_ids = _get_row_ids(value)
    return None if row_ids is None else len(row_ids)


def _get_row_ids(value: object) -> list[int] | None:
    """Return the row ids of a batch, or of a list of rows; None for other values."""
    if isinstance(value, Collated):
        found: list[int] = cast("Any", value).row_ids.tolist()
    elif isinstance(value, list) and set(map(type, cast("list[object]", value))) == {Row}:
        found = [row.row_id for row in cast("list[Row[Kind]]", value)]
    else:
        return None
    return [row_id for row_id in found if row_id != FILLER]


def check_rows_kept(stage: str, before: object, after: object) -> None:
    """Reject rows that were lost, doubled or swapped between a list of rows and the batch made of it."""
    given, returned = _get_row_ids(before), _get_row_ids(after)
    # Sorted: a stage may sort the rows of a batch, if it sorts their row ids too.
    if given is not None and returned is not None and sorted(given) != sorted(returned):
        msg = (
            f"{stage} returned rows {returned[:8]} for rows {given[:8]}; in prediction each row must be returned once, "
            "with its row id."
        )
        raise CompositionError(msg, stage=stage)


_first: Callable[[tuple[Any, int]], Any] = itemgetter(0)


def count_values(values: Iterator[A], counter: "count[int]") -> Iterator[A]:
    """Yield the values; the next number of the counter is how many were yielded. In C, since it runs once per row."""
    return map(_first, zip(values, counter, strict=False))


def number_rows(inputs: Iterable[A]) -> Iterator[A]:
    """Yield the inputs without their targets, which may be missing or unknown where predictions are wanted.

    Inputs that are rows already get new row ids, since theirs may be from anywhere.
    """
    for row_id, value in enumerate(inputs):
        if is_row(value):
            yield cast("A", attrs.evolve(value, row_id=row_id, target=None))
        elif isinstance(value, Example):
            yield cast("A", Example(cast("Example[object]", value).input))
        else:
            yield value
