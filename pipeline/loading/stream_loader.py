"""A `DataLoader` over a stream whose state is that of the training loop."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Generic, NoReturn, TypeVar, cast, final

import attrs
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from typing_extensions import override

from pipeline.batching.epochs import EpochState
from pipeline.data.batches import is_batch
from pipeline.data.report import Report
from pipeline.errors import OptionError, WorkerError
from pipeline.loading.frameworks import count_batches_ahead, find_pending_state, make_skip_error
from pipeline.loading.loader import Start
from pipeline.loading.progress import ProgressTable, WorkerPhase, WorkerProgress, report_phase
from pipeline.loading.records import describe_record, describe_records
from pipeline.loading.shard import ShardCursor
from pipeline.loading.stream_dataset import StreamDataset
from pipeline.loading.worker_failure import WorkerFailure
from pipeline.loading.worker_monitor import WorkerMonitor, install_sigchld_handler
from pipeline.loading.workers import WorkerSeeds, check_worker_options, shut_down_workers

X = TypeVar("X")
B = TypeVar("B")

_MAX_AHEAD: Final = 8
"""The number of batches that a training loop may take ahead; Lightning takes one."""


@final
class StreamLoader(Generic[B]):
    """Load the batches of a stream in this process or in workers.

    A stock `DataLoader` does the work. Each batch is sent with its worker's position after it, so the state is that of
    the training loop, however far ahead the workers are. Each iteration is an epoch, as of every loader: the one set by
    `set_epoch`, the rest of the one of a loaded state, or else the one after that of the last iteration, even if that
    was left early. To continue an epoch that was left early, load its state.

    Args:
        stream: the source with the stages that make batches of it.
        num_workers: the number of processes that read and make batches; 0 does so in this process.
        multiprocessing_context: how workers are started; None for Python's default.
        timeout: the number of seconds without a batch after which a worker counts as hung; 0 waits forever.
        prefetch_factor: the number of batches that each worker prepares ahead; None for two.
        generator: draws the seed of the workers' own random generators once per epoch. By default it follows from the
            epoch. The global random generators of this process are not used.
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
        generator: torch.Generator | None = None,
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
        self._generator: Final = WorkerSeeds(generator, 0)
        self._workers: Final = max(num_workers, 1)
        self._epochs: Final = EpochState(self._start_epoch)
        # The positions after the last batches, the newest last: Lightning takes batches ahead of training.
        self._history: Final[deque[_Position]] = deque(maxlen=_MAX_AHEAD + 1)
        self.report: Report = Report()
        """Real and padded steps of the batches that the newest iteration has yielded."""

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one if none has begun."""
        return self._epochs.epoch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, up to its first batch. Does not change an iteration that is running.

        Raises:
            OptionError: if a state within another epoch was loaded: the rest of that epoch would be lost.
        """
        self._epochs.set_epoch(epoch)

    @property
    def dataset(self) -> NoReturn:
        """Not supported: `accelerate.skip_first_batches` reads it."""
        raise make_skip_error(self, "dataset")

    def __iter__(self) -> Iterator[B]:
        """Yield the batches of an epoch, or the rest of one after a loaded state.

        Raises:
            OptionError: if the source is an iterator that has already been read.
            WorkerError: if a worker dies or hangs.
        """
        if (state := find_pending_state(self, even_at_end=True)) is not None:
            self.load_state_dict(state)
        iteration = self._epochs.begin()
        position = self._epochs.position
        self._history.clear()
        self._history.append(position)
        # Workers are copies of this process, so the source is given the epoch here as well.
        self.stream.set_epoch_of_source(self.epoch)
        workers, first = self._workers, position.following
        # A DataLoader takes batches from its workers in turn, starting with worker 0. To resume in the middle of a
        # turn, worker 0 gets the shard that is next, worker 1 the one after it, and so on.
        starts = [position.shards[(first + worker) % workers] for worker in range(workers)]
        generator = self._generator.for_epoch(self.epoch)
        progress = ProgressTable(workers) if self._options["num_workers"] else None
        shards = _Shards(self.stream, starts, progress)
        outputs = iter(DataLoader[Any](shards, batch_size=None, generator=generator, **self._options))
        monitor = None
        if progress is not None:
            monitor = _StreamMonitor(progress, self.stream.source, starts[0].num_shards)
            install_sigchld_handler()  # after the workers have started, as in a Loader
        self.report = Report()
        try:
            for output in outputs if monitor is None else monitor.watch(outputs):
                if isinstance(output, WorkerFailure):
                    raise output.to_error()
                worker, after, batch = output
                position = position.advance((first + worker) % workers, after)
                self._epochs.move(iteration, position)
                self._history.append(position)
                self.report += _get_report(batch)
                yield batch
        finally:
            shut_down_workers(outputs)
        self._epochs.end(iteration)
        self._history.clear()

    def state_dict(self) -> dict[str, object]:
        """Return the state after the last batch that was yielded, as numbers, lists and text, for JSON."""
        position = self._epochs.position
        # Lightning takes a batch ahead of training. The state is that of the batch on which it trains.
        ahead = count_batches_ahead()
        if ahead and len(self._history) > ahead:
            position = self._history[-1 - ahead]
        return {"workers": [shard.to_dict() for shard in position.shards], "next": position.following}

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
        expected = self._epochs.position.shards
        given, wanted = ([(one.shard, one.num_shards) for one in found] for found in (positions, expected))
        if given != wanted:
            msg = (
                f"the state must be of the shards {_list_shards(wanted)}, got {_list_shards(given)}; resume with the "
                "numbers of workers and ranks with which it was saved."
            )
            raise OptionError(msg, wanted=wanted)
        epoch = positions[0].cursor.epoch
        has_rest = any(one.cursor.rows or one.cursor.position for one in positions)
        self._epochs.load(epoch, _Position(tuple(positions), following % self._workers), has_rest=has_rest)

    def _start_epoch(self, epoch: int) -> "_Position":
        # Without workers, this process reads the only shard.
        return _Position(
            tuple(self.stream.start_cursor(worker, self._workers, epoch) for worker in range(self._workers))
        )


