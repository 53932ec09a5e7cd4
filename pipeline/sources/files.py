"""Sources that read one file of text, record by record."""

from abc import abstractmethod
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Final, cast

import numpy as np
from typing_extensions import override

from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError
from pipeline.sources.framing import Framing, Places, every_line, first_byte, frames
from pipeline.sources.index import Index
from pipeline.sources.kept import Store, digest
from pipeline.sources.opened import Opened
from pipeline.sources.problems import Malformed, Problem, UnfitError, beginning
from pipeline.sources.screened import Screened, Span

_BLOCK: Final = 2**20


class FileSource(Screened[bytes, X_co]):
    """Records of one file of text in UTF-8, which may begin with a byte-order mark.

    Read in order, nothing is looked up before. Read by number, an index of 8 bytes a record is made first, by looking
    for line ends alone; with a `cache`, it is kept there, and memory-mapped at the next start.
    """

    keep_blank: bool = False
    headers: int = 0

    def __init__(
        self, file: str | PathLike[str], *, on_bad_record: Malformed[X_co], cache: str | PathLike[str] | None
    ) -> None:
        super().__init__(on_bad_record, cache)
        self.file: Final = Path(file)
        if self.file.suffix in {".gz", ".bz2", ".xz", ".zst"}:
            msg = (
                f"{str(self.file)!r} is compressed, and no record of such a file can be read by itself; "
                "unpack it, or write its records to a Parquet file."
            )
            raise OptionError(msg, file=str(self.file))
        self._opened: Final = Opened(self.file)
        self._index: Index | None = None
        self._counted: tuple[int, int] = (0, 1)

    @property
    def framing(self) -> Framing:
        """Where records end."""
        return every_line

    @abstractmethod
    def decoded(self, record: bytes) -> Example[X_co]:
        """What a record's bytes say.

        Raises:
            UnfitError: if it is malformed.
        """

    def named(self, record: bytes) -> str:  # noqa: ARG002 - for formats whose records have names
        """What a record calls itself, to be added to its place in errors; empty if it has no name."""
        return ""

    def options(self) -> tuple[object, ...]:
        """All that decides what the file's bytes mean, beside them."""
        return ()

    @property
    @override
    def fingerprint(self) -> str | None:
        if callable(self.on_bad_record):
            return None
        return digest(type(self).__name__, repr(self.options()), self.on_bad_record, self._opened.fingerprint())

    @override
    def _all(self) -> Iterator[tuple[Span, bytes]]:
        for spans in self._spans():
            # One look at the file for some thousands of records.
            begin = spans[0][0]
            content = self._opened.read(begin, spans[-1][1])
            for span in spans:
                yield span, content[span[0] - begin : span[1] - begin]

    def _spans(self) -> Iterator[list[Span]]:
        """Where the records stand, some thousands at a time."""
        headers = self.headers
        for some in frames(self._opened, self.framing):
            kept = np.ones_like(some.blank) if self.keep_blank else ~some.blank
            starts, stops = some.starts[kept][headers:].tolist(), some.stops[kept][headers:].tolist()
            headers = max(0, headers - int(kept.sum()))
            if starts:
                yield list(zip(starts, stops, strict=True))

    @override
    def _count(self) -> int:
        return len(self._indexed())

    @override
    def _span(self, record: int) -> Span:
        return self._indexed().span(record)

    @override
    def _read(self, span: Span) -> bytes:
        return self._opened.read(*span)

    @override
    def _parsed(self, raw: bytes, span: Span) -> Example[X_co]:
        return self.decoded(raw)

    @override
    def _problem(self, raw: bytes, span: Span, error: UnfitError) -> Problem:
        return Problem(
            where=self._place(span),
            file=str(self.file),
            number=self._line(span[0]),
            lines=raw.rstrip(b"\r\n").count(b"\n") + 1,
            kind=error.kind,
            reason=error.reason,
            text=beginning(raw),
        )

    @override
    def _place(self, span: Span) -> str:
        name = self.named(self._opened.read(*span))
        return f"{self.file}, line {self._line(span[0])}" + (f" ({name})" if name else "")

    def _line(self, place: int) -> int:
        """The number of a line, from 1; counted when it is asked for, on from where it was asked for before."""
        before, line = self._counted if self._counted[0] <= place else (0, 1)
        for start in range(before, place, _BLOCK):
            line += self._opened.read(start, min(place, start + _BLOCK)).count(b"\n")
        self._counted = (place, line)
        return line

    def _indexed(self) -> Index:
        if self._index is None:
            if self.cache is None:
                self._index = self._made_index()
            else:
                name = digest("index", type(self).__name__, repr(self.options()), self._opened.fingerprint())
                self._index = self._kept_index(Store(self.cache), f"index-{name}")
        return self._index

    def _kept_index(self, store: Store, name: str) -> Index:
        kept = store.load(name)
        if kept is None:
            made = self._made_index()
            kept = store.save(name, {"bounds": made.bounds, "gaps": made.gaps}, {"file": str(self.file)})
        return Index(cast("Places", kept.arrays["bounds"]), cast("Places", kept.arrays["gaps"]))

    def _made_index(self) -> Index:
        found = frames(self._opened, self.framing)
        return Index.of(found, keep_blank=self.keep_blank, headers=self.headers)

    @override
    def __getstate__(self) -> dict[str, object]:
        # What is kept in files is mapped again by whoever needs it; sent to a worker, it would be copied.
        state = super().__getstate__()
        return state if self.cache is None else {**state, "_index": None}

    def first_record(self) -> bytes:
        """The bytes of the first record that is not blank, a header included; none if the file is empty."""
        for some in frames(self._opened, self.framing):
            for number in np.flatnonzero(~some.blank)[:1]:
                return self._opened.read(int(some.starts[number]), int(some.stops[number]))
        return b""

    @property
    def is_empty(self) -> bool:
        """Whether the file holds nothing, or a byte-order mark alone."""
        return self._opened.size == first_byte(self._opened)


def text_of(record: bytes) -> str:
    """Bytes as text.

    Raises:
        UnfitError: if they are no UTF-8, or hold a NUL.
    """
    try:
        text = record.decode("utf-8")
    except UnicodeDecodeError as error:
        msg = (
            f"a record must be UTF-8, but byte {error.start + 1} of it is {record[error.start]:#04x} "
            f"({error.reason}); convert the file, as by `iconv -t UTF-8`"
        )
        raise UnfitError("encoding", msg) from error
    if "\0" in text:
        msg = f"a record must be text, but its character {text.index(chr(0)) + 1} is a NUL, as in UTF-16 or binary data"
        raise UnfitError("nul", msg)
    return text
