"""Several sources, one after another."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, chain
from typing import SupportsIndex, final

from typing_extensions import override

from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError
from pipeline.labels import Target
from pipeline.sources.kept import digest
from pipeline.sources.problems import REMEMBERED, Skipped
from pipeline.sources.source import Source, checked_index


@final
class Together(Source[X_co]):
    """The records of several sources, one source after another: the files of one data set.

    Args:
        sources: one or more.

    Raises:
        OptionError: if there is none.

    Example:
        >>> from pipeline.sources import Records
        >>> both = Together(Records(["to be", "or not"]), Records(["that is"]))
        >>> len(both), both[2].input, both.where(2)
        (3, 'that is', 'list, record 1')
    """

    def __init__(self, *sources: Source[X_co]) -> None:
        if not sources:
            raise OptionError("Together needs one source or more, but none arrived; look whether a folder is empty.")
        self.sources: Sequence[Source[X_co]] = sources
        self._ends: list[int] | None = None

    @override
    def __len__(self) -> int:
        return self._sizes()[-1]

    @override
    def __iter__(self) -> Iterator[Example[X_co]]:
        return chain.from_iterable(self.sources)

    @override
    def __getitem__(self, index: SupportsIndex) -> Example[X_co]:
        source, place = self._at(index)
        return source[place]

    @override
    def where(self, index: int) -> str:
        source, place = self._at(index)
        return source.where(place)

    @override
    def target(self, index: int) -> Target:
        source, place = self._at(index)
        return source.target(place)

    @property
    @override
    def skipped(self) -> Skipped:
        kinds: dict[str, int] = {}
        for source in self.sources:
            for kind, count in source.skipped.kinds.items():
                kinds[kind] = kinds.get(kind, 0) + count
        first = tuple(chain.from_iterable(source.skipped.first for source in self.sources))
        return Skipped(kinds, first[:REMEMBERED])

    @property
    @override
    def fingerprint(self) -> str | None:
        names = [source.fingerprint for source in self.sources]
        known = [name for name in names if name is not None]
        return digest("together", *known) if len(known) == len(names) else None

    def _at(self, index: SupportsIndex) -> tuple[Source[X_co], int]:
        ends = self._sizes()
        number = checked_index(index, ends[-1], "Together")
        source = bisect_right(ends, number)
        return self.sources[source], number - (ends[source - 1] if source else 0)

    def _sizes(self) -> list[int]:
        if self._ends is None:
            self._ends = list(accumulate(map(len, self.sources)))
        return self._ends
