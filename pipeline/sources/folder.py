"""Folders of text files: one record per file, or one per line."""

from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Final, Literal, TypeAlias, final

from typing_extensions import Unpack, override

from pipeline.data.rows import Example
from pipeline.errors import RecordError, SourceError
from pipeline.labels import Target
from pipeline.sources.fields import check_choice
from pipeline.sources.lines import Blank, LineSource
from pipeline.sources.parsed import FileOptions, FileSource
from pipeline.sources.record_table import Parsed
from pipeline.sources.source import Source
from pipeline.sources.text_file import InputFile, Lines

PathTarget: TypeAlias = Literal["folder", "file"]


@final
class TextFolder(FileSource[str]):
    """Text files of a folder and its subfolders, one record per file, in the order of their paths.

    Paths are compared part by part, by code points: `B` comes before `a`, and `10` before `9`. The text is the whole
    file with its last line end, without a byte-order mark. For one record per line see `lines_of`.

    Args:
        folder: the path.
        pattern: selects files, as in `Path.glob`.
        target: the target of a file: the name of its "folder", or the name of the "file" without its suffix; None for
            no target.
        options: `encoding`, `on_bad_record` and `cache`, see `FileOptions`.

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
        **options: Unpack[FileOptions[str]],
    ) -> None:
        self.folder: Final = Path(folder)
        self.files: Final = find_files(self.folder, pattern)
        self._targets: Final = [get_path_target(file, self.folder, target) for file in self.files]
        super().__init__(list(map(InputFile, self.files)), **options)

    @override
    def target(self, index: int) -> Target:
        return self._targets[self._get_raw_number(index)]

    @override
    def _iterate_targets(self) -> Iterator[Target]:
        return map(self.target, range(len(self)))

    @override
    def _count_raw(self) -> int:
        return len(self.files)

    @override
    def _locate(self, parsed: Parsed) -> str:
        return str(self.files[parsed.file])

    @override
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[str] | None]:
        is_read = False

        def read() -> Example[str]:
            nonlocal is_read
            if is_read:
                raise StopIteration
            is_read = True
            return Example("".join(lines), self._targets[file])

        return read

    @override
    def _get_options(self) -> tuple[object, ...]:
        return (self.encoding, self._targets)


def lines_of(
    folder: str | PathLike[str],
    *,
    pattern: str = "**/*.txt",
    target: PathTarget | None = None,
    blank: Blank = "keep",
    **options: Unpack[FileOptions[str]],
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
    return LineSource(list(map(InputFile, files)), targets, blank, **options)


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Return the files of a folder, in the order of their paths.

    Raises:
        SourceError: if there is no such folder, or no such file in it.
    """
    if not folder.is_dir():
        msg = f"{str(folder)!r} is not a folder; check the path, which is relative to {str(Path.cwd())!r}."
        raise SourceError(msg, folder=str(folder))
    # The order of `glob` depends on the file system; the same folder must give the same records everywhere.
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
