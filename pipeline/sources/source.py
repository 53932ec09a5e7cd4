"""Base class of sources: examples that can be read repeatedly, in order or by number, and parts of them."""

import hashlib
import operator
import random
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from itertools import accumulate, chain, islice
from typing import Final, Generic, SupportsIndex, TypeVar, final, overload

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError
from pipeline.labels import Target, is_step_target, is_vector
from pipeline.sources.malformed import MAX_PROBLEMS, Skipped

V_co = TypeVar("V_co", covariant=True)


class Source(Dataset[Example[X_co]], ABC, Generic[X_co]):
    """Examples from a file or a data set.

    Each iteration starts at the first record. A source is a `torch.utils.data.Dataset` and can be sent to workers of a
    `DataLoader`.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of records.

        Raises:
            UnsizedError: if it is unknown until all records are read.
        """

    @abstractmethod
    def __iter__(self) -> Iterator[Example[X_co]]:
        """Read all records in order."""

    @abstractmethod
    def read(self, number: int) -> Example[X_co]:
        """Read the record of a number, from 0 to `len(self) - 1`. Users write `source[number]`.

        Raises:
            RecordError: if the record is malformed.
            UnsizedError: if records can only be read in order.
        """

    @abstractmethod
    def where(self, index: int) -> str:
        """Return the location of a record as errors show it: `reviews.csv, line 7`."""

    @overload
    def __getitem__(self, index: SupportsIndex) -> Example[X_co]: ...
    @overload
    def __getitem__(self, index: slice) -> "Source[X_co]": ...
    @override
    def __getitem__(self, index: SupportsIndex | slice) -> "Example[X_co] | Source[X_co]":
        """Read one record, or return the source of a slice of records; the errors are those of `read`.

        Raises:
            IndexError: if there is no record of that number.
        """
        if isinstance(index, slice):
            return self.select(range(*index.indices(len(self))))
        return self.read(check_index(index, len(self), type(self).__name__))

    def target(self, index: int) -> Target:
        """Return the target of a record; some sources need not read its input for that."""
        return self[index].target

    def inputs(self) -> Sequence[X_co]:
        """Return all inputs as a sequence, read on demand.

        Example:
            >>> from pipeline.sources import Records
            >>> inputs = Records(["to be", "or not"]).inputs()
            >>> list(inputs), inputs[1], len(inputs)
            (['to be', 'or not'], 'or not', 2)
        """
        return _Field(self, self._read_input, self._iterate_inputs)

    def targets(self) -> Sequence[Target]:
        """Return all targets as a sequence, read on demand."""
        return _Field(self, self.target, self._iterate_targets)

    def select(self, indices: Iterable[int]) -> "Source[X_co]":
        """Return the source of the records of some numbers, in the given order.

        Raises:
            IndexError: if there is no record of one of the numbers.
        """
        chosen = np.fromiter(indices, np.int64)
        count = len(self)
        wrong = chosen[(chosen < -count) | (chosen >= count)]
        if len(wrong):
            check_index(int(wrong[0]), count, type(self).__name__)
        return self._select(np.where(chosen < 0, chosen + count, chosen))

    def _select(self, numbers: NDArray[np.int64]) -> "Source[X_co]":
        return Selection(self, numbers)

    def filter(self, predicate: Callable[[Example[X_co]], bool]) -> "Source[X_co]":
        """Return the source of the records for which a function returns True. Reads all records once, immediately.

        Example:
            >>> from pipeline.sources import Records
            >>> long = Records(["to be", "or not to be"]).filter(lambda example: len(example.input) > 5)
            >>> list(long.inputs()), long.where(0)
            (['or not to be'], 'list, record 2')
        """
        return self.select(number for number, example in enumerate(self) if predicate(example))

    def split(self, fraction: float, *, seed: int = 0, stratify: bool = False) -> "tuple[Source[X_co], Source[X_co]]":
        """Split the records at random into two sources. Each keeps the order of the records.

        Args:
            fraction: share of the first source, between 0 and 1; its size is rounded.
            seed: a seed gives the same split on every platform and with every version.
            stratify: give both sources the same share of each class, up to rounding.

        Raises:
            OptionError: if the fraction is out of range, one of the sources would be empty, or `stratify` is set and
                there are several targets per record, or one per step.

        Example:
            >>> from pipeline.sources import Records
            >>> train, valid = Records(["a", "b", "c", "d", "e"]).split(0.8, seed=1)
            >>> len(train), len(valid)
            (4, 1)
        """
        if not 0 < fraction < 1:
            msg = (
                f"fraction must be between 0 and 1, got {fraction}; 0.9 puts nine of ten records into the first source."
            )
            raise OptionError(msg, fraction=fraction)
        count = len(self)
        if count < 2:
            msg = f"split needs 2 records or more, one for each source, got {count or 'none'}; add records."
            raise OptionError(msg, fraction=fraction, records=count)
        # Without classes, all records are one group.
        groups = _group_by_target(self) if stratify else [np.arange(count)]
        # Of Python's generators only `random()` is documented to give the same numbers in all versions. Sorting by
        # these numbers shuffles.
        generator = random.Random(seed)
        keys = np.array([generator.random() for _ in range(count)])
        is_first = np.zeros(count, np.bool_)
        for group, size in zip(groups, _apportion(list(map(len, groups)), fraction), strict=True):
            is_first[group[np.argsort(keys[group], kind="stable")[:size]]] = True
        if is_first.all() or not is_first.any():
            msg = (
                f"split({fraction}) of {count} records leaves one source empty; take another fraction or more records."
            )
            raise OptionError(msg, fraction=fraction, records=count)
        return self.select(np.flatnonzero(is_first)), self.select(np.flatnonzero(~is_first))

    @property
    def skipped(self) -> Skipped:
        """Malformed records that are skipped. The first access may read all records."""
        return Skipped()

    @property
    def fingerprint(self) -> str | None:
        """Digest of the content and the options; None if there is no way to compute it without parsing the records."""
        return None

    def _read_input(self, number: int) -> X_co:
        return self[number].input

    def _iterate_inputs(self) -> Iterator[X_co]:
        return (example.input for example in self)

    def _iterate_targets(self) -> Iterator[Target]:
        return (example.target for example in self)

    def __getitems__(self, indices: Sequence[int]) -> list[Example[X_co]]:
        """Read several records; `DataLoader` calls this."""
        return [self[index] for index in indices]


