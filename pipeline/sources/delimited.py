"""Comma-separated and tab-separated values, parsed by Python's `csv` module.

Source: RFC 4180 (Shafranovich 2005), https://www.rfc-editor.org/rfc/rfc4180; and the documentation of `csv`.
"""

import csv
from collections.abc import Callable, Iterator
from typing import Final, Literal, TypeAlias, final

from typing_extensions import Unpack, override

from pipeline.checks.options import check_choice
from pipeline.data.rows import Example
from pipeline.errors import OptionError, RecordError
from pipeline.labels import Target
from pipeline.sources.malformed import Column, MalformedError, find_column
from pipeline.sources.parsed import FileOptions, FileSource
from pipeline.sources.text_file import FileInput, Lines

EmptyTarget: TypeAlias = Literal["none", "keep", "raise"]

_MAX_FIELD: Final = 2**24
"""Longest field in characters. A longer one is taken for a quote that is never closed."""


class ColumnOptions(FileOptions[str], total=False):
    """Options of `Tsv`, explained in `Delimited`."""

    text: Column
    target: Column | None
    header: bool
    empty_target: EmptyTarget


class Delimited(FileSource[str]):
    """A table in text: one record per line, fields separated by a character. `Csv` and `Tsv` are special cases.

    Quoted fields may contain line ends; errors name the first line of such a record. Blank lines are not records. White
    space around fields is kept, also in targets and in the names of columns. After a quote that is not closed
    correctly, reading continues at the line after the quote, so only one line is lost.

    Args:
        file: as for `TextLines`.
        text: the column of the input, by name or by number from 0.
        target: likewise the column of the target, a class name; None for no target.
        header: True if the first record has the names of the columns.
        delimiter: separates fields: one ASCII character.
        quote: encloses fields that contain delimiters or line ends: one ASCII character, or None.
        empty_target: meaning of an empty field in the target's column: no target ("none"), an empty text ("keep"),
            which is a class only if `Labels` lists it, or a malformed record ("raise").
        options: see `FileOptions`. A record with another number of fields than the first, or with wrong quotes, is
            malformed.

    Raises:
        OptionError: if an option is out of range.
        RecordError: if the file has no records, its first record is malformed, or there is no column of that name.
        SourceError: if the file cannot be read.
    """

    def __init__(
        self,
        file: FileInput,
        *,
        text: Column = "text",
        target: Column | None = None,
        header: bool = True,
        delimiter: str = ",",
        quote: str | None = '"',
        empty_target: EmptyTarget = "none",
        **options: Unpack[FileOptions[str]],
    ) -> None:
        super().__init__(file, **options)
        for name, character in (("delimiter", delimiter), ("quote", quote)):
            if character is not None and (len(character) != 1 or not character.isascii() or character in "\r\n"):
                msg = f"{name} must be one ASCII character that is not a line end, got {character!r}."
                raise OptionError(msg, **{name: character})
        if delimiter == quote:
            msg = f"delimiter and quote must differ, got {quote!r} for both."
            raise OptionError(msg, delimiter=delimiter, quote=quote)
        check_choice("empty_target", empty_target, ("none", "keep", "raise"))
        self._delimiter: Final = delimiter
        self._quote: Final = quote
        self._has_header: Final = header
        self._empty_target: Final = empty_target
        self._text: Final = text
        self._target: Final = target
        self.columns: list[str] = []
        self._prepare()

    @override
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[str] | None]:
        # A larger limit of the user stays; the limit of the csv module, 128 KiB, is too small for long documents.
        csv.field_size_limit(max(_MAX_FIELD, csv.field_size_limit()))
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._quote else csv.QUOTE_NONE
        reader = csv.reader(lines, delimiter=self._delimiter, quotechar=self._quote, quoting=quoting, strict=True)
        self.columns = self._read_first(reader, lines)
        text = self._get_number(self._text)
        target = None if self._target is None else self._get_number(self._target)
        width = len(self.columns)

        def read() -> Example[str] | None:
            fields = _read_fields(reader, lines)
            if not fields:
                return None  # the csv module gives an empty list for a blank line
            if len(fields) != width:
                msg = f"a record must have {width} fields, as the first has, got {len(fields)}"
                raise MalformedError("fields", msg)
            return Example(fields[text], None if target is None else self._get_target(fields[target]))

        return read

    @override
    def _get_options(self) -> tuple[object, ...]:
        target = None if self._target is None else self._get_number(self._target)
        text = self._get_number(self._text)
        return (self.encoding, self._delimiter, self._quote, self._has_header, self._empty_target, text, target)

    def _read_first(self, reader: Iterator[list[str]], lines: Lines) -> list[str]:
        """Read the first record: it determines the number of columns and, if it is a header, their names."""
        name = self._files[0].name
        try:
            fields: list[str] = []
            while not fields:
                lines.begin_record()
                fields = _read_fields(reader, lines)
                lines.check_characters()
        except StopIteration:
            if self._has_header:
                msg = f"{name!r} has no records, but must have a header; write one, or say header=False."
                raise RecordError(msg, file=name) from None
            return []
        except MalformedError as error:
            msg = (
                f"{name}, line {lines.first}, first record: {error.reason}; fix it, because it determines the columns."
            )
            raise RecordError(msg, file=name, kind=error.kind) from error
        if not self._has_header:
            lines.return_lines(0)  # it is a record, and read again as one
        return fields

    def _get_number(self, column: Column) -> int:
        """Return the number of a column."""
        name = self._files[0].name
        if isinstance(column, int):
            if self.columns and not 0 <= column < len(self.columns):
                msg = f"{name} has {len(self.columns)} columns, numbered from 0, got column {column}."
                raise RecordError(msg, file=name, column=column)
            return column
        if not self._has_header:
            msg = f"with header=False a column must be given by number, from 0, got {column!r}."
            raise OptionError(msg, column=column)
        if len(self.columns) == 1 and column not in self.columns:
            for delimiter in ";\t,|":
                if delimiter in self.columns[0]:
                    msg = (
                        f"{name} has no column {column!r} but only one, {self.columns[0]!r}; if {delimiter!r} "
                        f"separates fields, read it with Delimited(..., delimiter={delimiter!r})."
                    )
                    raise RecordError(msg, file=name, column=column)
        return find_column(column, self.columns, name)

    def _get_target(self, field: str) -> Target:
        if field or self._empty_target == "keep":
            return field
        if self._empty_target == "raise":
            msg = f"column {self._target!r} must have a class, got an empty field"
            raise MalformedError("target", msg)
        return None


