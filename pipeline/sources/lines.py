"""Text files with one record per line, as text or as JSON."""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, final, overload

from typing_extensions import Unpack, override

from pipeline.checks.hints import describe
from pipeline.data.rows import Example, X_co
from pipeline.sources.fields import Fields, check_choice, choose_fields
from pipeline.sources.malformed import MalformedError
from pipeline.sources.parsed import FileOptions, FileSource
from pipeline.sources.text_file import FileInput, InputFile, Lines

Blank = Literal["keep", "drop"]


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
        file: the path, "-" for standard input, or an open file. May be compressed by gzip.
        target: the target of every record.
        blank: "keep" blank lines as records without text, or "drop" them.
        options: `encoding`, `on_bad_record` and `cache`, see `FileOptions`.

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
        super().__init__(file, [target], blank, **options)


@final
class JsonLines(FileSource[X_co]):
    r"""JSON objects, one per line. Blank lines are not records.

    Source: https://jsonlines.org; RFC 8259 (Bray 2017).

    Args:
        file: the path, "-" for standard input, or an open file. May be compressed by gzip.
        text: the field of the input if it is text; "text" by default.
        words: the field of the input if it is a list of words.
        target: the field of the target: a class by name or number, a list with a class per step, or null; None for no
            target.
        options: `encoding`, `on_bad_record` and `cache`, see `FileOptions`. A line that is not a
            JSON object, or in which a field is missing or has a wrong type, is malformed.

    Raises:
        OptionError: if an option is out of range, or both `text` and `words` are given.
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
        target: str | None = None,
        **options: Unpack[FileOptions[str]],
    ) -> None: ...
    @overload
    def __init__(
        self: "JsonLines[Sequence[str]]",
        file: FileInput,
        *,
        words: str,
        target: str | None = None,
        **options: Unpack[FileOptions[Sequence[str]]],
    ) -> None: ...
    def __init__(
        self,
        file: FileInput,
        *,
        text: str | None = None,
        words: str | None = None,
        target: str | None = None,
        **options: Unpack[FileOptions[Any]],
    ) -> None:
        super().__init__(file, **options)
        self._fields: Final[Fields[X_co]] = choose_fields(text, words, target, default="text")

    @override
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[X_co] | None]:
        def read() -> Example[X_co] | None:
            line = next(lines)
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
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
    def _get_options(self) -> tuple[object, ...]:
        return (self.encoding, self._fields)
