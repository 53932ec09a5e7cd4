"""A `DataLoader` over a stream that knows where training stands."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, cast, final

from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from typing_extensions import override

from pipeline.batching.numbers import whole
from pipeline.batching.stream_cursor import StreamCursor
from pipeline.data.batches import is_batch
from pipeline.data.report import Report
from pipeline.errors import OptionError
from pipeline.loading.ending import end_workers
from pipeline.loading.fitting import check_workers
from pipeline.loading.loader import Start
from pipeline.loading.streamed import ShareCursor, Streamed

X = TypeVar("X")
B = TypeVar("B")


@final
class StreamLoader(Generic[B]):
    """Batches of a stream, read and made in this process or in workers.

    A stock `DataLoader` does the work. Each batch brings along where its worker stands behind it, so the state is that
    of the training loop, whatever workers have made ahead. Iterating goes on where the last iteration was left;
    behind the last batch of an epoch, the next epoch begins.

    Args:
        stream: the source and what makes batches of it.
        num_workers: how many processes read and make batches; 0 for this one alone.
        multiprocessing_context: how they begin; None for Python's own choice.
        timeout: after how many seconds without a batch a worker is taken to hang; 0 waits for ever.
        prefetch_factor: how many batches a worker makes ahead; None for two.
        pin_memory: put batches into page-locked memory, from which copies to a device overlap with work.

    Raises:
        OptionError: if an option is one for workers and there are none.

    Example:
        >>> from pipeline import Bucket, FromIds, Pad
        >>> source = [[1, 2, 3, 4], [5], [6, 7, 8, 9, 10]]
        >>> loader = StreamLoader(Streamed(source, FromIds() >> Bucket(max_padded_steps=10) >> Pad()))
        >>> sorted(place for batch in loader for place in batch.metadata.places.tolist())
        [0, 1, 2]
        >>> print(loader.report)
        3 rows in 2 batches: 10 real steps, 11 padded, 9.1% of the padded work wasted
        >>> loader.epoch
        1
    """

    def __init__(
        self,
        stream: Streamed[X, B],
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
        check_workers(num_workers, options)
        self.stream: Final[Streamed[object, B]] = cast("Streamed[object, B]", stream)
        self._options: Final[dict[str, Any]] = {**options, "num_workers": num_workers, "pin_memory": pin_memory}
        self._workers: Final = max(num_workers, 1)
        self._stands: list[ShareCursor] = self._beginning(0)
        self._next = 0
        self.report: Report = Report()
        """Real and padded steps of the batches that the newest iteration has given."""

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes next."""
        return self._stands[0].at.epoch

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; nothing changes if it is the one at hand."""
        if epoch != self.epoch:
            self._stands, self._next = self._beginning(whole("epoch", epoch, least=0)), 0

    def __iter__(self) -> Iterator[B]:
        """The batches of an epoch; of the rest of one that was left.

        Raises:
            OptionError: if the source is an iterator that was read already.
        """
        workers, first = self._workers, self._next
        # Workers take turns from the first on: the one whose turn it is becomes the first.
        turns = [self._stands[(first + turn) % workers] for turn in range(workers)]
        answers = iter(DataLoader[Any](_Turns(self.stream, turns), batch_size=None, **self._options))
        self.report = Report()
        try:
            for worker, behind, batch in answers:
                place = (first + worker) % workers
                self._stands[place] = behind
                self._next = (place + 1) % workers
                self.report += _report(batch)
                yield batch
        finally:
            end_workers(answers)
        self._stands, self._next = self._beginning(self.epoch + 1), 0

    def state_dict(self) -> dict[str, object]:
        """Where training stands: behind the batch that was given last. Numbers, lists and text, for JSON."""
        return {"workers": [stands.to_dict() for stands in self._stands], "next": self._next}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on behind the batch that was given last when the state was taken.

        Raises:
            OptionError: if it is no such state, or one of another number of workers or ranks.
        """
        match dict(state):
            case {"workers": workers, "next": int(following), **rest} if not rest and isinstance(workers, list):
                stands = [ShareCursor.from_dict(worker) for worker in cast("list[Mapping[str, object]]", workers)]
            case _:
                msg = f"a loader's state has workers and next, but {dict(state)} arrived; give what state_dict gave."
                raise OptionError(msg, state=state)
        wanted = [(mine.share, mine.shares) for mine in self._stands]
        if [(one.share, one.shares) for one in stands] != wanted:
            came = ", ".join(f"{one.share} of {one.shares}" for one in stands)
            msg = (
                f"the state is of the shares {came} of the source, but this loader reads "
                f"{', '.join(f'{share} of {shares}' for share, shares in wanted)}; take a stream up on as many workers "
                "and ranks as it was left on."
            )
            raise OptionError(msg, wanted=wanted)
        self._stands, self._next = stands, following % self._workers

    def _beginning(self, epoch: int) -> list[ShareCursor]:
        workers, stream = self._workers, self.stream
        shares = stream.shares(workers)
        return [ShareCursor(stream.share(n, workers), shares, StreamCursor(epoch)) for n in range(workers)]


def _report(output: object) -> Report:
    return output.report() if is_batch(output) else Report(1)


@final
class _Turns(IterableDataset[Any]):
    """Each worker's batches, with its number and where it stands behind them."""

    def __init__(self, stream: Streamed[object, B], turns: Sequence[ShareCursor]) -> None:
        self._stream = stream
        self._turns = turns

    @override
    def __iter__(self) -> Iterator[tuple[int, ShareCursor, object]]:
        info = get_worker_info()
        worker = 0 if info is None else info.id
        for batch, behind in self._stream.read(self._turns[worker]):
            yield worker, behind, batch
