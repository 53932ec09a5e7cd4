"""The records of one worker or rank: every n-th record of a source, and the position in them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice
from typing import Any, Generic, Self, TypeVar, cast, final

import attrs
from torch.utils.data import get_worker_info

from pipeline.batching.cursor import StreamCursor
from pipeline.core.stage import Stage
from pipeline.data.iteration import check_ordered, find_length, is_map_style, iterate
from pipeline.data.kinds import Kind
from pipeline.data.rows import Row, is_row
from pipeline.errors import OptionError, PipelineError
from pipeline.loading.progress import report_stream_record, report_stream_rows
from pipeline.loading.records import add_record_note, describe_records
from pipeline.stages.input_stage import InputStage

X = TypeVar("X")


@final
@attrs.frozen
class ShardCursor:
    """Position in one shard of a source.

    Attributes:
        shard: the number of the shard, from 0.
        num_shards: the number of shards: workers, times ranks if these read `apart`.
        cursor: the position of the stream over the shard.
    """

    shard: int
    num_shards: int
    cursor: StreamCursor

    def to_dict(self) -> dict[str, object]:
        """Return the cursor as numbers, lists and text, for JSON or a checkpoint."""
        return {"shard": self.shard, "num_shards": self.num_shards, "cursor": self.cursor.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> Self:
        """Read the result of `to_dict`.

        Raises:
            OptionError: if it is not such a state.
        """
        match dict(state):
            case {
                "shard": int(shard),
                "num_shards": int(num_shards),
                "cursor": cursor,
                **rest,
            } if not rest and isinstance(cursor, Mapping):
                return cls(shard, num_shards, StreamCursor.from_dict(cast("Mapping[str, object]", cursor)))
            case _:
                msg = f"state must have shard, num_shards and cursor, got {dict(state)}; give the result of to_dict()."
                raise OptionError(msg, state=state)


@final
@attrs.frozen(eq=False)
class Shard(Generic[X]):
    """The records `first`, `first + step`, `first + 2 * step`, ... of a source.

    A list or a map-style data set is indexed. A source with a method `skip(count)` is asked to skip the records before
    the first. Any other source is read from its beginning, and the records of other shards are skipped.

    Example:
        >>> list(Shard("abcdefg", 1, 3)), list(Shard(iter("abcdefg"), 1, 3))
        (['b', 'e'], ['b', 'e'])
    """

    source: Iterable[X]
    first: int = 0
    step: int = 1

    def __iter__(self) -> Iterator[X]:
        return self._read(_Reading())

    def __len__(self) -> int:
        """Return the number of records.

        Raises:
            TypeError: if the source has no length.
        """
        count = find_length(self.source)
        if count is None:
            msg = f"{type(self.source).__name__} has no length."
            raise TypeError(msg)
        return len(range(self.first, count, self.step))

    def _read(self, reading: "_Reading") -> Iterator[X]:
        check_ordered(self.source)
        if isinstance(self.source, Sequence) or is_map_style(self.source):
            records = cast("Sequence[X]", self.source)
            return _read_numbers(records, range(self.first, len(records), self.step), reading)
        skip: Callable[[int], Iterable[X]] | None = getattr(self.source, "skip", None)
        if skip is not None and self.first:
            # A source of files can seek, so resuming far into an epoch does not read everything before.
            return islice(_read_whole(skip(self.first), self.first, reading), 0, None, self.step)
        return islice(_read_whole(self.source, 0, reading), self.first, None, self.step)

    def map_through(self, stages: Sequence[Stage[object, object]]) -> Iterator[object]:
        """Pass the records through stages, and number the rows by their records in the whole source.

        Raises:
            Exception: the error of the source or of a stage; a note names the record, and the message of a
                `PipelineError` of a stage does so too.
        """
        reading = _Reading()
        values: Iterator[object] = self._read(reading)
        for stage in stages:
            values = stage.map(values)
        has_input_stage = any(isinstance(stage, InputStage) for stage in stages[:1])
        record = self.first
        report_stream_rows(record)
        try:
            for value in values:
                # An input stage counts the records of this shard, from 0.
                row = _with_row_id(value, record) if has_input_stage and is_row(value) else value
                record += self.step
                report_stream_rows(record)
                yield row
        except Exception as error:
            if reading.failed:
                # Reading failed, whatever the stages did with the records before.
                add_record_note(error, self.source, reading.record)
                raise
            if isinstance(error, PipelineError) and (self.first or self.step > 1):
                _name_record(error, self.first, self.step)
            # Stages read some records ahead: the error is about one of those that were read, but gave no row yet.
            numbers = range(record, reading.record + 1, self.step)
            if len(numbers) > 1:
                error.add_note(f"It is one of {describe_records(self.source, numbers)}.")
            else:
                add_record_note(error, self.source, record)
            raise


@attrs.define
class _Reading:
    """Progress in a source: the number of the record that was requested last, and whether reading it failed."""

    record: int = -1
    failed: bool = False


def _read_numbers(source: Sequence[X], numbers: range, reading: _Reading) -> Iterator[X]:
    """Read some records by number. A StopIteration becomes a RuntimeError here, and is not the end (PEP 479)."""
    for reading.record in numbers:
        report_stream_record(reading.record, is_read=False)
        try:
            value = source[reading.record]
        except Exception:
            reading.failed = True
            raise
        report_stream_record(reading.record, is_read=True)
        yield value


def _read_whole(source: Iterable[X], first: int, reading: _Reading) -> Iterator[X]:
    """Read all records, of which the first has a given number, also if the source shares them among workers by itself.

    Such a source asks `get_worker_info` for the number of its worker. Its share would be shared once more here, and
    most records lost. So it finds no worker while it is read; stages do, since they run between the records.
    """
    info = get_worker_info()
    # torch keeps the answer of `get_worker_info` in this module, and has no function to change it.
    module: Any = import_module("torch.utils.data._utils.worker")
    end = object()
    reading.record = first - 1
    values: Iterator[X] | None = None
    while True:
        reading.record += 1
        report_stream_record(reading.record, is_read=False)
        if info is not None:
            module._worker_info = None  # noqa: SLF001
        try:
            values = iterate(source) if values is None else values
            value = next(values, end)
        except Exception:
            reading.failed = True
            raise
        finally:
            if info is not None:
                module._worker_info = info  # noqa: SLF001
        if value is end:
            reading.record -= 1
        report_stream_record(reading.record, is_read=True)
        if value is end:
            return
        yield cast("X", value)


def _with_row_id(row: Row[Kind], row_id: int) -> Row[Kind]:
    return Row(row.sequence, row.target, row_id, row.answer_mask, row.start_step)


def _name_record(error: PipelineError, first: int, step: int) -> None:
    """Add to an error the record of the whole source: the input stage's `row` counts within the shard."""
    row = error.details.get("row")
    if isinstance(row, int):
        record = first + step * row
        error.args = (f"record {record} of the source, row {row} of this shard: {error}", *error.args[1:])
        error.details = {**error.details, "record": record}