@final
class Selection(Source[X_co]):
    """Some records of another source: a slice, a split or filtered records."""

    def __init__(self, source: Source[X_co], indices: NDArray[np.int64]) -> None:
        self.source: Final = source
        self.indices: Final = indices

    @override
    def __len__(self) -> int:
        return len(self.indices)

    @override
    def __iter__(self) -> Iterator[Example[X_co]]:
        # Not `map`: a StopIteration that a data set raises by mistake would end it silently. A generator reports it.
        for number in self.indices.tolist():
            yield self.source.read(number)

    @override
    def read(self, number: int) -> Example[X_co]:
        return self.source.read(self._get_number(number))

    @override
    def where(self, index: int) -> str:
        return self.source.where(self._get_number(index))

    @override
    def target(self, index: int) -> Target:
        return self.source.target(self._get_number(index))

    @override
    def _select(self, numbers: NDArray[np.int64]) -> Source[X_co]:
        # A part of a part takes its records from the whole, which is faster than looking up each number several times.
        return Selection(self.source, self.indices[numbers])

    @property
    @override
    def skipped(self) -> Skipped:
        """Malformed records that the whole source skips."""
        return self.source.skipped

    @property
    @override
    def fingerprint(self) -> str | None:
        name = self.source.fingerprint
        return None if name is None else compute_digest("selection", name, self.indices.tobytes())

    def _get_number(self, index: int) -> int:
        """Return the number of a record in the whole source."""
        return int(self.indices[check_index(index, len(self), "Selection")])


