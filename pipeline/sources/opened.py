"""A file that is read by place: memory-mapped, opened anew in every process, refused once it has changed."""

import hashlib
import mmap
import os
import stat
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

from pipeline.errors import SourceError
from pipeline.sources.kept import digest

_SAMPLES: Final = 64
_SAMPLE: Final = 65_536
_AT_ONCE: Final = 128
"""How many files are mapped at the same time."""


@final
class Opened:
    """The bytes of a file.

    Pickled, it is the path alone, and what the file was: a worker opens it for itself, and refuses another.

    Args:
        path: the file.

    Raises:
        SourceError: if there is none, or it cannot be read.

    Example:
        >>> import pathlib
        >>> written = pathlib.Path(getfixture("tmp_path")) / "a.txt"
        >>> _ = written.write_bytes(b"to be")
        >>> Opened(written).read(3, 5)
        b'be'
    """

    def __init__(self, path: Path) -> None:
        self.path: Final = path
        self._was = _state(_stat(path))
        self._map: mmap.mmap | None = None

    @property
    def size(self) -> int:
        """How many bytes it had when it was first seen."""
        return self._was[0]

    def read(self, start: int, stop: int) -> bytes:
        """Some of its bytes.

        Raises:
            SourceError: if the file has changed since it was first seen.
        """
        stop = min(stop, self.size)
        if start >= stop:
            return b""  # an empty file cannot be mapped
        content = self._mapped()[start:stop]
        self.refuse_change()
        return content

    def find_line_end(self, start: int, around: int) -> int:
        """Where the last line ends that ends before a place, or, if none does, the first that ends after it."""
        if around >= self.size:
            return self.size
        content = self._mapped()
        return content.rfind(b"\n", start, around) + 1 or content.find(b"\n", around) + 1 or self.size

    def fingerprint(self) -> str:
        """A name for the file as it is: of its size, its time of change to the nanosecond, and samples of its content.

        The samples are 64 KiB each, at 64 places evenly spread, and at its end. A file whose content changed elsewhere,
        while both its size and its time were kept or put back, has the same name.
        """
        places = {self.size * sample // _SAMPLES for sample in range(_SAMPLES)} | {max(0, self.size - _SAMPLE)}
        content = hashlib.blake2b(digest_size=16)
        for place in sorted(places):
            content.update(self.read(place, min(place + _SAMPLE, self.size)))
        return digest("file", *map(str, self._was), content.digest())

    def forget(self) -> None:
        """Let go of what is mapped; it is mapped again when it is read."""
        self._map = None  # not closed: another thread may be reading

    def refuse_change(self) -> None:
        """Look whether it is still what it was when it was first seen.

        Raises:
            SourceError: if it has another size or time of change, or cannot be read any more.
        """
        if _state(_stat(self.path)) != self._was:
            msg = f"{str(self.path)!r} has changed since its records were first looked up; make its source anew."
            raise SourceError(msg, file=str(self.path))

    def _mapped(self) -> mmap.mmap:
        found = self._map
        if found is None:
            try:
                with self.path.open("rb") as file:
                    found = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except (OSError, ValueError) as error:
                raise _unreadable(self.path, error) from error
            self.refuse_change()
            self._map = found
            _forget_all_but_the_latest(self)
        return found

    def __getstate__(self) -> Mapping[str, object]:
        return {"path": self.path, "_was": self._was, "_map": None}


_latest: deque["weakref.ref[Opened]"] = deque()


def _forget_all_but_the_latest(opened: Opened) -> None:
    """Let go of files that were mapped long ago: a process may have only so many open, and a folder may hold more."""
    _latest.append(weakref.ref(opened))
    while len(_latest) > _AT_ONCE:
        other = _latest.popleft()()
        if other is not None and other is not opened:
            other.forget()


def _stat(path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if stat.S_ISDIR(found.st_mode):
        msg = f"{str(path)!r} is a folder, but a file is wanted; folders of text go to TextFolder or lines_of."
        raise SourceError(msg, file=str(path))
    return found


def _state(found: os.stat_result) -> tuple[int, int]:
    return found.st_size, found.st_mtime_ns


def _unreadable(path: Path, error: Exception) -> SourceError:
    msg = f"{str(path)!r} cannot be read: {error}; name a file that is there, as a path from {str(Path.cwd())!r}."
    return SourceError(msg, file=str(path))
