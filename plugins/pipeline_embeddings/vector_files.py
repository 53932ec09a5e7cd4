"""Read files of word vectors as a stream: word2vec's and fastText's text, GloVe's text, and safetensors."""

import gzip
import zlib
from codecs import BOM_UTF8
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Final, Protocol, TypeAlias, cast, final

import attrs
import safetensors
from safetensors import SafetensorError
from torch import Tensor

from pipeline.errors import OptionError, RecordError, SourceError

Wanted: TypeAlias = Callable[[str], bool]
"""Return whether the vector of a word is needed."""

_SPACES: Final = b" \t\r\n"


@final
@attrs.frozen
class Line:
    """A line of a file of vectors.

    Attributes:
        number: its number, from 1; for safetensors, the number of the row, from 1.
        word: the word; None if the line has none, because it is malformed.
        vector: the numbers as text, or as a tensor; None for a word that is not needed, or a malformed line.
        problem: the problem of a malformed line.
    """

    number: int
    word: str | None
    vector: "Sequence[bytes] | Tensor | None" = None
    problem: str | None = None


@contextmanager
def open_vectors(file: Path) -> Generator[IO[bytes]]:
    """Open a file of vectors, also one compressed by gzip.

    Raises:
        SourceError: if it cannot be read.
    """
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            if stream.read(len(BOM_UTF8)) != BOM_UTF8:  # else it would be a part of the first word
                stream.seek(0)
            yield cast("IO[bytes]", stream)
    except (OSError, EOFError, zlib.error) as error:  # the last two from a damaged file of gzip
        msg = f"{file} cannot be read: {error}; pass the path of a complete file."
        raise SourceError(msg, file=str(file)) from error


def read_words(file: Path) -> list[str]:
    """Return the words of a file with one per line.

    Raises:
        SourceError: if it cannot be read.
        RecordError: if a word is not UTF-8.
    """
    with open_vectors(file) as stream:
        text = stream.read()
    try:
        # Only at line feeds: a word may hold other characters that end lines in Unicode.
        words = text.decode().split("\n")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        msg = f"{file}, line {line}: its word is not UTF-8; write the words in UTF-8."
        raise RecordError(msg, file=str(file), line=line) from error
    words = [word.removesuffix("\r") for word in words]
    return words if words[-1] else words[:-1]


@final
class TextVectors:
    """The lines of a text file of vectors: a word and its numbers, separated by spaces or tabs.

    The first line may state the number of words and of features, as in files of word2vec and fastText. A word may hold
    spaces, as some of GloVe do: the numbers are the last ones of the line.

    Args:
        file: the path.

    Raises:
        SourceError: if it cannot be read.
        RecordError: if it is empty, or its first line is neither a header nor a word with numbers.
    """

    def __init__(self, file: Path) -> None:
        self.file: Final = file
        with open_vectors(file) as stream:
            first = stream.readline()
            fields = first.split()
            self.count: Final = int(fields[0]) if len(fields) == 2 and fields[0].isdigit() else None
            # A header is two integers. A vector of one feature is not one if it is no integer: `the 0.25`.
            self.has_header: Final = self.count is not None and fields[1].isdigit()
            self.size: Final = int(fields[1]) if self.has_header else _count_numbers(fields)
        if self.size < 1:
            msg = (
                f"{file}, line 1 must be `word number number ...`, or the number of words and of features, got "
                f"{first[:60]!r}; a binary file of word2vec must be converted to text first."
            )
            raise RecordError(msg, file=str(file), line=1)

    def read(self, wanted: Wanted) -> Iterator[Line]:
        """Yield all lines but the header. Only the numbers of wanted words are separated; none is converted.

        Raises:
            RecordError: if the file ends before the number of words in its header.
        """
        number = int(self.has_header)
        with open_vectors(self.file) as stream:
            if self.has_header:
                stream.readline()
            for raw in stream:
                number += 1
                line = raw.rstrip(_SPACES)
                # Fast path: most lines have a word without spaces, and most words are not needed.
                if line.count(b" ") == self.size and b"\t" not in line:
                    name, _, rest = line.partition(b" ")
                    numbers: Sequence[bytes] | None = None
                else:
                    parts = line.rsplit(None, self.size)
                    if len(parts) != self.size + 1:
                        yield Line(number, None, None, self._describe(line))
                        continue
                    name, rest, numbers = parts[0], b"", parts[1:]
                    # A word of several parts that ends in a number is a word before too many numbers.
                    ending = name.split()[1:][-1:]
                    if _count_numbers([b"", *numbers]) != self.size or any(map(_is_number, ending)):
                        yield Line(number, None, None, self._describe(line))
                        continue
                try:
                    word = name.decode()
                except UnicodeDecodeError:
                    yield Line(number, None, None, f"its word, {name[:40]!r}, is not UTF-8")
                    continue
                yield Line(number, word, (numbers or rest.split(b" ")) if wanted(word) else None)
        if self.has_header and self.count is not None and number - 1 < self.count:
            msg = (
                f"{self.file} ends after {number - 1:,} words, but its first line says {self.count:,}; "
                "copy or download the file again."
            )
            raise RecordError(msg, file=str(self.file), line=number)

    def _describe(self, line: bytes) -> str:
        return f"it has {_count_numbers(line.split())} numbers, not {self.size}"


