"""A folder of text files."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

from typing_extensions import override

from pipeline.data.rows import Example
from pipeline.errors import RecordError, SourceError
from pipeline.labels import Target
from pipeline.sources.fields import checked_choice
from pipeline.sources.files import text_of
from pipeline.sources.kept import digest
from pipeline.sources.opened import Opened
from pipeline.sources.problems import Malformed, Problem, UnfitError, beginning
from pipeline.sources.screened import Screened, Span

Naming: TypeAlias = Literal["folder", "file"]


@final
class TextFolder(Screened[bytes, str]):
    """A folder of text files, a record a file, and in those below it, in the order of their paths.

    Paths are compared part by part, each by its characters' numbers: `B` comes before `a`, `10` before `9`. The text is
    the whole file, its last line end included, but not a byte-order mark. For a record a line, see `lines_of`.

    Args:
        folder: the path.
        pattern: which files: as in `Path.glob`, below the folder.
        target: the target of a file: the name of the `folder` that it lies in, or of the `file`, without its suffix;
            None for none.
        on_bad_record: what becomes of files that are no UTF-8, or hold a NUL: `raise`, `skip`, or a function of a `Problem`
            that gives an example in its place, or None.
        cache: a folder in which is kept which files are left out; None keeps nothing.

    Raises:
        RecordError: if a file lies in the folder itself, where the folder's name is to be the target.
        SourceError: if there is no such folder, or no such file in it.

    Example:
        >>> import pathlib
        >>> folder = pathlib.Path(getfixture("tmp_path"))
        >>> for name, text in (("ham/1.txt", "See you at noon."), ("spam/1.txt", "You have won!")):
        ...     (folder / name).parent.mkdir()
        ...     _ = (folder / name).write_text(text)
        >>> [(example.input, example.target) for example in TextFolder(folder, target="folder")]
        [('See you at noon.', 'ham'), ('You have won!', 'spam')]
    """

    def __init__(
        self,
        folder: str | PathLike[str],
        *,
        pattern: str = "**/*.txt",
        target: Naming | None = None,
        on_bad_record: Malformed[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(on_bad_record, cache)
        self.folder: Final = Path(folder)
        self.files: Final = text_files(self.folder, pattern)
        self._targets: Final = [target_of(file, self.folder, target) for file in self.files]

    @property
    @override
    def fingerprint(self) -> str | None:
        """Of each file's name, size and time of change; its content is not read."""
        if callable(self.on_bad_record):
            return None
        found = ((file.relative_to(self.folder).as_posix(), file.stat()) for file in self.files)
        names = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in found]
        return digest("folder", self.on_bad_record, repr(self._targets), *names)

    @override
    def target(self, index: int) -> Target:
        return self._targets[self._span_of(index)[0]]

    @override
    def _all(self) -> Iterator[tuple[Span, bytes]]:
        return (((number, number + 1), self._read((number, number + 1))) for number in range(len(self.files)))

    @override
    def _count(self) -> int:
        return len(self.files)

    @override
    def _span(self, record: int) -> Span:
        return record, record + 1

    @override
    def _read(self, span: Span) -> bytes:
        opened = Opened(self.files[span[0]])
        return opened.read(0, opened.size)

    @override
    def _parsed(self, raw: bytes, span: Span) -> Example[str]:
        return Example(text_of(raw).removeprefix("\ufeff"), self._targets[span[0]])

    @override
    def _problem(self, raw: bytes, span: Span, error: UnfitError) -> Problem:
        return Problem(
            where=self._place(span),
            file=str(self.files[span[0]]),
            number=span[0] + 1,
            lines=raw.count(b"\n") + (not raw.endswith(b"\n")),
            kind=error.kind,
            reason=error.reason,
            text=beginning(raw),
        )

    @override
    def _place(self, span: Span) -> str:
        return str(self.files[span[0]])


def text_files(folder: Path, pattern: str) -> list[Path]:
    """The files of a folder, in the order of their paths.

    Raises:
        SourceError: if there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        msg = f"{str(folder)!r} is no folder; name one that is there, as a path from {str(Path.cwd())!r}."
        raise SourceError(msg, folder=str(folder))
    found = sorted((file for file in folder.glob(pattern) if file.is_file()), key=lambda file: file.parts)
    if not found:
        msg = f"{str(folder)!r} has no file {pattern!r}; say which with pattern=, '**/*.md' as an example."
        raise SourceError(msg, folder=str(folder), pattern=pattern)
    return found


def target_of(file: Path, folder: Path, target: Naming | None) -> str | None:
    """What a file's place says of its records.

    Raises:
        RecordError: if it lies in the folder itself, where the folder's name is to be the target.
    """
    checked_choice("target", target, ("folder", "file", None))
    if target != "folder":
        return None if target is None else file.stem
    if file.parent == folder:
        msg = f"{str(file)!r} lies in no folder below {str(folder)!r} whose name could be its target; move it into one."
        raise RecordError(msg, file=str(file))
    return file.parent.name
