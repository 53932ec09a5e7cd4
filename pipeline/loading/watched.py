"""A dataset and a collate function that say what they have in hand, and give what they raise as an answer."""

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, final

from torch.utils.data import Dataset, get_worker_info
from typing_extensions import override

from pipeline.loading.failures import Failure
from pipeline.loading.hands import Hands, Stage, now, reading
from pipeline.loading.naming import listed, named
from pipeline.loading.rows import Numbered

R = TypeVar("R")
T = TypeVar("T")


@final
class Watched(Dataset[R]):
    """A dataset, asked for batches by their number in the plan and their records.

    In a worker it writes down what it reads; what it raises there is answered, so that it arrives as it is.
    """

    def __init__(self, dataset: Numbered[R], hands: Hands | None) -> None:
        self._dataset: Final = dataset
        self._hands: Final = hands

    @override
    def __getitem__(self, index: int) -> R:
        return self._dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> "Read[R] | Failure":
        """The records of a batch, behind its number."""
        batch, *records = indices
        worker = get_worker_info()
        if worker is not None and self._hands is not None:
            self._hands.take(worker.id, batch)
        try:
            return Read(self._read(records), records)
        except Exception as error:
            error.add_note(f"It was raised by batch {batch}, of {listed(self._dataset, records)}.")
            if worker is None:
                raise
            return Failure.of(error, worker.id)

    def _read(self, records: list[int]) -> list[R]:
        several: Callable[[list[int]], list[R]] | None = getattr(self._dataset, "__getitems__", None)
        if several is not None:
            return several(records)
        return [self._one(record) for record in records]

    def _one(self, record: int) -> R:
        reading(record)
        try:
            return self._dataset[record]
        except Exception as error:
            error.add_note(f"It is {named(self._dataset, record)}.")
            raise


@final
class Read(Generic[R]):
    """What was read for a batch, and of which records."""

    def __init__(self, values: list[R], records: list[int]) -> None:
        self.values: Final = values
        self.records: Final = records


@final
class Collate(Generic[R, T]):
    """A collate function that says when it begins and ends, and gives what it raises as an answer."""

    def __init__(self, collate: Callable[[list[R]], T], dataset: Numbered[R]) -> None:
        self._collate: Final = collate
        self._dataset: Final = dataset

    def __call__(self, read: "Read[R] | Failure") -> T | Failure:
        """A batch of what was read; a failure as it is."""
        if isinstance(read, Failure):
            return read
        now(Stage.COLLATING)
        worker = get_worker_info()
        try:
            return self._collate(read.values)
        except Exception as error:
            error.add_note(f"It was raised in collating {listed(self._dataset, read.records)}.")
            if worker is None:
                raise
            return Failure.of(error, worker.id)
        finally:
            now(Stage.GIVEN)
