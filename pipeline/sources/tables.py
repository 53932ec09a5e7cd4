"""Columns of tables in memory-mapped Arrow files and in Parquet files, read by pyarrow."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Final, Protocol

from typing_extensions import override

from pipeline.data.rows import Example, X_co
from pipeline.errors import RecordError
from pipeline.sources.fields import Fields
from pipeline.sources.kept import digest
from pipeline.sources.opened import Opened
from pipeline.sources.problems import SHOWN, Malformed, Problem, UnfitError
from pipeline.sources.screened import Screened, Span


class Scalar(Protocol):
    """A value of a column."""

    def as_py(self) -> object:
        """It, as Python has it."""
        ...


class ColumnValues(Protocol):
    """A column of some rows."""

    def __getitem__(self, index: int, /) -> Scalar:
        """A value of it."""
        ...

    def to_pylist(self) -> list[object]:
        """All of them, as Python has them."""
        ...


class Rows(Protocol):
    """Some rows of a table."""

    @property
    def num_rows(self) -> int:
        """How many."""
        ...

    def column(self, name: str, /) -> ColumnValues:
        """One of their columns."""
        ...


class TableSource(Screened["Sequence[object]", X_co]):
    """Rows of a file that pyarrow reads; only the columns that are asked for."""

    format: str = ""

    def __init__(
        self,
        file: str | PathLike[str],
        fields: Fields[X_co],
        on_bad_record: Malformed[X_co],
        cache: str | PathLike[str] | None,
    ) -> None:
        super().__init__(on_bad_record, cache)
        self.file: Final = Path(file)
        self._fields: Final = fields
        self._columns: Final = [str(column) for column in fields.columns]
        self._opened: Final = Opened(self.file)
        names = self._names()
        for column in self._columns:
            if names.count(column) != 1:
                has = ", ".join(map(repr, names[:20])) or "none"
                how = "no column" if column not in names else "more than one column"
                msg = f"{self.file} has {how} {column!r}; its columns are {has}."
                raise RecordError(msg, file=str(self.file), column=column)

    @abstractmethod
    def _names(self) -> list[str]:
        """What the columns of the file are called.

        Raises:
            RecordError: if the file is not of its format.
        """

    @abstractmethod
    def _batches(self) -> Iterator[Rows]:
        """All rows in their order, some thousands at a time."""

    @abstractmethod
    def _rows_with(self, row: int) -> tuple[Rows, int]:
        """Some rows with a given one, and its number among them."""

    @property
    @override
    def fingerprint(self) -> str | None:
        if callable(self.on_bad_record):
            return None
        return digest(type(self).__name__, repr(self._fields), self.on_bad_record, self._opened.fingerprint())

    @override
    def _all(self) -> Iterator[tuple[Span, Sequence[object]]]:
        number = 0
        for rows in self._batches():
            columns = [_values(rows.column(name), rows.num_rows) for name in self._columns]
            for values in zip(*columns, strict=True):
                yield (number, number + 1), values
                number += 1

    @override
    def _span(self, record: int) -> Span:
        return record, record + 1

    @override
    def _read(self, span: Span) -> Sequence[object]:
        rows, place = self._rows_with(span[0])
        return [_value(rows.column(name), place) for name in self._columns]

    @override
    def _parsed(self, raw: Sequence[object], span: Span) -> Example[X_co]:
        for value in raw:
            if isinstance(value, UnfitError):
                raise value
        if raw[0] is None:
            msg = f"field {self._fields.input!r} must be there, but is null"
            raise UnfitError("null", msg)
        return self._fields.example(dict(zip(self._fields.columns, raw, strict=True)))

    @override
    def _problem(self, raw: Sequence[object], span: Span, error: UnfitError) -> Problem:
        text = repr(tuple(raw))[:SHOWN]
        return Problem(self._place(span), str(self.file), span[1], 1, error.kind, error.reason, text)

    @override
    def _place(self, span: Span) -> str:
        return f"{self.file}, row {span[1]}"

    def not_of_format(self, error: Exception) -> RecordError:
        """The error for a file of another format."""
        msg = f"{self.file} must be {self.format}, but pyarrow refuses it: {error}; look what wrote it."
        return RecordError(msg, file=str(self.file))


def _values(column: ColumnValues, count: int) -> Sequence[object]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_value(column, place) for place in range(count)]


def _value(column: ColumnValues, place: int) -> object:
    try:
        return column[place].as_py()
    except UnicodeDecodeError as error:
        return UnfitError(
            "encoding", f"text must be UTF-8, but holds {error.object[error.start]:#04x} ({error.reason})"
        )
