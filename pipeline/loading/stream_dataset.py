"""Read a source in its order, endless or not, through the stages that make batches of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, Literal, TypeVar, cast, final, get_args

import attrs
import torch
from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import override

from pipeline.batching.cursor import StreamCursor
from pipeline.checks.options import check_choice, check_int
from pipeline.core.stage import Stage, StageBase, Stream, is_stream
from pipeline.core.stream_chain import StreamChain
from pipeline.data.iteration import SizedIterator, check_ordered
from pipeline.errors import CompositionError, OptionError
from pipeline.loading.frameworks import reject_accelerate_split
from pipeline.loading.progress import share_memory
from pipeline.loading.ranks import get_rank_and_world_size
from pipeline.loading.shard import Shard, ShardCursor
from pipeline.stages.resumable import Resumable

X = TypeVar("X")

B = TypeVar("B")

Ranks = Literal["even", "apart"]
"""How ranks share a source: all read every record and get the same number of batches, or each reads its own records."""


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
