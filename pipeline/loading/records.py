"""Read records by number, cut rows, and name records in errors by number, file and line."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeVar, cast

from pipeline.batching.lengths import RowSlice
from pipeline.data.kinds import Composite, K, Kind
from pipeline.data.rows import Row, cut_row, is_row
from pipeline.errors import PipelineError, SourceError
from pipeline.loading.progress import is_tracked, report_record
from pipeline.sources.source import Source

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

_MAX_NAMED: Final = 8
"""The number of records that an error names before it only counts the rest."""


class Indexable(Protocol[V_co]):
    """Records that can be read by number: a list, a `Source`, or a map-style `Dataset` of torch."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> V_co: ...


def fetch(dataset: Indexable[V], records: Sequence[int]) -> list[V]:
    """Read several records, in one call if the dataset has a faster way than one by one."""
    fetch_many: Callable[[Sequence[int]], list[V]] | None = getattr(dataset, "__getitems__", None)
    # The default method of `Source` reads one by one too. Doing it here reports each record before it is read, so that
    # a worker's death is attributed to one record and not to the whole batch.
    if fetch_many is None or getattr(type(dataset), "__getitems__", None) is Source.__dict__["__getitems__"]:
        found = _fetch_one_by_one(dataset, records)
        report_record(-1)
        return found
    try:
        return fetch_many(records)
    except StopIteration as error:
        raise _make_stop_error(describe_records(dataset, records)) from error


def _fetch_one_by_one(dataset: Indexable[V], records: Sequence[int]) -> list[V]:
    if is_tracked():
        return [fetch_one(dataset, record) for record in records]
    # The same without a function call per record, which would take longer than reading a short one from memory.
    record, found = -1, list[V]()
    try:
        for record in records:
            found.append(dataset[record])
    except StopIteration as error:
        raise _make_stop_error(describe_record(dataset, record)) from error
    except Exception as error:
        add_record_note(error, dataset, record)
        raise
    return found


def fetch_one(dataset: Indexable[V], record: int) -> V:
    """Read one record; an error gets a note that names it."""
    report_record(record)
    try:
        return dataset[record]
    except StopIteration as error:
        raise _make_stop_error(describe_record(dataset, record)) from error
    except Exception as error:
        add_record_note(error, dataset, record)
        raise


def _make_stop_error(records: str) -> RuntimeError:
    # As in generators (PEP 479): a StopIteration that passes through would silently end the epoch.
    return RuntimeError(f"reading {records} raised StopIteration, which is not the end of the data; fix the dataset")


def add_record_note(error: Exception, dataset: object, record: int) -> None:
    """Add a note to an error that names the record, unless a dataset within this one has named it already."""
    notes: Sequence[str] = getattr(error, "__notes__", ())
    # A source checks all its files before it reads one record: the error itself names the file that has changed.
    is_file = isinstance(error, SourceError)
    start, end = ("It was raised while ", " was read.") if is_file else ("It is ", ".")
    if not any(note.startswith((f"{start}record {record} (", f"{start}record {record}{end}")) for note in notes):
        error.add_note(f"{start}{describe_record(dataset, record)}{end}")


def describe_record(dataset: object, record: int) -> str:
    """Name one record: `record 57 (reviews.csv, line 58)`, or `record 57` if the dataset has no `where`."""
    where: Callable[[int], str] | None = getattr(dataset, "where", None)
    if where is not None:
        # An error in `where` must not hide the error that is being reported.
        with suppress(PipelineError, IndexError, OSError):
            return f"record {record} ({where(record)})"
    return f"record {record}"


def describe_records(dataset: object, records: Sequence[int]) -> str:
    """Name the first eight of several records, and count the rest."""
    names = ", ".join(describe_record(dataset, record) for record in records[:_MAX_NAMED])
    return names + (f" and {len(records) - _MAX_NAMED} more" if len(records) > _MAX_NAMED else "")


def find_lengths(item: object, per_row: int) -> list[int]:
    """Return the length of a row, or of each side of a pair; an empty list if they are unknown."""
    sides: Sequence[object] = ()
    if is_row(item):
        sequence = item.sequence
        sides = list(sequence.get_sequences().values()) if per_row > 1 and isinstance(sequence, Composite) else [item]
    elif isinstance(item, tuple | list):
        sides = cast("Sequence[object]", item)
    lengths = [len(side) for side in sides if is_row(side) or isinstance(side, Kind)]
    return lengths if len(lengths) == len(sides) == per_row else []


def cut_rows(rows: Sequence[Row[K]], slices: Sequence[RowSlice]) -> list[Row[K]]:
    """Return the slice of each row."""
    return [_cut(row, part) for row, part in zip(rows, slices, strict=True)]


def _cut(row: Row[K], part: RowSlice) -> Row[K]:
    stop = len(row) if part.stop is None else part.stop
    # A whole row is passed on as it is, without copying its fields.
    return row if not part.start and stop >= len(row) else cut_row(row, part.start, stop)
