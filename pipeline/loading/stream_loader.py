"""A `DataLoader` over a stream whose state is that of the training loop."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, cast, final

from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from typing_extensions import override

from pipeline.checks.options import check_int
from pipeline.data.batches import is_batch
from pipeline.data.report import Report
from pipeline.errors import OptionError
from pipeline.loading.loader import Start
from pipeline.loading.stream_dataset import ShardCursor, StreamDataset
from pipeline.loading.workers import check_worker_options, shut_down_workers

X = TypeVar("X")
B = TypeVar("B")


@final
class StreamLoader(Generic[B]):
    """Load the batches of a stream in this process or in workers.

    A stock `DataLoader` does the work. Each batch is sent with its worker's position after it, so the state is that of
    the training loop, however far ahead the workers are. Each iteration continues where the last one stopped; after the
    last batch of an epoch, the next epoch begins.

    Args:
        stream: the source with the stages that make batches of it.
        num_workers: the number of processes that read and make batches; 0 does so in this process.
        multiprocessing_context: how workers are started; None for Python's default.
        timeout: the number of seconds without a batch after which a worker counts as hung; 0 waits forever.
        prefetch_factor: the number of batches that each worker prepares ahead; None for two.
        pin_memory: put batches into page-locked memory, from which copies to a device overlap with computation.

    Raises:
        OptionError: if an option for workers is given without workers.

    Example:
        >>> from pipeline import Bucket, FromIds, Pad
        >>> source = [[1, 2, 3, 4], [5], [6, 7, 8, 9, 10]]
        >>> loader = StreamLoader(StreamDataset(source, FromIds() >> Bucket(max_padded_steps=10) >> Pad()))
        >>> sorted(row for batch in loader for row in batch.metadata.row_ids.tolist())
        [0, 1, 2]
        >>> loader.report.rows, loader.report.batches, loader.report.steps
        (3, 2, 10)
        >>> loader.epoch
        1
    """

    def __init__(
        self,
        stream: StreamDataset[X, B],
        *,
        num_workers: int = 0,
        multiprocessing_context: Start | None = None,
        timeout: float = 0,
        prefetch_factor: int | None = None,
        pin_memory: bool = False,
    ) -> None:
        options = {
            "multiprocessing_context": multiprocessing_context,
            "timeout": timeout,
            "prefetch_factor": prefetch_factor,
        }
        check_worker_options(num_workers, options)
        self.stream: Final[StreamDataset[object, B]] = cast("StreamDataset[object, B]", stream)
        self._options: Final[dict[str, Any]] = {**options, "num_workers": num_workers, "pin_memory": pin_memory}
        self._workers: Final = max(num_workers, 1)
        # The position of training in each worker's shard, and the shard whose batch comes next.
        self._positions: list[ShardCursor] = self._start_cursors(0)
        self._next = 0
        self.report: Report = Report()
        """Real and padded steps of the batches that the newest iteration has yielded."""

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one if none has begun."""
        return self._positions[0].cursor.epoch

    def set_epoch(self, epoch: int) -> None:
        """Start an epoch. Has no effect if that epoch is in progress."""
        if epoch != self.epoch:
            self._positions, self._next = self._start_cursors(check_int("epoch", epoch, minimum=0)), 0

    def __iter__(self) -> Iterator[B]:
        """Yield the batches of an epoch, or the rest of one that was interrupted.

        Raises:
            OptionError: if the source is an iterator that has already been read.
        """
        workers, first = self._workers, self._next
        # A DataLoader takes batches from its workers in turn, starting with worker 0. To resume in the middle of a
        # turn, worker 0 gets the shard that is next, worker 1 the one after it, and so on.
        starts = [self._positions[(first + worker) % workers] for worker in range(workers)]
        outputs = iter(DataLoader[Any](_Shards(self.stream, starts), batch_size=None, **self._options))
        self.report = Report()
        try:
            for worker, after, batch in outputs:
                shard = (first + worker) % workers
                self._positions[shard] = after
                self._next = (shard + 1) % workers
                self.report += _get_report(batch)
                yield batch
        finally:
            shut_down_workers(outputs)
        self._positions, self._next = self._start_cursors(self.epoch + 1), 0

    def state_dict(self) -> dict[str, object]:
        """Return the state after the last batch that was yielded, as numbers, lists and text, for JSON."""
        return {"workers": [position.to_dict() for position in self._positions], "next": self._next}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue after the last batch that was yielded when the state was saved.

        Raises:
            OptionError: if it is not such a state, or one of another number of workers or ranks.
        """
        match dict(state):
            case {"workers": workers, "next": int(following), **rest} if not rest and isinstance(workers, list):
                positions = [ShardCursor.from_dict(worker) for worker in cast("list[Mapping[str, object]]", workers)]
            case _:
                msg = f"state must have workers and next, got {dict(state)}; give the result of state_dict()."
                raise OptionError(msg, state=state)
        given, wanted = ([(one.shard, one.num_shards) for one in found] for found in (positions, self._positions))
        if given != wanted:
            msg = (
                f"the state must be of the shards {_list_shards(wanted)}, got {_list_shards(given)}; resume with the "
                "numbers of workers and ranks with which it was saved."
            )
            raise OptionError(msg, wanted=wanted)
        self._positions, self._next = positions, following % self._workers

    def _start_cursors(self, epoch: int) -> list[ShardCursor]:
        # Without workers, this process reads the only shard.
        return [self.stream.start_cursor(worker, self._workers, epoch) for worker in range(self._workers)]


def _get_report(output: object) -> Report:
    return output.report() if is_batch(output) else Report(1)


def _list_shards(shards: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{shard} of {num_shards}" for shard, num_shards in shards)


@final
class _Shards(IterableDataset[Any]):
    """Batches of the worker's shard, each with the worker's number and the position after it."""

    def __init__(self, stream: StreamDataset[object, B], starts: Sequence[ShardCursor]) -> None:
        self._stream = stream
        self._starts = starts

    @override
    def __iter__(self) -> Iterator[tuple[int, ShardCursor, object]]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        for batch, after in self._stream.read(self._starts[worker]):
            yield worker, after, batch
