"""Read the records of a source with all their columns, to write them again with their predictions."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import Any, Generic, TypeAlias, TypeVar, cast

import attrs

from pipeline.data.rows import Example
from pipeline.sources.delimited_source import DelimitedSource
from pipeline.sources.malformed import Problem, find_column
from pipeline.sources.parsed import FileSource, WholeRecord
from pipeline.sources.source import Source
from pipeline.sources.tables import TableSource

X = TypeVar("X")

Columns: TypeAlias = Mapping[str, object]
"""The fields of a record by name."""

ArrowObject: TypeAlias = Any
"""A record batch of pyarrow, which has no types."""


@attrs.frozen(eq=False)
class Chunk(Generic[X]):
    """Some consecutive records of a source.

    Attributes:
        examples: the records that are predicted.
        places: returns the location of the record of a number in this chunk.
        list_columns: returns the columns of each record.
        problems: the records that are skipped.
        digest: a digest of all records, by which a continued run recognizes its input.
        names: the columns that every record has; None if they are not known before all records are read.
        lines: the lines of each record, None for a replaced one; None if records have no lines of their own.
        table: the records as pyarrow reads them; None for other sources.
    """

    examples: Sequence[Example[X]]
    places: Callable[[int], str]
    list_columns: Callable[[], Sequence[Columns]]
    problems: Sequence[Problem]
    digest: bytes
    names: Sequence[str] | None = None
    lines: Sequence[Sequence[str] | None] | None = None
    table: ArrowObject = None


def read_chunks(source: Source[X], size: int) -> Iterator[Chunk[X]]:
    """Yield all records of a source in order, at least one chunk. Tables have chunks of a size of their own."""
    if isinstance(source, TableSource):
        return _read_table(source)
    given: Source[X] = source
    if isinstance(source, FileSource) and source.has_lines:
        return _read_lines(source, size)
    return _read_examples(given, size)


def _read_table(source: TableSource[X]) -> Iterator[Chunk[X]]:
    first = 1
    for records, rows in source.read_whole():
        kept = [at for at, record in enumerate(records) if isinstance(record, Example)]
        table = rows if len(kept) == len(records) else rows.take(kept)
        examples, problems = _separate(records)
        names = _check_names(list(rows.schema.names), source.paths[0].name)
        # By value: the bytes in memory may differ where values are null.
        digest = _compute_digest([repr(_list_rows(rows))])
        place = _TablePlace(source.paths[0].name, first, kept)
        yield Chunk(examples, place, partial(_list_rows, table), problems, digest, names, table=table)
        first += len(records)
    if first == 1:
        empty = source.make_empty_batch()
        yield Chunk([], str, list, [], b"", _check_names(list(empty.schema.names), source.paths[0].name), table=empty)


def _list_rows(table: ArrowObject) -> Sequence[Columns]:
    names = list(table.schema.names)
    columns = [_list_values(table.column(name)) for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def _list_values(column: ArrowObject) -> Sequence[object]:
    """Return the values of a column; those that Python has no type for as text, and text that is not UTF-8 as bytes."""
    for kind in (None, "string", "binary"):
        # pyarrow's own errors and UnicodeDecodeError are both ValueErrors.
        with suppress(ValueError, NotImplementedError):
            values: Sequence[object] = (column if kind is None else column.cast(kind)).to_pylist()
            return values
    return [str(value) for value in column]


def _check_names(names: Sequence[str], file: str) -> Sequence[str]:
    for name in names:
        find_column(name, names, file)
    return names


@attrs.frozen
class _TablePlace:
    file: str
    first: int
    kept: Sequence[int]

    def __call__(self, number: int) -> str:
        return f"{self.file}, row {self.first + self.kept[number]}"


def _read_lines(source: FileSource[X], size: int) -> Iterator[Chunk[X]]:
    names = _check_names(source.column_names, source.paths[0].name) if isinstance(source, DelimitedSource) else None
    records, is_first = source.read_whole(), True
    while (found := list(islice(records, size))) or is_first:
        kept = [each for each in found if not isinstance(each.record, Problem)]
        yield _make_line_chunk(source, found, kept, names)
        is_first = False


def _make_line_chunk(
    source: FileSource[X],
    found: Sequence[WholeRecord[X]],
    kept: Sequence[WholeRecord[X]],
    names: Sequence[str] | None,
) -> Chunk[X]:
    examples, problems = _separate([each.record for each in found])

    def list_columns() -> Sequence[Columns]:
        return [
            source.name_columns(example.input) if each.lines is None else source.parse_columns(each.lines)
            for each, example in zip(kept, examples, strict=True)
        ]

    parts = ["".join(each.lines) if each.lines is not None else repr(each.record) for each in found]
    lines = [each.lines for each in kept]
    digest = _compute_digest(parts)
    return Chunk(examples, lambda number: kept[number].where, list_columns, problems, digest, names, lines)


def _read_examples(source: Source[X], size: int) -> Iterator[Chunk[X]]:
    """Read a source whose records have no columns but the input, the group and the target, as far as there are any."""
    examples, first = iter(source), 0
    while (found := list(islice(examples, size))) or not first:
        digest = _compute_digest([repr(example.input) for example in found])
        columns = _ExampleColumns(found, source if isinstance(source, DelimitedSource) else None, first)
        yield Chunk(found, _Place(source, first), columns, [], digest)
        first += max(len(found), 1)


@attrs.frozen
class _Place:
    source: Source[Any]
    first: int

    def __call__(self, number: int) -> str:
        return self.source.where(self.first + number)


@attrs.frozen
class _ExampleColumns:
    examples: Sequence[Example[Any]]
    grouped: DelimitedSource[Any] | None
    first: int

    def __call__(self) -> Sequence[Columns]:
        has_target = any(example.target is not None for example in self.examples)
        return [
            {
                **({} if self.grouped is None else self.grouped.name_group(number)),
                **_name_input(example.input),
                **({"target": example.target} if has_target else {}),
            }
            for number, example in enumerate(self.examples, self.first)
        ]


def _name_input(value: object) -> Columns:
    if isinstance(value, Mapping):
        return cast("Columns", value)
    if isinstance(value, str):
        return {"text": value}
    is_list = isinstance(value, list | tuple)
    words = [word for word in cast("Sequence[object]", value) if isinstance(word, str)] if is_list else []
    return {"words" if words else "input": value}


def _separate(records: Sequence[Example[X] | Problem]) -> tuple[list[Example[X]], list[Problem]]:
    examples = [record for record in records if not isinstance(record, Problem)]
    return examples, [record for record in records if isinstance(record, Problem)]


def _compute_digest(parts: Sequence[str]) -> bytes:
    digest = blake2b(digest_size=16)
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
    return digest.digest()
