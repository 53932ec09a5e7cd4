"""Columns of Arrow and Parquet files, read by pyarrow.

Source: https://arrow.apache.org/docs/format/Columnar.html#ipc-file-format and https://parquet.apache.org/docs/file-format.
"""

from abc import abstractmethod
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from typing import Any, Final, Generic, TypeAlias, TypedDict, TypeVar, cast, final, overload

from typing_extensions import Unpack, override

from pipeline.checks.hints import describe
from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError, PipelineError, RecordError
from pipeline.extras import import_extra
from pipeline.sources.malformed import (
    Column,
    ColumnValues,
    Fields,
    MalformedError,
    OnBadRecord,
    Problem,
    choose_fields,
    find_column,
)
from pipeline.sources.parsed import ParsedSource
from pipeline.sources.record_table import Parsed
from pipeline.sources.text_file import InputFile

X = TypeVar("X")

ArrowObject: TypeAlias = Any
"""A table, batch, column or reader of pyarrow, which has no types."""

File: TypeAlias = str | PathLike[str]

_BATCH: Final = 4_096
"""Number of rows that are converted together: more are hardly faster, and would be held in memory at once."""


class TableOptions(TypedDict, Generic[X], total=False):
    """Options of sources of tables.

    Attributes:
        target: the column of the target: classes by name or number, lists of them, or null; None for no target. A list
            of columns gives several targets, a mapping of their values.
        on_bad_record: rule for rows whose input is null, not UTF-8, or of another type, see `FileOptions`.
    """

    target: str | Sequence[str] | None
    on_bad_record: OnBadRecord[X]


class ParquetOptions(TableOptions[X], total=False):
    """Options of `Parquet`.

    Attributes:
        cache: folder for the rows; None for a temporary file if they are many.
    """

    cache: File | None


class TableSource(ParsedSource[X_co]):
    """Rows of a file that pyarrow reads; only the selected columns are read."""

    unit = "row"
    format: str

    def __init__(
        self,
        file: File,
        text: str | None,
        words: str | None,
        inputs: Sequence[str] | None,
        target: str | Sequence[str] | None = None,
        on_bad_record: OnBadRecord[X_co] = "raise",
        cache: File | None = None,
    ) -> None:
        self._file: Final = InputFile(file)
        super().__init__([self._file], on_bad_record, cache)
        if not self._is_regular:
            msg = (
                f"{self._file.name!r} must be a regular file, because {self.format} is read from its end, got a stream."
            )
            raise OptionError(msg, file=self._file.name)
        self._fields: Final[Fields[X_co]] = choose_fields(text, words, target, "text", inputs)
        self._columns: Final = [str(column) for column in self._fields.columns]
        with self._explain_errors(None):
            names = list(self._read_schema().names)
        for column in self._columns:
            find_column(column, names, self._file.name)

    @abstractmethod
    def _iterate_batches(self) -> Iterator[ArrowObject]:
        """Read the selected columns, some thousand rows at a time."""

    @abstractmethod
    def _iterate_all_columns(self) -> Iterator[ArrowObject]:
        """Read all columns, in the same batches as the selected ones."""

    def read_whole(self) -> Iterator[tuple[Sequence[Example[X_co] | Problem], ArrowObject]]:
        """Read some thousand rows at a time, with all columns, and the problems of those that are skipped."""
        with self._explain_errors(None):
            batches = self._iterate_all_columns()
        first = 1
        while True:
            self._file.check_unchanged()
            with self._explain_errors(first):
                rows = next(batches, None)
                found = [] if rows is None else list(self._convert(rows, first))
            if rows is None:
                return
            first += len(found)
            yield [self._accept_or_report(parsed.record) for parsed in found], rows

    def make_empty_batch(self) -> ArrowObject:
        """Return a batch without rows, with the columns of the file."""
        arrow = import_extra("pyarrow", extra="arrow", why=self.format)
        return arrow.RecordBatch.from_pylist([], schema=self._read_schema())

    @abstractmethod
    def _read_schema(self) -> ArrowObject:
        """Return the columns of the file with their types."""

    def _accept_or_report(self, record: Example[X_co] | Problem) -> Example[X_co] | Problem:
        example = self._replace(record) if isinstance(record, Problem) else record
        return record if example is None else example

    @override
    def _parse(self) -> Iterator[Parsed]:
        row, batches = 1, self._iterate_batches()
        while True:
            self._file.check_unchanged()
            # Errors while a batch is read or converted name its first row; those of single values name their row.
            with self._explain_errors(row):
                rows = next(batches, None)
                found = [] if rows is None else list(self._convert(rows, row))
            if rows is None:
                return
            yield from found
            row += len(found)

    def _convert(self, rows: ArrowObject, first: int) -> Iterator[Parsed]:
        """Yield the records of some rows, the first of which has this number in the file."""
        columns = [_read_column(rows.column(name), rows.num_rows) for name in self._columns]
        for row, values in enumerate(zip(*columns, strict=True), start=first):
            try:
                yield Parsed(0, row, "", self._make_example(values))
            except MalformedError as error:
                yield self._make_problem(0, row, "", error, 1, repr(values))

    def _make_example(self, values: Sequence[object]) -> Example[X_co]:
        for column, value in zip(self._fields.columns, values, strict=True):
            if isinstance(value, MalformedError):
                raise value
            if value is None and column in self._fields.input_columns:
                msg = f"field {column!r} must not be null"
                raise MalformedError("null", msg)
            if self._fields.inputs is not None:
                _check_plain(value, column)
        return self._fields.make_example(dict(zip(self._fields.columns, values, strict=True)))

    @override
    def _get_options(self) -> tuple[object, ...]:
        return (self._fields,)

    @contextmanager
    def _explain_errors(self, row: int | None) -> Generator[None]:
        """Turn an error of pyarrow into a `RecordError` that names the file and the row."""
        try:
            yield
        except Exception as error:
            # pyarrow raises its own classes and, for some damaged files, built-in ones.
            is_foreign = isinstance(error, OSError | ValueError | SystemError) or "pyarrow" in type(error).__module__
            if isinstance(error, PipelineError) or not is_foreign:
                raise
            where = self._file.name if row is None else f"{self._file.name}, row {row} or later"
            msg = f"{where} must be {self.format}, but pyarrow cannot read it: {error}; check how it was written."
            raise RecordError(msg, file=self._file.name, line=row) from error


@final
class Arrow(TableSource[X_co]):
    """Rows of an Arrow file, in the file format or the stream format, memory-mapped.

    Needs pyarrow: `pip install 'ragged-pipeline[arrow]'`. Rows are read by number where they are; nothing is copied.
    Compressed columns are decompressed into memory.

    Args:
        file: the path.
        text: the column of the input if it is text; "text" by default.
        words: the column of the input if it is lists of words.
        inputs: the columns of the input if they are several, for `FromColumns`: text, numbers, or lists of these.
        options: `target` and `on_bad_record`, see `TableOptions`.

    Raises:
        MissingExtraError: if pyarrow is not installed.
        RecordError: if the file is not an Arrow file, or has no such column.
        SourceError: if the file cannot be read.
    """

    format = "an Arrow file"

    @overload
    def __init__(
        self: "Arrow[str]", file: File, *, text: str = "text", **options: Unpack[TableOptions[str]]
    ) -> None: ...
    @overload
    def __init__(
        self: "Arrow[Sequence[str]]", file: File, *, words: str, **options: Unpack[TableOptions[Sequence[str]]]
    ) -> None: ...
    @overload
    def __init__(
        self: "Arrow[ColumnValues]", file: File, *, inputs: Sequence[str], **options: Unpack[TableOptions[ColumnValues]]
    ) -> None: ...
    def __init__(
        self,
        file: File,
        *,
        text: str | None = None,
        words: str | None = None,
        inputs: Sequence[str] | None = None,
        **options: Unpack[TableOptions[Any]],
    ) -> None:
        self._rows: ArrowObject = None
        super().__init__(file, text, words, inputs, **options)

    @override
    def _read_schema(self) -> ArrowObject:
        return self._open(None).schema

    @override
    def _iterate_batches(self) -> Iterator[ArrowObject]:
        return iter(self._get_rows().to_batches(max_chunksize=_BATCH))

    @override
    def _iterate_all_columns(self) -> Iterator[ArrowObject]:
        return iter(self._open(None).read_all().to_batches(max_chunksize=_BATCH))

    # The mapped file serves as the table, so none is built.

    @override
    def _iterate_raw(self) -> Iterator[Example[X_co] | Problem]:
        return (parsed.record for parsed in self._parse())

    @override
    def _count_raw(self) -> int:
        return int(self._get_rows().num_rows)

    @override
    def _read_raw(self, number: int) -> Example[X_co] | Problem:
        # A slice of a table copies nothing, and gives a single value of any type in the same way as many.
        with self._explain_errors(number + 1):
            return next(self._convert(self._get_rows().slice(number, 1), number + 1)).record

    @override
    def _locate_raw(self, number: int) -> str:
        return f"{self._file.name}, row {number + 1}"

    @override
    def _iterate_problems(self) -> Iterator[tuple[int, Problem]]:
        return ((number, record) for number, record in enumerate(self._iterate_raw()) if isinstance(record, Problem))

    def _get_rows(self) -> ArrowObject:
        self._file.check_unchanged()
        if self._rows is None:
            with self._explain_errors(None):
                self._rows = self._open(self._columns).read_all()
        return self._rows

    def _open(self, columns: Sequence[str] | None) -> ArrowObject:
        """Open the file, in whichever of the two formats it is."""
        arrow = import_extra("pyarrow", extra="arrow", why=self.format)
        ipc = import_extra("pyarrow.ipc", extra="arrow", why=self.format)
        mapped = arrow.memory_map(self._file.name)
        # The file format begins with these bytes; the stream format has no mark of its own.
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

    Needs pyarrow: `pip install 'ragged-pipeline[arrow]'`. Read in order, the file is streamed. Parquet cannot read a
    single row without its whole row group, so at the first access by number the selected columns are stored as those of
    text files are.

    Args:
        file, text, words, inputs: as for `Arrow`.
        options: `target`, `on_bad_record` and `cache`, see `ParquetOptions`.

    Raises:
        MissingExtraError, RecordError, SourceError: as `Arrow`.
    """

    format = "a Parquet file"

    @overload
    def __init__(
        self: "Parquet[str]", file: File, *, text: str = "text", **options: Unpack[ParquetOptions[str]]
    ) -> None: ...
    @overload
    def __init__(
        self: "Parquet[Sequence[str]]", file: File, *, words: str, **options: Unpack[ParquetOptions[Sequence[str]]]
    ) -> None: ...
    @overload
    def __init__(
        self: "Parquet[ColumnValues]",
        file: File,
        *,
        inputs: Sequence[str],
        **options: Unpack[ParquetOptions[ColumnValues]],
    ) -> None: ...
    def __init__(
        self,
        file: File,
        *,
        text: str | None = None,
        words: str | None = None,
        inputs: Sequence[str] | None = None,
        **options: Unpack[ParquetOptions[Any]],
    ) -> None:
        super().__init__(file, text, words, inputs, **options)

    @override
    def _read_schema(self) -> ArrowObject:
        with self._open() as file:
            return file.schema_arrow

    @override
    def _iterate_batches(self) -> Iterator[Any]:
        with self._open() as file:
            yield from file.iter_batches(batch_size=_BATCH, columns=self._columns)

    @override
    def _iterate_all_columns(self) -> Iterator[ArrowObject]:
        with self._open() as file:
            yield from file.iter_batches(batch_size=_BATCH)

    def _open(self) -> ArrowObject:
        parquet = import_extra("pyarrow.parquet", extra="arrow", why=self.format)
        return parquet.ParquetFile(self._file.name, memory_map=True)


def _check_plain(value: object, column: Column) -> None:
    """Reject values that are not text, numbers, or lists of these. All entries of a list have one type."""
    while isinstance(value, list):
        entries = cast("list[object]", value)
        value = next((entry for entry in entries if entry is not None and entry != []), None)
    if value is not None and not isinstance(value, str | int | float):
        msg = f"field {column!r} must hold text, numbers, or lists of these, got {describe(value)}"
        raise MalformedError("type", msg)


def _read_column(column: ArrowObject, count: int) -> list[object]:
    """Return all values of a column, with a `MalformedError` for text that is not UTF-8."""
    # Converting a whole column is much faster, but fails as a whole for a single value.
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:
        return [_read_value(column, number) for number in range(count)]
    return values


def _read_value(column: ArrowObject, number: int) -> object:
    try:
        value: object = column[number].as_py()
    except UnicodeDecodeError as error:
        msg = f"text must be UTF-8, got the byte {error.object[error.start]:#04x} ({error.reason})"
        return MalformedError("encoding", msg)
    return value
