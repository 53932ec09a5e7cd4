"""Text files with one record per line, as text or as JSON, and folders of text files."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, cast, final, overload

from typing_extensions import Unpack, override

from pipeline.checks.hints import describe
from pipeline.checks.options import check_choice
from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError, RecordError, SourceError
from pipeline.labels import Target
from pipeline.sources.malformed import ColumnValues, Fields, MalformedError, check_target, choose_fields
from pipeline.sources.parsed import FileOptions, FileSource
from pipeline.sources.record_table import Parsed
from pipeline.sources.source import Source
from pipeline.sources.text_file import FileInput, InputFile, Lines

Blank: TypeAlias = Literal["keep", "drop"]
PathTarget: TypeAlias = Literal["folder", "file"]


class LineSource(FileSource[str]):
    """Lines of one or several files, with one target per file."""

    def __init__(
        self,
        file: FileInput | list[InputFile],
        targets: Sequence[int | str | None],
        blank: Blank,
        **options: Unpack[FileOptions[str]],
    ) -> None:
        super().__init__(file, **options)
        check_choice("blank", blank, ("keep", "drop"))
        self._targets: Final = targets
        self._keeps_blank: Final = blank == "keep"

    @override
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[str] | None]:
        target, keeps_blank = self._targets[file], self._keeps_blank

        def read() -> Example[str] | None:
            text = next(lines).rstrip("\r\n")
            return Example(text, target) if text or keeps_blank else None

        return read

    @override
    def _get_options(self) -> tuple[object, ...]:
        return (self.encoding, list(self._targets), self._keeps_blank)


@final
class TextLines(LineSource):
    r"""Lines of a text file, one record per line.

    A line ends with `\n`, `\r\n` or `\r`, as Python's `open` reads it; a form feed, U+0085 and U+2028 are text. White
    space is kept.

    Args:
        file: the path, "-" for standard input, or an open file; may be compressed by gzip.
        target: the target of every record.
        blank: "keep" blank lines as records without text, or "drop" them.
        options: see `FileOptions`.

    Raises:
        OptionError: if an option is out of range.
        SourceError: if the file cannot be read.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "plays.txt"
        >>> _ = file.write_text("To be,\nor not\x85to be\n\nthat is")
        >>> source = TextLines(file)
        >>> len(source), source[1].input, source[-1].input, source.where(3).endswith("plays.txt, line 4")
        (4, 'or not\x85to be', 'that is', True)
    """

    def __init__(
        self,
        file: FileInput,
        *,
        target: int | str | None = None,
        blank: Blank = "keep",
        **options: Unpack[FileOptions[str]],
    ) -> None:
        try:
            checked = cast("int | str | None", check_target(target, "target"))
        except MalformedError as error:
            raise OptionError(error.reason, target=target) from error
        super().__init__(file, [checked], blank, **options)


@final
class JsonLines(FileSource[X_co]):
    r"""JSON objects, one per line. Blank lines are not records.

    Source: https://jsonlines.org; RFC 8259 (Bray 2017).

    Args:
        file: as for `TextLines`.
        text: the field of the input if it is text; "text" by default.
        words: the field of the input if it is a list of words.
        inputs: the fields of the input if they are several, for `FromColumns`; they may hold anything.
        target: the field of the target: a class by name or number, a list with a class per step, or null; None for no
            target. A list of fields gives several targets, a mapping of their values.
        options: see `FileOptions`. A line that is not a JSON object, or in which a field is missing or has a wrong
            type, is malformed.

    Raises:
        OptionError: if an option is out of range, or several of `text`, `words` and `inputs` are given.
        SourceError: if the file cannot be read.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "tagged.jsonl"
        >>> _ = file.write_text('{"tokens": ["Be", "quiet"], "tags": ["AUX", null]}\n')
        >>> source = JsonLines(file, words="tokens", target="tags")
        >>> source[0].input, source[0].target
        (['Be', 'quiet'], ['AUX', None])
    """

    @overload
    def __init__(
        self: "JsonLines[str]",
        file: FileInput,
        *,
        text: str = "text",
        target: str | Sequence[str] | None = None,
        **options: Unpack[FileOptions[str]],
    ) -> None: ...
    @overload
    def __init__(
        self: "JsonLines[Sequence[str]]",
        file: FileInput,
        *,
        words: str,
        target: str | Sequence[str] | None = None,
        **options: Unpack[FileOptions[Sequence[str]]],
    ) -> None: ...
    @overload
    def __init__(
        self: "JsonLines[ColumnValues]",
        file: FileInput,
        *,
        inputs: Sequence[str],
        target: str | Sequence[str] | None = None,
        **options: Unpack[FileOptions[ColumnValues]],
    ) -> None: ...
    def __init__(
        self,
        file: FileInput,
        *,
        text: str | None = None,
        words: str | None = None,
        inputs: Sequence[str] | None = None,
        target: str | Sequence[str] | None = None,
        **options: Unpack[FileOptions[Any]],
    ) -> None:
        super().__init__(file, **options)
        self._fields: Final[Fields[X_co]] = choose_fields(text, words, target, "text", inputs)

    @override
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[X_co] | None]:
        def read() -> Example[X_co] | None:
            line = next(lines)
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                # Only now, since almost no line is blank. A line of spaces is malformed, as for other readers.
                if not line.rstrip("\r\n"):
                    return None
                msg = f"a line must be JSON: {error}"
                raise MalformedError("json", msg) from error
            if not isinstance(value, dict):
                msg = f"a line must be a JSON object, as in {{...}}, got {describe(value)}"
                raise MalformedError("json", msg)
            return self._fields.make_example(value)

        return read

    @override
    def parse_columns(self, lines: Sequence[str]) -> Mapping[str, object]:
        return cast("Mapping[str, object]", json.loads("".join(lines)))

    @override
    def name_columns(self, value: object) -> Mapping[str, object]:
        return cast("Mapping[str, object]", value) if self._fields.inputs else {str(self._fields.input): value}

    @override
    def _get_options(self) -> tuple[object, ...]:
        return (self.encoding, self._fields)


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
        options: see `FileOptions`.

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
        files, self._targets = _find_files(self.folder, pattern, target)
        self.files: list[Path] = files
        super().__init__(list(map(InputFile, self.files)), **options)

    @property
    @override
    def has_lines(self) -> bool:
        return False

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
        # A generator, because a parser ends with StopIteration, as this one does after its only record.
        def read_file() -> Iterator[Example[str]]:
            yield Example("".join(lines), self._targets[file])  # one record, even of an empty file

        return read_file().__next__

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

    The options are those of `TextFolder` and of `TextLines`, and so are the errors.

    Example:
        >>> import pathlib
        >>> folder = pathlib.Path(getfixture("tmp_path"))
        >>> _ = (folder / "Greek.txt").write_text("Adamou\n"), (folder / "Czech.txt").write_text("Abl\n")
        >>> [(example.input, example.target) for example in lines_of(folder, target="file")]
        [('Abl', 'Czech'), ('Adamou', 'Greek')]
    """
    files, targets = _find_files(Path(folder), pattern, target)
    return LineSource(list(map(InputFile, files)), targets, blank, **options)


