"""A source that is read as it comes, through the stages that make batches of it."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from operator import methodcaller
from typing import Any, Final, Generic, Literal, Self, TypeVar, cast, final, get_args

import attrs
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info
from typing_extensions import override

from pipeline.batching.numbers import one_of, whole
from pipeline.batching.stream_cursor import StreamCursor
from pipeline.core.chain import StreamChain
from pipeline.core.stage import Stage, StageBase, Stream, is_stream
from pipeline.errors import CompositionError, OptionError
from pipeline.loading.ranks import taking_part
from pipeline.loading.share import Share
from pipeline.stages.resumable import Resumable

X = TypeVar("X")
B = TypeVar("B")

_shared: Final[Callable[[Tensor], Tensor]] = methodcaller("share_memory_")
"""A tensor whose memory all processes share; torch leaves its type open."""

Ranks = Literal["even", "apart"]
"""How ranks share a source: all read it, and have equal numbers of batches; or each reads records of its own."""


@final
@attrs.frozen
class ShareCursor:
    """Where one share of a source stands.

    Attributes:
        share: which share, from 0.
        shares: how many there are: workers, times ranks where these read apart.
        at: where the stream over it stands.
    """

    share: int
    shares: int
    at: StreamCursor

    def to_dict(self) -> dict[str, object]:
        """It as numbers, lists and text, for JSON or a checkpoint."""
        return {"share": self.share, "shares": self.shares, "at": self.at.to_dict()}

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> Self:
        """What `to_dict` wrote.

        Raises:
            OptionError: if it holds anything else.
        """
        match dict(state):
            case {"share": int(share), "shares": int(shares), "at": at, **rest} if not rest and isinstance(at, Mapping):
                return cls(share, shares, StreamCursor.from_dict(cast("Mapping[str, object]", at)))
            case _:
                msg = f"a share's state has share, shares and at, but {dict(state)} arrived; give what to_dict gave."
                raise OptionError(msg, state=state)


@final
class Streamed(IterableDataset[B], Generic[X, B]):
    """Batches of a source that is read in its order, endless or not, with bounded memory.

    It is an iterable dataset for a `DataLoader` with `batch_size=None`, and for torchdata's `StatefulDataLoader`, which
    keeps each worker's state. `StreamLoader` does that by itself.

    Each of n workers reads every n-th record, and makes batches of its own: no record is lost or doubled. Ranks read
    `even` or `apart`. Even: all read the same records, cut the same batches, and each takes its own, like-sized at the
    same step and equal in number, so that none waits at the end; the stages before the bucket work on every rank.
    Apart: each rank reads records of its own, and works on these alone; the ranks' numbers of batches may differ, so
    this is for endless sources. Every rank needs the same number of workers.

    Args:
        source: the records: an iterable that begins anew each time, such as a list or a class with `__iter__`. An
            iterator can be read once.
        data: what makes batches of them, such as `Tokenize(...) >> Bucket(...) >> Pad()`: stages, one stream that can
            be resumed, and stages.
        rank: which rank this is. Left out, that of `torch.distributed`.
        world_size: how many ranks there are; left out, as the rank.
        ranks: how they share the source: `even` or `apart`.

    Raises:
        CompositionError: if there is not one stream that can be resumed among the stages.
        OptionError: for options outside their range.

    Example:
        >>> from pipeline import Bucket, FromIds, Pad
        >>> stream = Streamed([[1, 2, 3, 4], [5], [6, 7, 8, 9, 10]], FromIds() >> Bucket(max_padded_steps=10) >> Pad())
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
        one_of("ranks", ranks, get_args(Ranks))
        self.source: Final = source
        self.rank: int
        self.world_size: int
        self.rank, self.world_size = taking_part(rank, world_size)
        self.ranks: Final[Ranks] = ranks
        self._before, self._stream, self._after = _divided(data)
        # Shared with workers, which may have been started before it is set.
        self._epoch = _shared(torch.zeros(1, dtype=torch.int64))
        self._stands: ShareCursor | None = None
        self._loaded = False
        self._read_once = False

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes next."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next, in all workers; each has an order of its own."""
        self._epoch[0] = whole("epoch", epoch, least=0)

    def shares(self, workers: int) -> int:
        """How many shares the source has on so many workers a rank."""
        return max(workers, 1) * (self.world_size if self.ranks == "apart" else 1)

    def share(self, worker: int, workers: int) -> int:
        """Which share a worker of this rank reads."""
        return worker + max(workers, 1) * (self.rank if self.ranks == "apart" else 0)

    @override
    def __iter__(self) -> Iterator[B]:
        """The batches of an epoch, or the rest of one behind a state that was loaded; in a worker, its share of them.

        Raises:
            OptionError: if a state was loaded that belongs to another share or other options, or if the source is an
                iterator that was read already.
        """
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        share, shares = self.share(worker, workers), self.shares(workers)
        if self._stands is None or not self._loaded:
            self._stands = ShareCursor(share, shares, StreamCursor(self.epoch))
        if (self._stands.share, self._stands.shares) != (share, shares):
            msg = (
                f"the state is of share {self._stands.share} of {self._stands.shares}, but this is share {share} of "
                f"{shares}; take a stream up on as many workers and ranks as it was left on."
            )
            raise OptionError(msg, share=share, shares=shares)
        self._loaded = False
        return self._followed(self.read(self._stands))

    def read(self, at: ShareCursor) -> Iterator[tuple[B, ShareCursor]]:
        """The batches of a share from a cursor on, each with where the share stands behind it.

        They follow from the cursor and the source, and from nothing else; the stream's own state stays as it is.

        Raises:
            OptionError: for a cursor of other options, or if the source is an iterator that was read already.
        """
        if isinstance(self.source, Iterator):
            if self._read_once:
                msg = (
                    f"the source is a {type(self.source).__name__}, which can be read once, and was; give what begins "
                    "anew each time: a list, or an object whose __iter__ makes an iterator."
                )
                raise OptionError(msg)
            self._read_once = True
        rank, world_size = (self.rank, self.world_size) if self.ranks == "even" else (0, 1)
        share = Share(self.source, at.share + at.shares * at.at.rows, at.shares)
        marked = self._stream.marked(share.through(self._before), at.at, rank=rank, world_size=world_size)
        return ((self._finished(output), attrs.evolve(at, at=behind)) for output, behind in marked)

    def state_dict(self) -> dict[str, object]:
        """Where this process stands in its share: numbers, lists and text, for JSON or a checkpoint.

        Raises:
            OptionError: if nothing was read or loaded in this process: where workers read, they know.
        """
        if self._stands is None:
            msg = (
                "nothing was read in this process, so that it does not know where its workers stand; take the state of "
                "a StreamLoader or a StatefulDataLoader."
            )
            raise OptionError(msg)
        return self._stands.to_dict()

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Have the next iteration go on where the state was taken.

        Raises:
            OptionError: if it is no such state.
        """
        self._stands = ShareCursor.from_dict(state)
        self._loaded = True
        self.set_epoch(self._stands.at.epoch)

    def _followed(self, marked: Iterator[tuple[B, ShareCursor]]) -> Iterator[B]:
        for batch, behind in marked:
            self._stands = behind
            yield batch

    def _finished(self, output: object) -> B:
        for stage in self._after:
            output = cast("Any", stage)(output)
        return cast("B", output)


def _divided(
    data: Stream[X, B],
) -> tuple[Sequence[Stage[object, object]], Resumable[object, object], Sequence[StageBase]]:
    """The stages before the stream, the stream, and the parts behind it."""
    parts: Sequence[StageBase] = list(data.parts.values()) if isinstance(data, StreamChain) else [data]
    streams = [index for index, part in enumerate(parts) if is_stream(part)]
    stream = parts[streams[0]]
    if len(streams) > 1 or not isinstance(stream, Resumable):
        names = ", ".join(type(parts[index]).__name__ for index in streams)
        msg = f"data must have one stream that can be resumed, such as Bucket or BPTTWindows, but it has {names}."
        raise CompositionError(msg, streams=names)
    before = cast("Sequence[Stage[object, object]]", parts[: streams[0]])
    return before, cast("Resumable[object, object]", stream), parts[streams[0] + 1 :]