@attrs.frozen
class _Position:
    """The position of training in each worker's shard, and the number of the shard whose batch comes next."""

    shards: tuple[ShardCursor, ...]
    following: int = 0

    def advance(self, shard: int, after: ShardCursor) -> "_Position":
        """Return the position after a batch of a shard."""
        shards = (*self.shards[:shard], after, *self.shards[shard + 1 :])
        return _Position(shards, (shard + 1) % len(shards))


def _get_report(output: object) -> Report:
    return output.report() if is_batch(output) else Report(1)


def _list_shards(shards: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{shard} of {num_shards}" for shard, num_shards in shards)


@final
class _StreamMonitor(WorkerMonitor):
    """Monitor of workers that read the shards of a source."""

    def __init__(self, progress: ProgressTable, source: object, num_shards: int) -> None:
        super().__init__(progress)
        self._source: Final = source
        self._num_shards: Final = num_shards

    def watch(self, outputs: Iterator[Any]) -> Iterator[Any]:
        """Yield the outputs of the workers.

        Raises:
            WorkerError: if a worker dies or hangs.
        """
        while True:
            try:
                output = next(outputs)
            except StopIteration:
                return
            except WorkerError:  # raised by the signal handler, and already explained
                raise
            except Exception as error:
                if (explained := self.explain(error)) is not None:
                    raise explained from error
                raise
            yield output

    @override
    def _describe(self, progress: WorkerProgress) -> str:
        if progress.phase is WorkerPhase.DONE:
            return f"had just finished its batch {progress.batch}"
        if progress.record is None:
            return f"had not begun to read its batch {progress.batch}"
        if records := self._get_records(progress):
            return f"was at {describe_records(self._source, records)}, in its batch {progress.batch}"
        return f"was making its batch {progress.batch}, after {describe_record(self._source, progress.record)}"

    @override
    def _get_records(self, progress: WorkerProgress) -> list[int]:
        if progress.record is None or progress.phase is WorkerPhase.READING:
            return [] if progress.record is None else [progress.record]
        # Stages read some records ahead: it is one of those that were read, but gave no row yet.
        return list(range(progress.first, progress.record + 1, self._num_shards))


@final
class _Shards(IterableDataset[Any]):
    """Batches of the worker's shard, each with the worker's number and the position after it; or an error."""

    def __init__(
        self, stream: StreamDataset[object, B], starts: Sequence[ShardCursor], progress: ProgressTable | None
    ) -> None:
        self._stream = stream
        self._starts = starts
        self._progress = progress

    @override
    def __iter__(self) -> Iterator[tuple[int, ShardCursor, object] | WorkerFailure]:
        info = get_worker_info()
        if info is None or self._progress is None:
            yield from self._read(0)
            return
        try:
            self._progress.start_batch(info.id, 0)
            for number, output in enumerate(self._read(info.id), start=1):
                # The worker waits until the training process takes batches: it does not hang.
                report_phase(WorkerPhase.DONE)
                yield output
                self._progress.start_batch(info.id, number)
            report_phase(WorkerPhase.DONE)
        except Exception as error:  # noqa: BLE001 - it is raised in the training process
            # torch would build a new error from the text of this one, without its details and notes.
            yield WorkerFailure.from_error(error, info.id)

    def _read(self, worker: int) -> Iterator[tuple[int, ShardCursor, object]]:
        return ((worker, after, batch) for batch, after in self._stream.read(self._starts[worker]))