@final
class Csv(Delimited):
    r"""Comma-separated values with a header; fields may be quoted. All options are those of `Delimited`.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "reviews.csv"
        >>> _ = file.write_text('text,stars\n"Fine, I say",5\n"Dull:\nvery ""dull"".",1\n')
        >>> for example in Csv(file, text="text", target="stars"):
        ...     print(repr(example.input), example.target)
        'Fine, I say' 5
        'Dull:\nvery "dull".' 1
    """


@final
class Tsv(Delimited):
    r"""Tab-separated values with a header, in which quotes are text. The other options are those of `Delimited`.

    Source: IANA, text/tab-separated-values (Lindner 1993).

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "names.tsv"
        >>> _ = file.write_text("Ashikaga\tJapanese\n'Abbas\tEnglish\n")
        >>> list(Tsv(file, text=0, target=1, header=False).inputs())
        ['Ashikaga', "'Abbas"]
    """

    def __init__(self, file: FileInput, **options: Unpack[ColumnOptions]) -> None:
        super().__init__(file, delimiter="\t", quote=None, **options)


def _read_fields(reader: Iterator[list[str]], lines: Lines) -> list[str]:
    """Read a record; a blank line has no fields."""
    try:
        return next(reader)
    except csv.Error as error:
        count = len(lines.taken)
        # An open quote may have taken any number of good records with it. They are read again, from the line after the
        # quote; the csv reader resets itself. A line is parsed twice at most, not once per quote before it: a
        # quote that opens in a later line would have closed this one.
        lines.return_lines(1)
        reason = str(error)
        if count == 1 and "field limit" in reason:
            msg = f"a field must have at most {csv.field_size_limit():,} characters; raise csv.field_size_limit"
            raise MalformedError("size", msg) from error
        if count > 1 or "end of data" in reason:
            reason = f"the quote that opens in this line is not closed correctly in {count} lines: {reason}"
        msg = f"{reason}; a quote inside a quoted field is written twice, and quote=None reads quotes as text"
        raise MalformedError("quote", msg) from error
