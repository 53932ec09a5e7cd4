"""Columns of Arrow and Parquet files, read by pyarrow.

Source: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format and https://parquet.apache.org/docs/file-format.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Final, Protocol, cast, final, overload

from typing_extensions import override

from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError, RecordError
from pipeline.extras import import_extra
from pipeline.sources.fields import Fields, choose_fields
from pipeline.sources.malformed import SHOWN, MalformedError, OnBadRecord, Problem
from pipeline.sources.parsed import ParsedSource
from pipeline.sources.record_table import Parsed
from pipeline.sources.text_file import InputFile

_BATCH: Final = 4_096


class _Value(Protocol):
    def as_py(self) -> object: ...


class _Column(Protocol):
    def __getitem__(self, index: int, /) -> _Value: ...
    def to_pylist(self) -> list[object]: ...


class _Rows(Protocol):
    """Part of the interface of pyarrow's `Table` and `RecordBatch`."""

    @property
    def num_rows(self) -> int: ...
    def column(self, name: str, /) -> _Column: ...


class TableSource(ParsedSource[X_co]):
    """Rows of a file that pyarrow reads; only the selected columns are read."""

    unit = "row"
    format: str

    def __init__(
        self,
        file: str | PathLike[str],
        fields: Fields[X_co],
        on_bad_record: OnBadRecord[X_co],
        cache: str | PathLike[str] | None,
    ) -> None:
        self._file: Final = InputFile(file)
        super().__init__([self._file], on_bad_record, cache)
        if self._file.path is None:
            msg = f"{self._file.name!r} must be a regular file, because {self.format} is read from its end, got a stream."
            raise OptionError(msg, file=self._file.name)
        self._fields: Final = fields
        self._columns: Final = [str(column) for column in fields.columns]
        with self._explain_errors():
            names = self._read_names()
        for column in self._columns:
            if names.count(column) != 1:
                known = ", ".join(map(repr, names[:20])) or "none"
                found = "no column" if column not in names else "more than one column"
                msg = f"{self._file.name} has {found} {column!r}; its columns are {known}."
                raise RecordError(msg, file=self._file.name, column=column)

    @abstractmethod
    def _read_names(self) -> list[str]:
        """Return the names of all columns."""

    @abstractmethod
    def _iterate_batches(self) -> Iterator[_Rows]:
        """Read the selected columns, some thousand rows at a time."""

    @override
    def _parse(self) -> Iterator[Parsed]:
        row = 0
        for rows in self._read_batches():
            self._file.check_unchanged()
            columns = [_read_column(rows.column(name), rows.num_rows) for name in self._columns]
            for values in zip(*columns, strict=True):
                row += 1
                yield Parsed(0, row, "", self._make_record(row, values))

    def _read_batches(self) -> Iterator[_Rows]:
        row = 1
        batches = self._iterate_batches()
        while True:
            with self._explain_errors(row):
                rows = next(batches, None)
            if rows is None:
                return
            yield rows
            row += rows.num_rows

    def _make_record(self, row: int, values: Sequence[object]) -> Example[X_co] | Problem:
        try:
            for value in values:
                if isinstance(value, MalformedError):
                    raise value
            if values[0] is None:
                msg = f"field {self._fields.input!r} must not be null"
                raise MalformedError("null", msg)
            return self._fields.make_example(dict(zip(self._fields.columns, values, strict=True)))
        except MalformedError as error:
            text = repr(tuple(values))[:SHOWN]
            return self._build_problem(
                self._file, row, {"kind": error.kind, "reason": error.reason, "text": text, "lines": 1, "name": ""}
            )

    @override
    def _get_options(self) -> tuple[object, ...]:
        return (self._fields,)

    @contextmanager
    def _explain_errors(self, row: int | None = None) -> Generator[None]:
        """Turn an error of pyarrow into a `RecordError` that names the file and the row."""
        try:
            yield
        except Exception as error:
            # pyarrow raises its own classes and, for some damaged files, built-in ones.
            if not isinstance(error, OSError | ValueError) and not type(error).__module__.startswith("pyarrow"):
                raise
            if isinstance(error, RecordError):
                raise
            where = self._file.name if row is None else f"{self._file.name}, row {row} or later"
            msg = f"{where}: it must be {self.format}, but pyarrow cannot read it: {error}; check how it was written."
            raise RecordError(msg, file=self._file.name, line=row) from error


