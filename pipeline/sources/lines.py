"""Files of text, a record a line."""

from os import PathLike
from pathlib import Path
from typing import Final, Literal, final

from typing_extensions import override

from pipeline.data.rows import Example
from pipeline.labels import Target
from pipeline.sources.fields import checked_choice
from pipeline.sources.files import FileSource, text_of
from pipeline.sources.folder import Naming, target_of, text_files
from pipeline.sources.framing import without_line_end
from pipeline.sources.problems import Malformed
from pipeline.sources.source import Source
from pipeline.sources.together import Together


@final
class TextLines(FileSource[str]):
    r"""A file of text, a record a line.

    A line ends with `\n` or `\r\n`, and with nothing else. A blank line is a record of no text.

    Args:
        file: the path.
        target: the target of every record.
        blank: what becomes of blank lines: `keep` them as empty records, or `drop` them.
        on_bad_record: what becomes of lines that are no UTF-8, or hold a NUL: `raise`, `skip`, or a function of a `Problem`
            that gives an example in its place, or None.
        cache: a folder in which the index is kept; None keeps none.

    Raises:
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
        file: str | PathLike[str],
        *,
        target: int | str | None = None,
        blank: Literal["keep", "drop"] = "keep",
        on_bad_record: Malformed[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(file, on_bad_record=on_bad_record, cache=cache)
        checked_choice("blank", blank, ("keep", "drop"))
        self._target: Final = target
        self.keep_blank: bool = blank == "keep"

    @override
    def decoded(self, record: bytes) -> Example[str]:
        return Example(text_of(without_line_end(record)), self._target)

    @override
    def options(self) -> tuple[object, ...]:
        return (self._target, self.keep_blank)

    @override
    def target(self, index: int) -> Target:
        return self._target


def lines_of(
    folder: str | PathLike[str],
    *,
    pattern: str = "**/*.txt",
    target: Naming | None = None,
    blank: Literal["keep", "drop"] = "keep",
    on_bad_record: Malformed[str] = "raise",
    cache: str | PathLike[str] | None = None,
) -> Source[str]:
    r"""The lines of all text files of a folder, a record a line, files in the order of their paths.

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
    place = Path(folder)
    files = [
        TextLines(file, target=target_of(file, place, target), blank=blank, on_bad_record=on_bad_record, cache=cache)
        for file in text_files(place, pattern)
    ]
    return Together(*files)
