r"""Where the records of a file end, found block by block, without reading them.

A line ends with `\n` or `\r\n`, and with nothing else: a lone `\r`, a form feed, U+0085 and U+2028 stand inside of real
texts.
"""

import re
from collections.abc import Callable, Iterator
from typing import Final, TypeAlias, final

import attrs
import numpy as np
from numpy.typing import NDArray

from pipeline.sources.opened import Opened

Places: TypeAlias = NDArray[np.int64]

_BLOCK: Final = 4 * 2**20
_BOM: Final = b"\xef\xbb\xbf"
_NEWLINE: Final = 10
_RETURN: Final = 13


@final
@attrs.frozen(eq=False)
class Lines:
    """Whole lines of a file, in a row.

    Attributes:
        start: where they begin.
        content: their bytes.
        ends: where each ends, behind its line end, counted from `start`.
    """

    start: int
    content: bytes
    ends: Places

    @property
    def blank(self) -> NDArray[np.bool_]:
        """Which of them hold nothing but their end."""
        content = np.frombuffer(self.content, np.uint8)
        sizes = np.diff(self.ends, prepend=0)
        last = content[self.ends - 1] == _NEWLINE
        before = content[np.maximum(self.ends - 2, 0)] == _RETURN
        found: NDArray[np.bool_] = last & ((sizes == 1) | ((sizes == 2) & before))
        return found


Framing: TypeAlias = Callable[[Lines, bool], NDArray[np.bool_]]
"""Says of each line whether a record ends with it, given whether one is under way where they begin."""


def first_byte(file: Opened) -> int:
    """Where text begins: behind a byte-order mark, if there is one."""
    return len(_BOM) if file.read(0, len(_BOM)) == _BOM else 0


def lines(file: Opened, block: int = _BLOCK) -> Iterator[Lines]:
    """All lines of a file, some megabytes at a time."""
    start = first_byte(file)
    while start < file.size:
        stop = file.find_line_end(start, start + block)
        content = file.read(start, stop)
        ends = np.flatnonzero(np.frombuffer(content, np.uint8) == _NEWLINE).astype(np.int64) + 1
        if not content.endswith(b"\n"):
            ends = np.append(ends, len(content))
        yield Lines(start, content, ends)
        start = stop


def every_line(some: Lines, inside: bool) -> NDArray[np.bool_]:  # noqa: ARG001 - as every framing
    """A record a line."""
    return np.ones(len(some.ends), np.bool_)


def paragraphs(some: Lines, inside: bool) -> NDArray[np.bool_]:  # noqa: ARG001 - as every framing
    """A record ends with a blank line."""
    return some.blank


@final
@attrs.frozen
class QuotedLines:
    """A record ends with a line, unless a quote is open there.

    Attributes:
        delimiter: what stands between fields, one byte.
        quote: what opens and closes a field in which delimiters and line ends are text, one byte. It opens a field
            where one begins, and nowhere else; two in a row within it are one of its characters.
    """

    delimiter: bytes
    quote: bytes

    def __call__(self, some: Lines, inside: bool, /) -> NDArray[np.bool_]:
        """Of each line, whether a record ends with it."""
        quotes = np.flatnonzero(np.frombuffer(some.content, np.uint8) == self.quote[0])
        # Only lines that hold a quote can change whether one is open: all the others are not looked at.
        touched = np.unique(np.searchsorted(some.ends, quotes, side="right"))
        states = np.empty(len(touched) + 1, np.bool_)
        states[0] = inside
        opening = re.compile(re.escape(self.delimiter + self.quote))
        closing = re.compile(b"[^%b]*(?:%b%b[^%b]*)*%b(?!%b)" % ((re.escape(self.quote),) * 6))
        for number, line in enumerate(touched.tolist()):
            begin = int(some.ends[line - 1]) if line else 0
            content = some.content[begin : int(some.ends[line])]
            states[number + 1] = self._ends_open(content, bool(states[number]), opening, closing)
        return ~states[np.searchsorted(touched, np.arange(len(some.ends)), side="right")]

    def _ends_open(self, line: bytes, inside: bool, opening: re.Pattern[bytes], closing: re.Pattern[bytes]) -> bool:
        place = 0
        if not inside and line.startswith(self.quote):
            place, inside = len(self.quote), True
        while True:
            if inside:
                closed = closing.match(line, place)
                if closed is None:
                    return True
                place = closed.end()
            opened = opening.search(line, place)
            if opened is None:
                return False
            place, inside = opened.end(), True


@final
@attrs.frozen(eq=False)
class Frame:
    """Records of a file, in a row.

    Attributes:
        starts: the first byte of each.
        stops: the byte behind each.
        blank: which of them are one blank line.
    """

    starts: Places
    stops: Places
    blank: NDArray[np.bool_]


def frames(file: Opened, framing: Framing, block: int = _BLOCK) -> Iterator[Frame]:
    """The records of a file, block after block, without a gap; the last need not end with a line end."""
    begin, inside = first_byte(file), False
    for some in lines(file, block):
        is_end = framing(some, inside)
        inside = not is_end[-1]
        stops = some.ends[is_end] + some.start
        starts = np.concatenate([np.array([begin], np.int64), stops])[: len(stops)]
        begin = int(stops[-1]) if len(stops) else begin
        # A record that is one blank line begins where that line does.
        lines_begin = np.concatenate([np.zeros(1, np.int64), some.ends[:-1]]) + some.start
        yield Frame(starts, stops, some.blank[is_end] & (starts == lines_begin[is_end]))
    if begin < file.size:
        yield Frame(np.array([begin], np.int64), np.array([file.size], np.int64), np.zeros(1, np.bool_))


def without_line_end(record: bytes) -> bytes:
    r"""A record without the line end behind it.

    Example:
        >>> without_line_end(b"a\r\n"), without_line_end(b"a\r"), without_line_end(b"a\n\n")
        (b'a', b'a\r', b'a\n')
    """
    if record.endswith(b"\r\n"):
        return record[:-2]
    return record[:-1] if record.endswith(b"\n") else record