@final
class Arrow(TableSource[X_co]):
    """Rows of an Arrow file, in the file format or the stream format, memory-mapped.

    Needs pyarrow: `pip install 'pipeline[arrow]'`. Rows are read by number where they are; nothing is copied. Compressed
    columns are decompressed into memory.

    Args:
        file: the path.
        text: the column of the input if it is text; "text" by default.
        words: the column of the input if it is lists of words.
        target: the column of the target: classes by name or number, lists of them, or null; None for no target.
        on_bad_record: rule for rows whose input is null, not UTF-8, or of another type: "raise", "skip", or a function of
            a `Problem` that returns a replacement or None.

    Raises:
        MissingExtraError: if pyarrow is not installed.
        RecordError: if the file is not an Arrow file, or has no such column.
        SourceError: if the file cannot be read.
    """

    format = "an Arrow file"

    @overload
    def __init__(
        self: "Arrow[str]",
        file: str | PathLike[str],
        *,
        text: str = "text",
        target: str | None = None,
        on_bad_record: OnBadRecord[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Arrow[Sequence[str]]",
        file: str | PathLike[str],
        *,
        words: str,
        target: str | None = None,
        on_bad_record: OnBadRecord[Sequence[str]] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    def __init__(
        self,
        file: str | PathLike[str],
        *,
        text: str | None = None,
        words: str | None = None,
        target: str | None = None,
        on_bad_record: OnBadRecord[Any] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        self._rows: _Rows | None = None
        super().__init__(file, choose_fields(text, words, target, default="text"), on_bad_record, cache)

    @override
    def _read_names(self) -> list[str]:
        return list(self._open(None).schema.names)

    @override
    def _iterate_batches(self) -> Iterator[_Rows]:
        return cast("Iterator[_Rows]", iter(cast("Any", self._get_rows()).to_batches(max_chunksize=_BATCH)))

    @override
    def _iterate_raw(self) -> Iterator[Example[X_co] | Problem]:
        return (parsed.record for parsed in self._parse())

    @override
    def _count_raw(self) -> int:
        return self._get_rows().num_rows

    @override
    def _read_raw(self, number: int) -> Example[X_co] | Problem:
        rows = self._get_rows()
        with self._explain_errors(number + 1):
            values = [_read_value(rows.column(name), number) for name in self._columns]
        return self._make_record(number + 1, values)

    @override
    def _locate_raw(self, number: int) -> str:
        return self._locate(self._file, number + 1, "")

    @override
    def _iterate_problems(self) -> Iterator[tuple[int, Problem]]:
        for number, parsed in enumerate(self._parse()):
            if isinstance(parsed.record, Problem):
                yield number, parsed.record

    def _get_rows(self) -> _Rows:
        self._file.check_unchanged()
        if self._rows is None:
            with self._explain_errors():
                self._rows = cast("_Rows", self._open(self._columns).read_all())
        return self._rows

    def _open(self, columns: Sequence[str] | None) -> Any:  # noqa: ANN401 - pyarrow has no types
        """Open the file, in whichever of the two formats it is."""
        arrow = import_extra("pyarrow", extra="arrow", why=self.format)
        ipc = import_extra("pyarrow.ipc", extra="arrow", why=self.format)
        mapped = arrow.memory_map(self._file.name)
        open_file = ipc.open_file if mapped.read(6) == b"ARROW1" else ipc.open_stream
        mapped.seek(0)
        if columns is None:
            return open_file(mapped)
        names = list(open_file(mapped).schema.names)
        mapped.seek(0)
        return open_file(mapped, options=ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns]))

    @override
    def __getstate__(self) -> dict[str, object]:
        return {**super().__getstate__(), "_rows": None}  # mapped again by each worker


@final
class Parquet(TableSource[X_co]):
    """Rows of a Parquet file.

    Needs pyarrow: `pip install 'pipeline[arrow]'`. Read in order, the file is streamed. Parquet cannot read a single row
    without its whole row group, so at the first access by number the selected columns are stored in a memory-mapped
    file.

    Args:
        file: the path.
        text: the column of the input if it is text; "text" by default.
        words: the column of the input if it is lists of words.
        target: the column of the target: classes by name or number, lists of them, or null; None for no target.
        on_bad_record: rule for rows whose input is null, not UTF-8, or of another type: "raise", "skip", or a function of
            a `Problem` that returns a replacement or None.
        cache: folder for the rows; None for a temporary file if they are many.

    Raises:
        MissingExtraError: if pyarrow is not installed.
        RecordError: if the file is not a Parquet file, or has no such column.
        SourceError: if the file cannot be read.
    """

    format = "a Parquet file"

    @overload
    def __init__(
        self: "Parquet[str]",
        file: str | PathLike[str],
        *,
        text: str = "text",
        target: str | None = None,
        on_bad_record: OnBadRecord[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Parquet[Sequence[str]]",
        file: str | PathLike[str],
        *,
        words: str,
        target: str | None = None,
        on_bad_record: OnBadRecord[Sequence[str]] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None: ...
    def __init__(
        self,
        file: str | PathLike[str],
        *,
        text: str | None = None,
        words: str | None = None,
        target: str | None = None,
        on_bad_record: OnBadRecord[Any] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(file, choose_fields(text, words, target, default="text"), on_bad_record, cache)

    @override
    def _read_names(self) -> list[str]:
        with self._open() as file:
            return list(file.schema_arrow.names)

    @override
    def _iterate_batches(self) -> Iterator[_Rows]:
        with self._open() as file:
            yield from file.iter_batches(batch_size=_BATCH, columns=self._columns)

    def _open(self) -> Any:  # noqa: ANN401 - pyarrow has no types
        parquet = import_extra("pyarrow.parquet", extra="arrow", why=self.format)
        return parquet.ParquetFile(self._file.name, memory_map=True)


def _read_column(column: _Column, count: int) -> Sequence[object]:
    """Return all values of a column, with a `MalformedError` for text that is not UTF-8."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return [_read_value(column, number) for number in range(count)]


def _read_value(column: _Column, number: int) -> object:
    try:
        return column[number].as_py()
    except UnicodeDecodeError as error:
        msg = f"text must be UTF-8, got the byte {error.object[error.start]:#04x} ({error.reason})"
        return MalformedError("encoding", msg)