@final
class Concat(Source[X_co]):
    """Records of several sources, one source after another.

    Args:
        sources: at least one source.

    Raises:
        OptionError: if there is no source.

    Example:
        >>> from pipeline.sources import Records
        >>> both = Concat(Records(["to be", "or not"]), Records(["that is"]))
        >>> len(both), both[2].input, both.where(2)
        (3, 'that is', 'list, record 1')
    """

    def __init__(self, *sources: Source[X_co]) -> None:
        if not sources:
            raise OptionError("Concat needs at least one source, got none; check that the list of files is not empty.")
        self.sources: Sequence[Source[X_co]] = sources

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(map(len, self.sources)))

    @override
    def __len__(self) -> int:
        return self._ends[-1]

    @override
    def __iter__(self) -> Iterator[Example[X_co]]:
        return chain.from_iterable(self.sources)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the sources that have a method `set_epoch`."""
        for source in self.sources:
            if (set_epoch := getattr(source, "set_epoch", None)) is not None:
                set_epoch(epoch)

    @override
    def read(self, number: int) -> Example[X_co]:
        source, place = self._find(number)
        return source[place]

    @override
    def where(self, index: int) -> str:
        source, place = self._find(index)
        return source.where(place)

    @override
    def target(self, index: int) -> Target:
        source, place = self._find(index)
        return source.target(place)

    @property
    @override
    def skipped(self) -> Skipped:
        kinds = Counter[str]()
        for source in self.sources:
            kinds.update(source.skipped.kinds)
        first = chain.from_iterable(source.skipped.first for source in self.sources)
        return Skipped(dict(kinds), tuple(islice(first, MAX_PROBLEMS)))

    @property
    @override
    def fingerprint(self) -> str | None:
        names = [source.fingerprint for source in self.sources]
        known = [name for name in names if name is not None]
        return compute_digest("concat", *known) if len(known) == len(names) else None

    def _find(self, index: SupportsIndex) -> tuple[Source[X_co], int]:
        """Return the source of a record, and the number of the record there."""
        number = check_index(index, len(self), "Concat")
        # Sources without records have the end of the source before them; bisect_right passes over them.
        source = bisect_right(self._ends, number)
        return self.sources[source], number - (self._ends[source - 1] if source else 0)


@final
class _Field(Sequence[V_co], Generic[V_co]):
    """Inputs or targets of a source."""

    def __init__(
        self, source: Source[object], read: Callable[[int], V_co], iterate: Callable[[], Iterator[V_co]]
    ) -> None:
        self._source, self._read, self._iterate = source, read, iterate

    @override
    def __len__(self) -> int:
        return len(self._source)

    @override
    def __iter__(self) -> Iterator[V_co]:
        return self._iterate()

    @overload
    def __getitem__(self, index: int) -> V_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[V_co]: ...
    @override
    def __getitem__(self, index: int | slice) -> V_co | Sequence[V_co]:
        if isinstance(index, slice):
            return [self._read(number) for number in range(*index.indices(len(self)))]
        return self._read(check_index(index, len(self), "the sequence"))


def check_index(index: SupportsIndex, count: int, source: str) -> int:
    """Return the number of a record, from 0, of an index that may be negative.

    Raises:
        IndexError: if there is no such record.
    """
    number = operator.index(index)
    if not -count <= number < count:
        msg = f"{source} has {count} records, numbered from 0, got index {number}."
        raise IndexError(msg)
    return number % count


def compute_digest(*parts: str | bytes) -> str:
    """Return a digest of some parts as 32 hexadecimal digits.

    Example:
        >>> compute_digest("ab", "c") == compute_digest("a", "bc"), len(compute_digest())
        (False, 32)
    """
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


def _group_by_target(source: Source[object]) -> list[NDArray[np.int64]]:
    """Return the numbers of the records of each class, classes in the order in which they occur."""
    groups: dict[object, list[int]] = {}
    for number, target in enumerate(source.targets()):
        is_several = is_vector(target) or isinstance(target, Mapping | AbstractSet)
        if is_several or is_step_target(target):
            got = "several targets" if is_several else "one target per step"
            msg = f"stratify=True needs one class per record, but {source.where(number)} has {got}."
            raise OptionError(msg, record=number)
        groups.setdefault(target, []).append(number)
    return [np.array(group, np.int64) for group in groups.values()]


def _apportion(sizes: Sequence[int], fraction: float) -> list[int]:
    """Return the share of each group, rounded so that the shares add up to the rounded share of all.

    The method of largest remainders: round down, then add 1 where most was lost.

    Example:
        >>> _apportion([5, 3, 2], 0.5)
        [3, 1, 1]
    """
    exact = np.array(sizes, np.float64) * fraction
    # A stable sort: among equal remainders the earlier group is rounded up.
    shares = np.floor(exact).astype(np.int64)
    missing = int(sum(sizes) * fraction + 0.5) - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return [int(share) for share in shares]
