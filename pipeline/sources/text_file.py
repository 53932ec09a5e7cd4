"""Input files: their identity, so that a change is noticed, and their lines, decoded."""

import codecs
import gzip
import hashlib
import io
import os
import stat
import sys
import zlib
from collections import deque
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from os import PathLike
from pathlib import Path
from typing import IO, Any, Final, TypeAlias, cast, final

from typing_extensions import Buffer, override

from pipeline.errors import OptionError, RecordError, SourceError
from pipeline.sources.malformed import MalformedError

FileInput: TypeAlias = str | PathLike[str] | IO[bytes] | IO[str]
"""A path, "-" for standard input, or an open file. Anything but a regular file is read once, from where it stands."""

_BLOCK: Final = 2**20
_GZIP: Final = b"\x1f\x8b"
_MARKS: Final = {
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
    "utf-32-be": codecs.BOM_UTF32_BE,
}

_read_pipes: Final = set[tuple[int, int]]()
"""Device and inode of each pipe under /dev that was read: opened again, it would be empty."""


@final
class InputFile:
    """A file, and its state at the time when it was first seen: size, times, inode and, once read, a digest.

    The state is compared at each access. The time of the last change of a file's status cannot be set by programs, so a
    change of content is noticed even if size and modification time are restored. If only times differ and the digest of
    the content is known, the file is read again, and accepted if the content is the same.

    Attributes:
        name: the path, or the name of the stream.
        path: the path; None for a stream.

    Raises:
        SourceError: if the file does not exist or is a folder.
    """

    def __init__(self, file: FileInput, encoding: str = "utf-8") -> None:
        self.path: Path | None = None
        self._stream: Path | IO[bytes] | None = None
        self._state: tuple[int, ...] = ()
        self._digest: str | None = None
        if file == "-":
            self.name: str = "<stdin>"
            self._stream = sys.stdin.buffer
        elif not isinstance(file, str | PathLike):
            self.name = str(getattr(file, "name", type(file).__name__))
            if isinstance(file, io.StringIO):
                self._stream = io.BytesIO(file.read().encode(encoding, "surrogatepass"))
            else:  # files that are opened as text have their bytes in `buffer`
                self._stream = cast("IO[bytes]", getattr(file, "buffer", file))
        else:
            path = Path(file)
            self.name = str(path)
            status = self._get_status(path)
            if stat.S_ISDIR(status.st_mode):
                msg = f"{self.name!r} is a folder, not a file; read a folder of text with TextFolder or lines_of."
                raise SourceError(msg, file=self.name)
            if path.suffix in {".bz2", ".xz", ".zst", ".zip"}:
                msg = (
                    f"{self.name!r} must not be compressed, except with gzip; decompress it, or compress it with gzip."
                )
                raise OptionError(msg, file=self.name)
            if stat.S_ISREG(status.st_mode):
                self.path, self._state = path, _get_state(status)
            else:  # a pipe or a device
                self._stream = path

    @property
    def digest(self) -> str:
        """SHA-256 of the content. Reads the file if it was not read before."""
        if self._digest is None:
            with self.open() as file:
                while file.read(_BLOCK):
                    pass
        assert self._digest is not None
        return self._digest

    @contextmanager
    def open(self) -> Generator[io.BufferedReader]:
        """Open the file for reading its bytes; after the last one the digest is known.

        Raises:
            SourceError: if the file cannot be read, or has changed, or is a stream that was read before.
        """
        self.check_unchanged()
        source, self._stream = self.path or self._stream, None
        if source is None:
            raise self._build_stream_error()
        with ExitStack() as stack:
            if isinstance(source, Path):
                try:
                    source = stack.enter_context(source.open("rb", buffering=0))
                except OSError as error:
                    raise self._explain(error) from error
            if self.path is None and self.name.startswith(("<stdin>", "/dev/")):
                self._reject_second_read(os.fstat(source.fileno()))
            yield io.BufferedReader(_Hashing(source, self), _BLOCK)

    def check_unchanged(self) -> None:
        """Compare the file with its state when it was first seen.

        Raises:
            SourceError: if it has changed, or does not exist any more.
        """
        if self.path is None or (state := _get_state(self._get_status(self.path))) == self._state:
            return
        # `touch`, `chmod` and a copy to another disk change the state but not the content. That is worth one more read,
        # because an error in the middle of a long training is expensive.
        if self._digest is not None and state[0] == self._state[0]:
            with self.path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == self._digest:
                    self._state = state
                    return
        raise self._build_change_error()

    def follow_read(self, stream: IO[bytes], digest: str | None) -> None:
        """Compare the open file with its state when it was first seen; at its end, also the digest of this read.

        Raises:
            SourceError: if it has changed.
        """
        is_same = self.path is None or _get_state(os.fstat(stream.fileno())) == self._state
        if not is_same or (digest is not None and self._digest not in (None, digest)):
            raise self._build_change_error()
        self._digest = self._digest or digest

    def _reject_second_read(self, status: os.stat_result) -> None:
        if stat.S_ISFIFO(status.st_mode):
            if (status.st_dev, status.st_ino) in _read_pipes:
                raise self._build_stream_error()
            _read_pipes.add((status.st_dev, status.st_ino))

    def _build_stream_error(self) -> SourceError:
        msg = f"{self.name} is a stream and was read before; put its records into a list or a file."
        return SourceError(msg, file=self.name)

    def _get_status(self, path: Path) -> os.stat_result:
        try:
            return path.stat()
        except (OSError, ValueError) as error:  # ValueError: the path has a NUL
            raise self._explain(error) from error

    def _explain(self, error: Exception) -> SourceError:
        msg = f"{self.name!r} cannot be read: {error}; check the path, which is relative to {str(Path.cwd())!r}."
        return SourceError(msg, file=self.name)

    def _build_change_error(self) -> SourceError:
        msg = f"{self.name!r} has changed since it was first read; create the source again."
        return SourceError(msg, file=self.name)

    def __getstate__(self) -> dict[str, object]:
        if self._stream is not None and not isinstance(self._stream, Path):
            msg = f"{self.name} is an open stream and cannot be sent to another process; read a record first."
            raise SourceError(msg, file=self.name)
        return self.__dict__