def _find_files(folder: Path, pattern: str, target: PathTarget | None) -> tuple[list[Path], list[str | None]]:
    """Return the files of a folder, in the order of their paths, and the targets that they have by their paths.

    Raises:
        RecordError: if a file is not in a subfolder although the subfolder's name is its target.
        SourceError: if there is no such folder, or no such file in it.
    """
    if target is not None:
        check_choice("target", target, ("folder", "file"))
    if not folder.is_dir():
        msg = f"{str(folder)!r} is not a folder; check the path, which is relative to {str(Path.cwd())!r}."
        raise SourceError(msg, folder=str(folder))
    # The order of `glob` depends on the file system; the same folder must give the same records everywhere.
    files = sorted((file for file in folder.glob(pattern) if file.is_file()), key=lambda file: file.parts)
    if not files:
        msg = f"{str(folder)!r} has no file {pattern!r}; select others with pattern=, for example '**/*.md'."
        raise SourceError(msg, folder=str(folder), pattern=pattern)
    for file in files if target == "folder" else []:
        if file.parent == folder:
            msg = f"{str(file)!r} must be in a subfolder of {str(folder)!r} whose name is its target; move it into one."
            raise RecordError(msg, file=str(file))
    if target is None:
        return files, [None] * len(files)
    return files, [file.stem if target == "file" else file.parent.name for file in files]
