"""Every n-th record of a source, from one on."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Generic, TypeVar, final

import attrs

from pipeline.core.stage import Stage
from pipeline.data.rows import Kind, Row, is_row
from pipeline.errors import PipelineError
from pipeline.stages.input_stage import InputStage

X = TypeVar("X")


@final
@attrs.frozen(eq=False)
class Share(Generic[X]):
    """The records `first`, `first + every`, `first + 2 * every`, ... of a source.

    A list is asked by index, and what has a method `skip(count)` is asked to leave out the records before the first.
    Anything else is read over from its beginning.

    Example:
        >>> list(Share("abcdefg", 1, 3)), list(Share(iter("abcdefg"), 1, 3))
        (['b', 'e'], ['b', 'e'])
    """

    source: Iterable[X]
    first: int = 0
    every: int = 1

    def __iter__(self) -> Iterator[X]:
        if isinstance(self.source, Sequence):
            known = self.source
            return (known[number] for number in range(self.first, len(known), self.every))
        skip: Callable[[int], Iterable[X]] | None = getattr(self.source, "skip", None)
        if skip is not None:
            return islice(skip(self.first) if self.first else self.source, 0, None, self.every)
        return islice(self.source, self.first, None, self.every)

    def through(self, stages: Sequence[Stage[object, object]]) -> Iterator[object]:
        """What stages make of the records, rows numbered by the place of their record in the whole source.

        Raises:
            PipelineError: what a stage refuses; its message says which record that was.
        """
        flow: Iterator[object] = iter(self)
        for stage in stages:
            flow = stage.map(flow)
        numbers = any(isinstance(stage, InputStage) for stage in stages[:1])
        place = self.first
        try:
            for value in flow:
                yield _at(value, place) if numbers and is_row(value) else value
                place += self.every
        except PipelineError as error:
            if self.first or self.every > 1:
                _tell(error, self.first, self.every)
            raise


def _at(row: Row[Kind], place: int) -> Row[Kind]:
    return Row(row.sequence, row.target, place, row.answer_mask, row.start_step)


def _tell(error: PipelineError, first: int, every: int) -> None:
    """Say which record of the source a row is, to which a door gave a number among those that it saw."""
    row = error.details.get("row")
    if isinstance(row, int):
        record = first + every * row
        error.args = (f"record {record} of the source, here row {row}: {error}", *error.args[1:])
        error.details = {**error.details, "record": record}
