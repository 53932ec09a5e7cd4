"""Read a source in its order, endless or not, through the stages that make batches of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final, Generic, Literal, Self, TypeVar, cast, final, get_args

import attrs
import torch
from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import override

from pipeline.batching.cursor import StreamCursor
from pipeline.checks.options import check_choice, check_int
from pipeline.core.chain import StreamChain
from pipeline.core.stage import Stage, StageBase, Stream, is_stream
from pipeline.data.rows import Kind, Row, is_row
from pipeline.errors import CompositionError, OptionError, PipelineError
from pipeline.loading.progress import share_memory
from pipeline.loading.ranks import get_rank_and_world_size
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
    """Iterable dataset of the batches of a source that is read in its order, endless or not, in bounded memory.

    It is for a `DataLoader` with `batch_size=None`, and for torchdata's `StatefulDataLoader`, which keeps the state of
    each worker. `StreamLoader` does that without torchdata.

    Each of n workers reads every n-th record and makes its own batches: no record is lost or served twice. With
    `ranks="even"`, all ranks read the same records and form the same batches, and each takes its share of them: batches
    of similar size at the same training step, and the same number for every rank, so that no rank waits at the end. The
    stages before the bucket run on every rank. With `ranks="apart"`, each rank reads its own records only; the numbers
    of batches may differ, so this is for endless sources. Every rank needs the same number of workers.

    Args:
        source: the records: an iterable that starts from the beginning each time, such as a list or a class with
            `__iter__`. An iterator can be read only once.
        data: the stages that make batches, such as `Tokenize(...) >> Bucket(...) >> Pad()`: exactly one resumable
            stream, with other stages before and after it.
        rank: the rank of this process; by default that of `torch.distributed`.
        world_size: the number of ranks; by default that of `torch.distributed`.
        ranks: how ranks share the source: `even` or `apart`.

    Raises:
        CompositionError: if `data` does not have exactly one resumable stream.
        OptionError: for options out of range.

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
        self.source: Final = source
        self.rank: int
        self.world_size: int
        self.rank, self.world_size = get_rank_and_world_size(rank, world_size)
        self.ranks: Final[Ranks] = ranks
        self._before, self._stream, self._after = _split_at_stream(data)
        # In shared memory: persistent workers already run when the epoch is set.
        self._epoch = share_memory(torch.zeros(1, dtype=torch.int64))
        self._position: ShardCursor | None = None
        self._loaded = False
        self._was_read = False

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one if none has begun."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch in all workers; each epoch has its own order."""
        self._epoch[0] = check_int("epoch", epoch, minimum=0)

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
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        start = self.start_cursor(worker, workers, self.epoch)
        # Without a loaded state, every iteration starts at the beginning of the epoch, as a stock dataset does.
        if self._position is None or not self._loaded:
            self._position = start
        if (self._position.shard, self._position.num_shards) != (start.shard, start.num_shards):
            msg = (
                f"the state must be of shard {start.shard} of {start.num_shards}, got shard {self._position.shard} of "
                f"{self._position.num_shards}; resume with the numbers of workers and ranks with which it was saved."
            )
            raise OptionError(msg, shard=start.shard, num_shards=start.num_shards)
        self._loaded = False
        return self._follow(self.read(self._position))

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
        rank, world_size = (self.rank, self.world_size) if self.ranks == "even" else (0, 1)
        # The cursor counts the rows of this shard, which are `num_shards` records apart in the source.
        shard = Shard(self.source, start.shard + start.num_shards * start.cursor.rows, start.num_shards)
        outputs = self._stream.resume(shard.map_through(self._before), start.cursor, rank=rank, world_size=world_size)
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

    def _follow(self, outputs: Iterator[tuple[B, ShardCursor]]) -> Iterator[B]:
        for batch, after in outputs:
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

    A list is indexed. A source with a method `skip(count)` is asked to skip the records before the first. Any other
    source is read from its beginning.

    Example:
        >>> list(Shard("abcdefg", 1, 3)), list(Shard(iter("abcdefg"), 1, 3))
        (['b', 'e'], ['b', 'e'])
    """

    source: Iterable[X]
    first: int = 0
    step: int = 1

    def __iter__(self) -> Iterator[X]:
        if isinstance(self.source, Sequence):
            records = self.source
            return (records[number] for number in range(self.first, len(records), self.step))
        skip: Callable[[int], Iterable[X]] | None = getattr(self.source, "skip", None)
        if skip is not None:
            # A source of files can seek, so resuming far into an epoch does not read everything before.
            return islice(skip(self.first) if self.first else self.source, 0, None, self.step)
        return islice(self.source, self.first, None, self.step)

    def map_through(self, stages: Sequence[Stage[object, object]]) -> Iterator[object]:
        """Pass the records through stages, and number the rows by their records in the whole source.

        Raises:
            PipelineError: the error of a stage; its message names the record.
        """
        values: Iterator[object] = iter(self)
        for stage in stages:
            values = stage.map(values)
        has_input_stage = any(isinstance(stage, InputStage) for stage in stages[:1])
        record = self.first
        try:
            for value in values:
                # An input stage counts the records of this shard, from 0.
                yield _with_row_id(value, record) if has_input_stage and is_row(value) else value
                record += self.step
        except PipelineError as error:
            if self.first or self.step > 1:
                _name_record(error, self.first, self.step)
            raise


def _with_row_id(row: Row[Kind], row_id: int) -> Row[Kind]:
    return Row(row.sequence, row.target, row_id, row.answer_mask, row.start_step)


def _name_record(error: PipelineError, first: int, step: int) -> None:
    """Add to an error the record of the whole source: the input stage's `row` counts within the shard."""
    row = error.details.get("row")
    if isinstance(row, int):
        record = first + step * row
        error.args = (f"record {record} of the source, row {row} of this shard: {error}", *error.args[1:])
        error.details = {**error.details, "record": record}
