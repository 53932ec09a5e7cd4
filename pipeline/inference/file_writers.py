"""Write records with their predictions as CSV, JSON Lines, Parquet or CoNLL-U, some thousand at a time."""

import csv
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, time
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO, Final, final

from typing_extensions import override

from pipeline.errors import OptionError, RecordError
from pipeline.extras import import_extra
from pipeline.inference.file_records import ArrowObject, Chunk, Columns
from pipeline.inference.plain import Plain

Predicted = Sequence[Mapping[str, Plain]]
"""The columns of the prediction of each record."""

_LENGTH_BYTES: Final = 8
_ROW_GROUP: Final = 65_536
"""Number of rows per row group of a Parquet file. More are compressed little better."""


class ChunkWriter(ABC):
    """Writes chunks one after another; a file that is cut off after any chunk can be continued."""

    def __init__(self, columns: Sequence[str] | None) -> None:
        self.columns: Sequence[str] | None = columns
        """The columns of the output, from the first chunk on; None before it, and for formats without columns."""

    @abstractmethod
    def format_chunk(self, chunk: Chunk[Any], predicted: Predicted, added: Sequence[str]) -> bytes:
        """Return the bytes that are appended for a chunk.

        Args:
            chunk: the records.
            predicted: the columns of their predictions.
            added: the names of these columns, which are known also if the chunk is empty.

        Raises:
            RecordError: if a record does not fit the format, or a column of a prediction exists already.
        """

    def finish(self, partial: Path, output: Path) -> None:
        """Make the output of all chunks."""
        partial.replace(output)


def make_writer(output: Path, columns: Sequence[str] | None) -> ChunkWriter:
    """Return the writer of the format that the suffix names.

    Args:
        output: the file.
        columns: the columns of a file that is continued.

    Raises:
        OptionError: if there is no such format.
        MissingExtraError: if its package is not installed.
    """
    writer = WRITERS.get(output.suffix.lower())
    if writer is None:
        known = ", ".join([*WRITERS, *CONLLU])
        got = repr(output.suffix) if output.suffix else "no suffix"
        msg = f"output must end in {known}, got {got} in {str(output)!r}; the suffix determines the format."
        raise OptionError(msg, output=str(output))
    return writer(columns)


class _TableWriter(ChunkWriter):
    """A format whose records have the same columns, those of the first chunk."""

    columns: Sequence[str] | None

    def _fix_columns(self, chunk: Chunk[Any], records: Sequence[Columns], added: Sequence[str]) -> Sequence[str]:
        if self.columns is None:
            found = chunk.names if chunk.names is not None else dict.fromkeys(key for row in records for key in row)
            _check_added(list(found), added)
            self.columns = [*found, *added]
        return self.columns

    def _check_record(self, record: Columns, predicted: Mapping[str, Plain], place: str) -> None:
        assert self.columns is not None
        for name in (*record, *predicted):
            if name not in self.columns:
                msg = (
                    f"{place} has the column {name!r}, but the first records have only "
                    f"{', '.join(map(repr, self.columns))}; write .jsonl, whose records may differ."
                )
                raise RecordError(msg, column=name)


@final
class CsvWriter(_TableWriter):
    """Comma-separated values in UTF-8 with a header; lists and objects are JSON."""

    @override
    def format_chunk(self, chunk: Chunk[Any], predicted: Predicted, added: Sequence[str]) -> bytes:
        records = chunk.list_columns()
        is_first = self.columns is None
        columns = self._fix_columns(chunk, records, added)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        if is_first:
            writer.writerow(columns)
        for number, (record, found) in enumerate(zip(records, predicted, strict=True)):
            self._check_record(record, found, chunk.places(number))
            row = {**record, **found}
            writer.writerow([_to_cell(row.get(name), name) for name in columns])
        return text.getvalue().encode()


@final
class JsonLinesWriter(ChunkWriter):
    """A JSON object per line."""

    @override
    def format_chunk(self, chunk: Chunk[Any], predicted: Predicted, added: Sequence[str]) -> bytes:
        lines: list[str] = []
        for record, found in zip(chunk.list_columns(), predicted, strict=True):
            _check_added(list(record), list(found))
            lines.append(_to_json({**record, **found}) + "\n")
        # A lone surrogate, which JSON can hold as an escape but UTF-8 cannot, is written as that escape.
        return "".join(lines).encode("utf-8", "backslashreplace")