class _Hashing(io.RawIOBase):
    """Bytes of a file, with a digest of all that were read."""

    def __init__(self, stream: IO[bytes], file: InputFile) -> None:
        super().__init__()
        self._stream = stream
        self._file = file
        self._hash = hashlib.sha256()

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Buffer, /) -> int:
        view = memoryview(buffer)
        content = self._stream.read(len(view))
        # Hashing here costs 0.5 s per gigabyte; a second pass over the file would cost its reading, too.
        self._hash.update(content)
        self._file.follow_read(self._stream, None if content else self._hash.hexdigest())
        view[: len(content)] = content
        return len(content)


@final
class Lines:
    r"""Iterator over the lines of a file with their ends: `\n`, `\r\n` or `\r`, as Python's `open` splits lines.

    It knows the lines of the current record, and can take back some of them.

    Attributes:
        first: number of the first line of the record, from 1.
        taken: lines of the record.
    """

    def __init__(self, text: io.TextIOWrapper, name: str) -> None:
        self.first: int = 1
        self.taken: list[str] = []
        self._text = text
        self._name = name
        self._number = 0
        self._returned: deque[str] = deque()

    def begin_record(self) -> None:
        """Start a new record at the next line."""
        self.first = self._number + 1
        self.taken = []

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        if self._returned:
            line = self._returned.popleft()
        else:
            try:
                line = next(self._text)
            except UnicodeError as error:  # UTF-16 without a byte-order mark raises the base class
                msg = f"{self._name}, after line {self._number}: {error}; say which encoding the file has: encoding=..."
                raise RecordError(msg, file=self._name, line=self._number + 1, kind="encoding") from error
            except (OSError, EOFError, zlib.error) as error:
                if isinstance(error, SourceError):
                    raise
                msg = f"{self._name!r} cannot be read after line {self._number}: {error}; check that it is complete."
                raise SourceError(msg, file=self._name) from error
        self._number += 1
        self.taken.append(line)
        return line

    # The csv module and the first lines of a table need this: they read lines that belong to later records.
    def return_lines(self, keep: int) -> None:
        """Take back the lines of the current record after the first `keep`: they are read again."""
        returned = self.taken[keep:]
        del self.taken[keep:]
        self._returned.extendleft(reversed(returned))
        self._number -= len(returned)

    def check_characters(self) -> None:
        """Check the characters of the current record."""
        for line in self.taken:
            # Most lines are ASCII, and `isascii` only looks at a flag of the string.
            if not line.isascii():
                try:
                    line.encode()
                except UnicodeEncodeError as error:
                    # A byte that cannot be decoded is read as a lone surrogate of this number.
                    byte = ord(line[error.start]) - 0xDC00
                    msg = (
                        f"a record must be {self._text.encoding.removesuffix('-sig').upper()}, but character "
                        f"{error.start + 1} of a line is the byte {byte:#04x}; say which encoding the file has, "
                        'for example encoding="cp1252"'
                    )
                    raise MalformedError("encoding", msg) from error
            if "\0" in line:
                msg = (
                    f"a record must be text, but character {line.index(chr(0)) + 1} of a line is a NUL, as in binary "
                    'data or in UTF-16; for the latter, say encoding="utf-16"'
                )
                raise MalformedError("nul", msg)


@contextmanager
def open_lines(file: InputFile, encoding: str) -> Generator[Lines]:
    """Open a text file, compressed by gzip or not. Bytes that cannot be decoded become lone surrogates."""
    with file.open() as binary:
        is_gzip = binary.peek(len(_GZIP)).startswith(_GZIP)
        # The magic number is not valid UTF-8, and no other encoding begins a text with it, so the name does not matter.
        content: Any = gzip.GzipFile(fileobj=binary) if is_gzip else binary
        # "utf-16" and "utf-8-sig" leave out a byte-order mark by themselves; encodings that say the order do not.
        mark = _MARKS.get(codecs.lookup(encoding).name, b"")
        if mark and content.peek(len(mark)).startswith(mark):
            content.read(len(mark))
        # newline="" leaves line ends as they are: the csv module must see those inside of quotes.
        yield Lines(io.TextIOWrapper(content, encoding, "surrogateescape", newline=""), file.name)


def check_encoding(encoding: str) -> str:
    """Return the codec of an encoding; that of UTF-8 leaves out a byte-order mark.

    Raises:
        OptionError: if Python has no such text encoding.
    """
    try:
        " ".encode(encoding)
    except (LookupError, UnicodeError) as error:
        msg = f'encoding must be a text encoding that Python knows, such as "utf-8" or "cp1252", got {encoding!r}.'
        raise OptionError(msg, encoding=encoding) from error
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def _get_state(found: os.stat_result) -> tuple[int, ...]:
    # st_ctime is the time of the last change of the inode. Unlike st_mtime it cannot be set by `os.utime`, so it shows
    # that a file was written even if `cp -p`, `tar` or `rsync -t` restored st_mtime.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino
