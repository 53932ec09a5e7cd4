"""Sources whose records may be malformed, and what becomes of those."""

from abc import abstractmethod
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Final, Generic, SupportsIndex, TypeAlias, TypeVar, cast

import attrs
import numpy as np
from typing_extensions import override

from pipeline.data.rows import Example, X_co
from pipeline.errors import SourceError
from pipeline.sources.framing import Places
from pipeline.sources.index import without
from pipeline.sources.kept import Store, digest
from pipeline.sources.problems import REMEMBERED, Malformed, Problem, Skipped, UnfitError, checked_malformed
from pipeline.sources.source import Source, checked_index

Span: TypeAlias = tuple[int, int]
"""Where a record stands in what holds it: its first byte and the one behind it, or its number and the next."""


@attrs.frozen(eq=False)
class _Screen:
    """Which records are left out."""

    gaps: Places
    skipped: Skipped


_NOTHING: Final = _Screen(np.empty(0, np.int64), Skipped())


R = TypeVar("R")
"""A record as it lies in what holds it, before anything is made of it: bytes, as an example."""


class Screened(Source[X_co], Generic[R, X_co]):
    """A source that reads its records from spans, and says what becomes of the malformed ones.

    With `on_bad_record="raise"`, records are looked at when they are read, and not before. Otherwise all of them are read
    once when their number, or one of them by number, is first asked for: only then it is known which are left out.
    With a `cache`, what was found is kept there, and the next start does not read them again; what a function decides
    is not kept.
    """

    def __init__(self, on_bad_record: Malformed[X_co], cache: str | PathLike[str] | None) -> None:
        checked_malformed(on_bad_record)
        self.on_bad_record: Malformed[X_co] = on_bad_record
        self.cache: Path | None = None if cache is None else Path(cache)
        self._screen: _Screen | None = _NOTHING if on_bad_record == "raise" else None

    @abstractmethod
    def _all(self) -> Iterator[tuple[Span, R]]:
        """All records and where they stand, in their order; without an index, where that is possible."""

    @abstractmethod
    def _count(self) -> int:
        """How many records there are, malformed ones included."""

    @abstractmethod
    def _span(self, record: int) -> Span:
        """Where a record stands; malformed ones are counted."""

    @abstractmethod
    def _read(self, span: Span) -> R:
        """The record that stands there."""

    @abstractmethod
    def _parsed(self, raw: R, span: Span) -> Example[X_co]:
        """What a record says.

        Raises:
            UnfitError: if it is malformed.
        """

    @abstractmethod
    def _problem(self, raw: R, span: Span, error: UnfitError) -> Problem:
        """What is wrong with a record, and where it stands."""

    @abstractmethod
    def _place(self, span: Span) -> str:
        """Where a record stands, as errors name it."""

    @override
    def __len__(self) -> int:
        return self._count() - len(self._screened().gaps)

    @override
    def __iter__(self) -> Iterator[Example[X_co]]:
        for span, raw in self._all():
            example = self._examined(raw, span)
            if example is not None:
                yield example

    @override
    def __getitem__(self, index: SupportsIndex) -> Example[X_co]:
        span = self._span_of(index)
        return self._settled(self._read(span), span)

    def _settled(self, raw: R, span: Span) -> Example[X_co]:
        """A record that is not left out."""
        example = self._examined(raw, span)
        if example is None:
            msg = (
                f"{self._place(span)}: the function given as on_bad_record= left this record out, but took it before; it "
                "must decide alike each time."
            )
            raise SourceError(msg)
        return example

    @override
    def where(self, index: int) -> str:
        return self._place(self._span_of(index))

    @property
    @override
    def skipped(self) -> Skipped:
        return self._screened().skipped

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        if self.cache is not None and self.on_bad_record == "skip":
            state["_screen"] = None  # it is kept
        return state

    def _span_of(self, index: SupportsIndex) -> Span:
        return self._span(without(self._screened().gaps, checked_index(index, len(self), type(self).__name__)))

    def _examined(self, raw: R, span: Span) -> Example[X_co] | None:
        """A record, or what is taken in its place; None if it is left out."""
        try:
            return self._parsed(raw, span)
        except UnfitError as error:
            if self.on_bad_record == "skip":
                return None
            problem = self._problem(raw, span, error)
            if self.on_bad_record == "raise":
                raise problem.error() from None
            return self.on_bad_record(problem)

    def _screened(self) -> _Screen:
        if self._screen is None:
            name = self.fingerprint
            if self.cache is None or name is None:
                self._screen = self._screening()
            else:
                self._screen = self._kept_screen(Store(self.cache), digest("screen", name))
        return self._screen

    def _kept_screen(self, store: Store, name: str) -> _Screen:
        kept = store.load(f"screen-{name}")
        if kept is None:
            screen = self._screening()
            notes = attrs.asdict(screen.skipped)
            store.save(f"screen-{name}", {"gaps": screen.gaps}, notes)
            return screen
        first = [Problem(**problem) for problem in kept.notes["first"]]
        return _Screen(cast("Places", kept.arrays["gaps"]), Skipped(kept.notes["kinds"], first))

    def _screening(self) -> _Screen:
        gaps: list[int] = []
        kinds: dict[str, int] = {}
        first: list[Problem] = []
        for record, (span, raw) in enumerate(self._all()):
            try:
                self._parsed(raw, span)
            except UnfitError as error:
                if callable(self.on_bad_record) and self.on_bad_record(self._problem(raw, span, error)) is not None:
                    continue
                gaps.append(record)
                kinds[error.kind] = kinds.get(error.kind, 0) + 1
                if len(first) < REMEMBERED:
                    first.append(self._problem(raw, span, error))
        return _Screen(np.array(gaps, np.int64), Skipped(kinds, tuple(first)))