@final
class ParquetWriter(_TableWriter):
    """A Parquet file; until it is finished, a series of Arrow streams, because a Parquet file cannot be continued."""

    def __init__(self, columns: Sequence[str] | None) -> None:
        super().__init__(columns)
        self._arrow: Final[Any] = import_extra("pyarrow", extra="arrow", why="a Parquet file")
        self._schema: ArrowObject = None

    @override
    def format_chunk(self, chunk: Chunk[Any], predicted: Predicted, added: Sequence[str]) -> bytes:
        table = self._make_table(chunk, predicted, added)
        stream = io.BytesIO()
        with self._arrow.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        content = stream.getvalue()
        return len(content).to_bytes(_LENGTH_BYTES, "little") + content

    def read_schema(self, partial: Path) -> None:
        """Read the types of the columns of a file that is continued."""
        with partial.open("rb") as file:
            first = next(self._iterate_tables(file), None)
        self._schema = None if first is None else first.schema

    @override
    def finish(self, partial: Path, output: Path) -> None:
        parquet = import_extra("pyarrow.parquet", extra="arrow", why="a Parquet file")
        whole = partial.with_name(f"{partial.name}.whole")
        with partial.open("rb") as file, parquet.ParquetWriter(whole, self._schema) as writer:
            for tables in self._group_tables(self._iterate_tables(file)):
                writer.write_table(self._arrow.concat_tables(tables), row_group_size=_ROW_GROUP)
        whole.replace(output)
        partial.unlink()

    def _make_table(self, chunk: Chunk[Any], predicted: Predicted, added: Sequence[str]) -> ArrowObject:
        records: Sequence[Columns] = [] if chunk.table is not None else chunk.list_columns()
        columns = self._fix_columns(chunk, records, added)
        for number, found in enumerate(predicted):
            self._check_record(records[number] if records else {}, found, chunk.places(number))
        new = {name: [found.get(name) for found in predicted] for name in columns if name in added}
        if chunk.table is not None:
            arrays = {name: chunk.table.column(name) for name in chunk.table.schema.names}
        else:
            arrays = {name: [record.get(name) for record in records] for name in columns if name not in added}
        made = {name: self._make_array(name, values) for name, values in {**arrays, **new}.items()}
        table = self._arrow.table(made)
        if self._schema is None:
            # The metadata of the input, such as pandas' own, may describe columns; it stays with them.
            metadata = None if chunk.table is None else chunk.table.schema.metadata
            self._schema = table.schema.with_metadata(metadata)
        return table.cast(self._schema)

    def _make_array(self, name: str, values: Any) -> ArrowObject:  # noqa: ANN401 - an array of pyarrow, or a list
        if not isinstance(values, list):
            return values
        known = None if self._schema is None else self._schema.field(name).type
        try:
            array = self._arrow.array(values, type=known)
        except (self._arrow.ArrowException, TypeError, OverflowError) as error:
            rule = "values of one type" if known is None else f"values of type {known}, as the first records have"
            msg = f"column {name!r} must hold {rule}, for Parquet, but {error}; write .jsonl, whose values may differ."
            raise RecordError(msg, column=name) from error
        return array.cast(self._replace_null(array.type))

    def _replace_null(self, kind: ArrowObject) -> ArrowObject:
        """Return a type that later records can have: of a column without values nothing is known, so it is text."""
        if self._arrow.types.is_null(kind):
            return self._arrow.string()
        return self._arrow.list_(self._replace_null(kind.value_type)) if self._arrow.types.is_list(kind) else kind

    def _iterate_tables(self, file: BinaryIO) -> Iterator[ArrowObject]:
        while length := file.read(_LENGTH_BYTES):
            content = file.read(int.from_bytes(length, "little"))
            yield self._arrow.ipc.open_stream(content).read_all()

    def _group_tables(self, tables: Iterator[ArrowObject]) -> Iterator[list[ArrowObject]]:
        """Yield lists of tables with the rows of a row group, so that groups do not become as small as chunks."""
        found: list[ArrowObject] = []
        for table in tables:
            found.append(table)
            if sum(each.num_rows for each in found) >= _ROW_GROUP:
                yield found
                found = []
        if found:
            yield found


def _check_added(columns: Sequence[str], added: Sequence[str]) -> None:
    for name in added:
        if name in columns:
            msg = (
                f"the input has a column {name!r} already, which is the name of a column that is added; rename it, or "
                "choose another name with column=..."
            )
            raise RecordError(msg, column=name)


def _to_cell(value: object, name: str) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return _to_text(value, name) if isinstance(value, date | time | Decimal) else _to_json(value)


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=lambda each: _to_text(each, "of the input"))


def _to_text(value: object, name: str) -> str:
    """Return the text of a value that JSON has no type for."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    msg = f"column {name!r} holds {type(value).__name__}, which is not text; write .parquet, which keeps all types."
    raise RecordError(msg, column=name)


WRITERS: Final[dict[str, type[ChunkWriter]]] = {
    ".csv": CsvWriter,
    ".jsonl": JsonLinesWriter,
    ".parquet": ParquetWriter,
}
"""The formats by suffix, but CoNLL-U, whose writer has other options."""

CONLLU: Final = (".conllu", ".conllup")