class _Slice(Protocol):
    """A tensor of a file, of which nothing is read before it is indexed."""

    def get_shape(self) -> list[int]: ...
    def __getitem__(self, index: int, /) -> Tensor: ...


class _Tensors(Protocol):
    """An open file of safetensors."""

    def keys(self) -> list[str]: ...
    def get_slice(self, name: str, /) -> _Slice: ...


_open_file: Callable[..., AbstractContextManager[_Tensors]] = getattr(safetensors, "safe_open")  # noqa: B009
"""Typed by hand: the library leaves its types open."""


@final
class TensorVectors:
    """The rows of a matrix in a file of safetensors.

    Args:
        file: the path.
        words: the word of each row.
        tensor: the name of the matrix; by default the only matrix.

    Raises:
        SourceError: if the file cannot be read.
        OptionError: if the file does not have this matrix, or has several and `tensor` is None.
        RecordError: if it is not a file of safetensors, or there is not one word per row.
    """

    def __init__(self, file: Path, words: Sequence[str], tensor: str | None = None) -> None:
        self.file: Final = file
        self.words: Final = words
        with _open_tensors(file) as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 - no mapping
        matrices = [name for name, shape in shapes.items() if len(shape) == 2]
        if (len(matrices) != 1) if tensor is None else (tensor not in matrices):
            msg = (
                f"tensor must be the name of a matrix in {file}, which has {', '.join(matrices) or 'none'}, got "
                f"{tensor!r}; pass one of them."
            )
            raise OptionError(msg, tensor=tensor)
        self.tensor: Final[str] = matrices[0] if tensor is None else tensor
        rows, size = shapes[self.tensor]
        self.size: int = size
        if rows != len(words):
            msg = (
                f"{file} must have one row per word, got {rows:,} rows of {self.tensor!r} for {len(words):,} words; "
                "pass the words of this file in the order of its rows."
            )
            raise RecordError(msg, file=str(file))

    def read(self, wanted: Wanted) -> Iterator[Line]:
        """Yield all rows; only those of wanted words are read."""
        with _open_tensors(self.file) as tensors:
            matrix = tensors.get_slice(self.tensor)
            for row, word in enumerate(self.words):
                yield Line(row + 1, word, matrix[row] if wanted(word) else None)


@contextmanager
def _open_tensors(file: Path) -> Generator[_Tensors]:
    if not file.is_file():
        msg = f"{file} is not a file; pass the path of a file of safetensors."
        raise SourceError(msg, file=str(file))
    try:
        opened = _open_file(str(file), framework="pt")
    except SafetensorError as error:
        msg = f"{file} is not a file of safetensors: {error}."
        raise RecordError(msg, file=str(file)) from error
    with opened as tensors:
        yield tensors


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _count_numbers(fields: Sequence[bytes]) -> int:
    """Return how many fields at the end are numbers; the first field is never one, but a word."""
    count = 0
    for field in reversed(fields[1:]):
        if not _is_number(field):
            break
        count += 1
    return count
