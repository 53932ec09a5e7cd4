"""Folders of text files: one record per file, or one per line."""

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

from typing_extensions import override

from pipeline.data.rows import Example
from pipeline.errors import RecordError, SourceError
from pipeline.labels import Target
from pipeline.sources.fields import check_choice
from pipeline.sources.lines import Blank, LineSource
from pipeline.sources.malformed import MalformedError, OnBadRecord, Problem, shorten
from pipeline.sources.source import Source, compute_digest
from pipeline.sources.text_file import InputFile, check_encoding, open_lines
from pipeline.sources.validated import Validated

PathTarget: TypeAlias = Literal["folder", "file"]


@final
class TextFolder(Validated[str]):
    """Text files of a folder and its subfolders, one record per file, in the order of their paths.

    Paths are compared part by part, by code points: `B` comes before `a`, and `10` before `9`. The text is the whole
    file with its last line end, without a byte-order mark. For one record per line see `lines_of`.

    Args:
        folder: the path.
        pattern: selects files, as in `Path.glob`.
        target: the target of a file: the name of its "folder", or the name of the "file" without its suffix; None for
            no target.
        encoding: the files' encoding.
        on_bad_record: rule for files with bytes that cannot be decoded, or a NUL: "raise", "skip", or a function of a
            `Problem` that returns a replacement or None.
        cache: folder for the list of skipped files; None stores nothing.

    Raises:
        RecordError: if a file is not in a subfolder although the subfolder's name is its target.
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
        target: PathTarget | None = None,
        encoding: str = "utf-8",
        on_bad_record: OnBadRecord[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(on_bad_record, cache)
        self.encoding: Final = check_encoding(encoding)
        self.folder: Final = Path(folder)
        self.files: Final = find_files(self.folder, pattern)
        self._targets: Final = [get_path_target(file, self.folder, target) for file in self.files]
        self._inputs: Final = list(map(InputFile, self.files))

    @property
    @override
    def fingerprint(self) -> str | None:
        """Digest of the options, and of the names and contents of the files, which are read for it."""
        if callable(self.on_bad_record):
            return None
        names = [file.relative_to(self.folder).as_posix() for file in self.files]
        contents = [file.digest for file in self._inputs]
        return compute_digest("folder", self.encoding, self.on_bad_record, repr(self._targets), *names, *contents)

    @override
    def target(self, index: int) -> Target:
        return self._targets[self._get_raw_number(index)]

    @override
    def _iterate_raw(self) -> Iterator[Example[str] | Problem]:
        return map(self._read_raw, range(len(self.files)))

    @override
    def _count_raw(self) -> int:
        return len(self.files)

    @override
    def _read_raw(self, number: int) -> Example[str] | Problem:
        with open_lines(self._inputs[number], self.encoding) as lines:
            text = "".join(lines)
            try:
                lines.check_characters()
            except MalformedError as error:
                name = self._locate_raw(number)
                return Problem(name, name, number + 1, len(lines.taken), error.kind, error.reason, shorten(text))
        return Example(text, self._targets[number])

    @override
    def _locate_raw(self, number: int) -> str:
        return str(self.files[number])


def lines_of(
    folder: str | PathLike[str],
    *,
    pattern: str = "**/*.txt",
    target: PathTarget | None = None,
    blank: Blank = "keep",
    encoding: str = "utf-8",
    on_bad_record: OnBadRecord[str] = "raise",
    cache: str | PathLike[str] | None = None,
) -> Source[str]:
    r"""Return the lines of all text files of a folder, one record per line, files in the order of their paths.

    The options are those of `TextFolder` and of `TextLines`.

    Raises:
        RecordError: as `TextFolder`.
        SourceError: as `TextFolder`.

    Example:
        >>> import pathlib
        >>> folder = pathlib.Path(getfixture("tmp_path"))
        >>> _ = (folder / "Greek.txt").write_text("Adamou\n"), (folder / "Czech.txt").write_text("Abl\n")
        >>> [(example.input, example.target) for example in lines_of(folder, target="file")]
        [('Abl', 'Czech'), ('Adamou', 'Greek')]
    """
    files = find_files(Path(folder), pattern)
    targets = [get_path_target(file, Path(folder), target) for file in files]
    inputs = list(map(InputFile, files))
    return LineSource(inputs, targets, blank=blank, encoding=encoding, on_bad_record=on_bad_record, cache=cache)


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder, in the order of their paths.

    Raises:
        SourceError: if there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        msg = f"{str(folder)!r} is not a folder; check the path, which is relative to {str(Path.cwd())!r}."
        raise SourceError(msg, folder=str(folder))
    found = sorted((file for file in folder.glob(pattern) if file.is_file()), key=lambda file: file.parts)
    if not found:
        msg = f"{str(folder)!r} has no file {pattern!r}; select others with pattern=, for example '**/*.md'."
        raise SourceError(msg, folder=str(folder), pattern=pattern)
    return found


def get_path_target(file: Path, folder: Path, target: PathTarget | None) -> str | None:
    """Return the target that a file has by its path.

    Raises:
        RecordError: if the file is not in a subfolder although the subfolder's name is its target.
    """
    check_choice("target", target, ("folder", "file", None))
    if target != "folder":
        return None if target is None else file.stem
    if file.parent == folder:
        msg = f"{str(file)!r} must be in a subfolder of {str(folder)!r} whose name is its target; move it into one."
        raise RecordError(msg, file=str(file))
    return file.parent.name
