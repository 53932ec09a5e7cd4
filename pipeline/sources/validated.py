"""Sources whose records may be malformed, and the choice to raise, skip or replace."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import cast

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError, SourceError
from pipeline.sources.malformed import MAX_PROBLEMS, OnBadRecord, Problem, Skipped
from pipeline.sources.source import Source, check_index


class Validated(Source[X_co]):
    """A source that finds malformed records, and applies `on_bad_record` to them.

    Raw numbers count all records, public numbers only those that are not skipped. With "raise", a record is validated
    when it is read. Otherwise all records are validated at the first access by number, because only then the public
    numbers are known.
    """

    def __init__(self, on_bad_record: OnBadRecord[X_co]) -> None:
        if on_bad_record not in ("raise", "skip") and not callable(on_bad_record):
            msg = f'on_bad_record must be "raise", "skip" or a function of a Problem, got {on_bad_record!r}.'
            raise OptionError(msg, on_bad_record=on_bad_record)
        self.on_bad_record: OnBadRecord[X_co] = on_bad_record
        self._screening: tuple[NDArray[np.int64], Skipped] | None = None

    @abstractmethod
    def _iterate_raw(self) -> Iterator[Example[X_co] | Problem]:
        """Read all records in order, malformed ones included."""

    @abstractmethod
    def _count_raw(self) -> int:
        """Return the number of records, malformed ones included."""

    @abstractmethod
    def _read_raw(self, number: int) -> Example[X_co] | Problem:
        """Read the record of a raw number."""

    @abstractmethod
    def _locate_raw(self, number: int) -> str:
        """Return the location of the record of a raw number."""

    def _iterate_problems(self) -> Iterator[tuple[int, Problem]]:
        """Find all malformed records, with their raw numbers."""
        return ((number, record) for number, record in enumerate(self._iterate_raw()) if isinstance(record, Problem))

    @override
    def __len__(self) -> int:
        return self._count_raw() - len(self._screen()[0])

    @override
    def __iter__(self) -> Iterator[Example[X_co]]:
        for record in self._iterate_raw():
            example = self._replace(record) if isinstance(record, Problem) else record
            if example is not None:
                yield example

    @override
    def read(self, number: int) -> Example[X_co]:
        return self._accept(self._read_raw(self._get_raw_number(number)))

    @override
    def where(self, index: int) -> str:
        return self._locate_raw(self._get_raw_number(index))

    @property
    @override
    def skipped(self) -> Skipped:
        return self._screen()[1]

    def _accept(self, record: Example[X_co] | Problem) -> Example[X_co]:
        """Return the example of a record that was not skipped before."""
        if not isinstance(record, Problem):
            return record
        example = self._replace(record)
        if example is None:
            msg = (
                f"{record.where}: the function given as on_bad_record= returned None for this record, but before it "
                "returned a replacement; it must return the same for the same record."
            )
            raise SourceError(msg)
        return example

    def _replace(self, problem: Problem) -> Example[X_co] | None:
        """Apply the rule for malformed records to one of them."""
        if self.on_bad_record == "raise":
            raise problem.make_error()
        if self.on_bad_record == "skip":
            return None
        found = cast("object", self.on_bad_record(problem))
        if found is None or isinstance(found, Example):
            return cast("Example[X_co] | None", found)
        msg = f"{problem.where}: on_bad_record must return an Example or None, got {describe(found)}."
        raise OptionError(msg)

    def _get_raw_number(self, index: int) -> int:
        number = check_index(index, len(self), type(self).__name__)
        skipped = self._screen()[0]
        if len(skipped) == 0:
            return number
        # Before the i-th skipped record, of raw number s, there are s - i records that are not skipped.
        return number + int(np.searchsorted(skipped - np.arange(len(skipped)), number, side="right"))

    def _screen(self) -> tuple[NDArray[np.int64], Skipped]:
        """Return the raw numbers of the skipped records, in order, and their counts; find them once."""
        if self._screening is None:
            numbers: list[int] = []
            kinds: dict[str, int] = {}
            first: list[Problem] = []
            # With "raise" nothing is skipped, so nothing needs to be read.
            for number, problem in () if self.on_bad_record == "raise" else self._iterate_problems():
                if self._replace(problem) is None:
                    numbers.append(number)
                    kinds[problem.kind] = kinds.get(problem.kind, 0) + 1
                    first += [problem] if len(first) < MAX_PROBLEMS else []
            self._screening = np.array(numbers, np.int64), Skipped(kinds, tuple(first))
        return self._screening
