"""What a source is: records that can be read again, in order or by number."""

import operator
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Generic, SupportsIndex

from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.data.rows import Example, X_co
from pipeline.labels import Target
from pipeline.sources.problems import Skipped


class Source(Dataset[Example[X_co]], ABC, Generic[X_co]):
    """Examples out of a file or a data set.

    Iterating begins anew each time. A source is a `Dataset` of torch, and can be sent to its workers: what is open is
    opened again there.
    """

    @abstractmethod
    def __len__(self) -> int:
        """How many records there are.

        Raises:
            UnsizedError: if that is not known before they are read.
        """

    @abstractmethod
    @override
    def __getitem__(self, index: SupportsIndex) -> Example[X_co]:
        """One record, by its number; from the end, if that is below 0.

        Raises:
            IndexError: if there is none of that number.
            RecordError: if it is malformed.
            UnsizedError: if records can only be read from the beginning.
        """

    @abstractmethod
    def __iter__(self) -> Iterator[Example[X_co]]:
        """All records, in their order."""

    @abstractmethod
    def where(self, index: int) -> str:
        """The place of a record, as errors name it: `reviews.csv, line 7`."""

    def target(self, index: int) -> Target:
        """The target of a record: without its input, where that spares reading it."""
        return self[index].target

    @property
    def skipped(self) -> Skipped:
        """The malformed records that are left out. The first time, all records are read for it."""
        return Skipped()

    @property
    def fingerprint(self) -> str | None:
        """A name for the records as they are now, found without reading them all; None if there is none."""
        return None

    def __getitems__(self, indices: Sequence[int]) -> list[Example[X_co]]:
        """Several records, by their numbers: what a `DataLoader` asks for."""
        return [self[index] for index in indices]


def checked_index(index: SupportsIndex, count: int, source: str) -> int:
    """A number of a record, from 0.

    Raises:
        IndexError: if there is none of that number.
    """
    number = operator.index(index)
    if not -count <= number < count:
        msg = f"{source} has {count} records, 0 to {count - 1}, but number {number} was asked for."
        raise IndexError(msg)
    return number % count


def described_column(column: Any) -> str:  # noqa: ANN401 - a name or a number
    """A column as errors name it."""
    return f"column {column}" if isinstance(column, int) else repr(column)
