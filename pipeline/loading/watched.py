"""A dataset and a collate function that say what they have in hand, and give what they raise as an answer."""

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, final

from torch.utils.data import Dataset, get_worker_info
from typing_extensions import override

from pipeline.loading.failures import Failure
from pipeline.loading.fetching import Numbered, fetched
from pipeline.loading.hands import Hands, Stage, now

R = TypeVar("R")
T = TypeVar("T")


@final
class Watched(Dataset[R]):
    """A dataset that is asked for each batch by its number in the plan, and behind it its records.

    In a worker it writes down what it reads, and what it raises is its answer: so it arrives as it is.
    """

    def __init__(self, dataset: Numbered[R], hands: Hands | None) -> None:
        self._dataset: Final = dataset
        self._hands: Final = hands

    @override
    def __getitem__(self, index: int) -> R:
        return self._dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[R] | Failure:
        """The records of a batch."""
        batch, *records = indices
        worker = get_worker_info()
        if worker is None or self._hands is None:
            return fetched(self._dataset, records)
        self._hands.take(worker.id, batch)
        try:
            return fetched(self._dataset, records)
        except Exception as error:  # noqa: BLE001 - it is raised where training is
            return Failure.of(error, worker.id)


@final
class Collate(Generic[R, T]):
    """A collate function that says when it begins and ends; in a worker, what it raises is its answer."""

    def __init__(self, collate: Callable[[list[R]], T]) -> None:
        self._collate: Final = collate

    def __call__(self, rows: list[R] | Failure) -> T | Failure:
        """A batch of what was read; a failure as it is."""
        if isinstance(rows, Failure):
            return rows
        worker = get_worker_info()
        if worker is None:
            return self._collate(rows)
        now(Stage.COLLATING)
        try:
            return self._collate(rows)
        except Exception as error:  # noqa: BLE001 - it is raised where training is
            return Failure.of(error, worker.id)
        finally:
            now(Stage.GIVEN)
