"""Read a source in its order, endless or not, through the stages that make batches of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import islice
from typing import Any, Final, Generic, Literal, Self, TypeVar, cast, final, get_args

import attrs
import torch
from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import override

from pipeline.batching.cursor import StreamCursor
from pipeline.checks.options import check_choice, check_int
from pipeline.core.stage import Stage, StageBase, Stream, is_stream
from pipeline.core.stream_chain import StreamChain
from pipeline.data.iteration import SizedIterator, check_ordered, find_length, is_map_style, iterate
from pipeline.data.kinds import Kind
from pipeline.data.rows import Row, is_row
from pipeline.errors import CompositionError, OptionError, PipelineError
from pipeline.loading.frameworks import reject_accelerate_split
from pipeline.loading.progress import report_stream_record, report_stream_rows, share_memory
from pipeline.loading.ranks import get_rank_and_world_size
from pipeline.loading.records import add_record_note, describe_records
from pipeline.stages.input_stage import InputStage
from pipeline.stages.resumable import Resumable

X = TypeVar("X")
B = TypeVar("B")

Ranks = Literal["even", "apart"]
"""How ranks share a source: all read every record and get the same number of batches, or each reads its own records."""


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
class StreamDataset(IterableDataset[B], Generic[X, B]):
    """Iterable dataset of the batches of a source that is read in its order, endless or not.

    The memory is bounded for a source without a length, or with `Bucket(buffer_size=...)`: each worker holds the rows
    of one pool of its `Bucket`. Of a source with a length, each worker holds the rows of its whole share, so that all
    of them are mixed; see `Bucket`.

    It is for a `DataLoader` with `batch_size=None`, and for torchdata's `StatefulDataLoader`, which keeps the state of
    each worker. `StreamLoader` does that without torchdata.

    Each of n workers takes every n-th record and makes its own batches: no record is lost or served twice. A source
    that shares its records among workers by itself (with `get_worker_info`, as a Hugging Face `IterableDataset` does)
    is served whole too: while it is read, it finds no worker. It must have the same order in every process, so it may
    shuffle with a seed, but not with a global generator. With
    `ranks="even"`, all ranks read the same records and form the same batches, and each takes its share of them: batches
    of similar size at the same training step, and the same number for every rank, so that no rank waits at the end. The
    stages before the bucket run on every rank. With `ranks="apart"`, each rank reads its own records only; the numbers
    of batches may differ, so this is for endless sources. Every rank needs the same number of workers.

    Args:
        source: the records: an iterable that starts from the beginning each time, such as a list, a class with
            `__iter__`, or a map-style data set, which is read up to its length. An iterator can be read only once. If
            the source has a method `set_epoch`, each epoch from 1 on is passed to it.
        data: the stages that make batches, such as `Tokenize(...) >> Bucket(...) >> Pad()`: exactly one resumable
            stream, with other stages before and after it.
        rank: the rank of this process; by default that of `torch.distributed`.
        world_size: the number of ranks; by default that of `torch.distributed`.
        ranks: how ranks share the source: `even` or `apart`.

    Raises:
        CompositionError: if `data` does not have exactly one resumable stream.
        OptionError: for options out of range, or if the source has no fixed order, such as a set.

    Example:
        >>> from pipeline import Bucket, FromIds, Pad
        >>> data = FromIds() >> Bucket(max_padded_steps=10) >> Pad()
        >>> stream = StreamDataset([[1, 2, 3, 4], [5], [6, 7, 8, 9, 10]], data)
        >>> batches = iter(stream)
        >>> first, state = next(batches), stream.state_dict()
        >>> stream.load_state_dict(state)
        >>> torch.equal(next(iter(stream)).values, next(batches).values)
        True
    """

    def __init__(
        self,
        source: Iterable[X],
        data: Stream[X, B],
        *,
        rank: int | None = None,
        world_size: int | None = None,
        ranks: Ranks = "even",
    ) -> None:
        check_choice("ranks", ranks, get_args(Ranks))
        check_ordered(source)
        self.source: Final = source
        self.rank: int
        self.world_size: int
        self.rank, self.world_size = get_rank_and_world_size(rank, world_size)
        self.ranks: Final[Ranks] = ranks
        self._before, self._stream, self._after = _split_at_stream(data)
        # In shared memory: persistent workers already run when the epoch is set.
        self._epoch = share_memory(torch.zeros(1, dtype=torch.int64, device="cpu"))
        self._position: ShardCursor | None = None
        self._loaded = False
        self._was_read = False
        # The last epoch that the source was given. It starts in its own, which its user may have set.
        self._epoch_of_source = 0

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one if none has begun."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, in all workers; each epoch has its own order.

        Unlike in a `StreamLoader`, every iteration is this epoch until another one is set, as with torch's
        `DistributedSampler`: workers of a stock `DataLoader` do not know how often it was iterated.

        Raises:
            OptionError: if a state within another epoch was loaded: the rest of that epoch would be lost; or if
                Accelerate calls it because it is about to split the batches.
        """
        check_int("epoch", epoch, minimum=0)
        reject_accelerate_split()
        if self._loaded and self._position is not None and self._position.cursor.epoch != epoch:
            loaded = self._position.cursor
            if loaded.position or loaded.rows:
                msg = (
                    f"epoch must be {loaded.epoch}, because the loaded state is within that epoch and the rest of it "
                    f"would be lost, got set_epoch({epoch}); count epochs from {loaded.epoch}."
                )
                raise OptionError(msg, epoch=epoch, wanted=loaded.epoch)
            self._loaded = False
        self._epoch[0] = epoch

    def set_epoch_of_source(self, epoch: int) -> None:
        """Pass an epoch to the source, if it has a method `set_epoch` and does not have this epoch already."""
        set_epoch: Callable[[int], object] | None = getattr(self.source, "set_epoch", None)
        if set_epoch is not None and epoch != self._epoch_of_source:
            set_epoch(epoch)
            self._epoch_of_source = epoch

    def start_cursor(self, worker: int, workers: int, epoch: int) -> ShardCursor:
        """Return the beginning of an epoch in the shard of one of this rank's workers."""
        workers = max(workers, 1)
        if self.ranks == "even":
            return ShardCursor(worker, workers, StreamCursor(epoch))
        return ShardCursor(worker + workers * self.rank, workers * self.world_size, StreamCursor(epoch))

    @override
    def __iter__(self) -> Iterator[B]:
        """Yield the batches of an epoch, or the rest of one after a loaded state; in a worker, those of its shard.

        Raises:
            OptionError: if a loaded state belongs to another shard or to other options, or if the source is an iterator
                that has already been read.
        """
        start = self._start_own_shard()
        # Without a loaded state, every iteration starts at the beginning of the epoch, as a stock dataset does.
        if self._position is None or not self._loaded:
            self._position = start
        if (self._position.shard, self._position.num_shards) != (start.shard, start.num_shards):
            msg = (
                f"the state must be of shard {start.shard} of {start.num_shards}, got shard {self._position.shard} of "
                f"{self._position.num_shards}; resume with the numbers of workers and ranks with which it was saved."
            )
            raise OptionError(msg, shard=start.shard, num_shards=start.num_shards)
        # The iteration starts when its first batch is requested: `set_epoch` counts until then.
        position = self._position if self._loaded else None
        self._loaded = False
        return self._follow(position)

    def _start_own_shard(self) -> ShardCursor:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        return self.start_cursor(worker, workers, self.epoch)

    def read(self, start: ShardCursor) -> Iterator[tuple[B, ShardCursor]]:
        """Yield the batches of a shard from a cursor on, each with the cursor after it.

        They depend on the cursor and the source only; the state of this object does not change.

        Raises:
            OptionError: for a cursor of other options, or if the source is an iterator that has already been read.
        """
        if isinstance(self.source, Iterator):
            if self._was_read:
                msg = (
                    f"source must be an iterable that can be read again, got a {type(self.source).__name__}, which was "
                    "already read; give a list, or an object whose __iter__ returns a new iterator."
                )
                raise OptionError(msg)
            self._was_read = True
        self.set_epoch_of_source(start.cursor.epoch)
        rank, world_size = (self.rank, self.world_size) if self.ranks == "even" else (0, 1)
        # The cursor counts the rows of this shard, which are `num_shards` records apart in the source.
        shard = Shard(self.source, start.shard + start.num_shards * start.cursor.rows, start.num_shards)
        rows = SizedIterator(shard.map_through(self._before), shard)
        outputs = self._stream.resume(rows, start.cursor, rank=rank, world_size=world_size)
        return ((self._apply_rest(output), attrs.evolve(start, cursor=after)) for output, after in outputs)

    def state_dict(self) -> dict[str, object]:
        """Return this process's position in its shard, as numbers, lists and text, for JSON or a checkpoint.

        Raises:
            OptionError: if this process has neither read nor loaded anything: if workers read, only they know.
        """
        if self._position is None:
            msg = (
                "this process has read nothing, so it does not know the positions of its workers; take the state of a "
                "StreamLoader or a StatefulDataLoader."
            )
            raise OptionError(msg)
        return self._position.to_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Start the next iteration where the state was saved.

        Raises:
            OptionError: if it is not such a state.
        """
        self._position = ShardCursor.from_dict(state)
        self._loaded = True
        self.set_epoch(self._position.cursor.epoch)

    def _follow(self, position: ShardCursor | None) -> Iterator[B]:
        for batch, after in self.read(self._start_own_shard() if position is None else position):
            self._position = after
            yield batch

    def _apply_rest(self, output: object) -> B:
        for stage in self._after:
            output = cast("Any", stage)(output)
        return cast("B", output)


def _split_at_stream(
    data: Stream[X, B],
) -> tuple[Sequence[Stage[object, object]], Resumable[object, object], Sequence[StageBase]]:
    """Return the stages before the stream, the stream, and the stages after it."""
    parts: Sequence[StageBase] = list(data.stages.values()) if isinstance(data, StreamChain) else [data]
    streams = [index for index, part in enumerate(parts) if is_stream(part)]
    stream = parts[streams[0]]
    if len(streams) > 1 or not isinstance(stream, Resumable):
        names = ", ".join(type(parts[index]).__name__ for index in streams)
        msg = (
            f"data must have exactly one resumable stream, got {names}; use one Bucket or BPTTWindows, or another "
            "subclass of Resumable."
        )
        raise CompositionError(msg, streams=names)
    before = cast("Sequence[Stage[object, object]]", parts[: streams[0]])
    return before, cast("Resumable[object, object]", stream), parts[streams[0] + 1 :]


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
