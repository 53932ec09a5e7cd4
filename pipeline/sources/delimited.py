"""Tables in text: comma-separated and tab-separated values.

Source: RFC 4180 (Shafranovich 2005). Not Python's `csv` module, which ends a record at a lone carriage return, and
refuses fields beyond a length that it keeps for the whole process.
"""

import re
from os import PathLike
from typing import Final, final

from typing_extensions import override

from pipeline.data.rows import Example
from pipeline.errors import OptionError, RecordError
from pipeline.sources.fields import Column
from pipeline.sources.files import FileSource, text_of
from pipeline.sources.framing import Framing, QuotedLines, every_line, without_line_end
from pipeline.sources.problems import Malformed, UnfitError


class Delimited(FileSource[str]):
    """A table in text: a record a line, its fields apart by a character. `Csv` and `Tsv` are two of its kind.

    A record whose quoted fields hold line ends spans several lines, and is named by the first. Blank lines are no
    records. A on_bad_record record is left out with all of its lines; after a quote that is never closed, that is the rest
    of the file.

    Args:
        file: the path.
        text: the column of the input, by its name in the header, or by its number, from 0.
        target: the column of the target, likewise; None for none. A target is a class name, as text.
        header: whether the first record names the columns.
        delimiter: what stands between fields: one ASCII character.
        quote: what encloses fields that hold delimiters or line ends, one ASCII character; None if nothing does.
        on_bad_record: what becomes of records with another number of fields than the first, an open quote, text behind a
            closed one, bytes that are no UTF-8, or a NUL: `raise`, `skip`, or a function of a `Problem` that gives an
            example in its place, or None.
        cache: a folder in which the index is kept; None keeps none.

    Raises:
        OptionError: if an option is out of its range.
        RecordError: if the file is empty, its first record is on_bad_record, or it has no column of that name.
        SourceError: if the file cannot be read.
    """

    def __init__(
        self,
        file: str | PathLike[str],
        *,
        text: Column = "text",
        target: Column | None = None,
        header: bool = True,
        delimiter: str = ",",
        quote: str | None = '"',
        on_bad_record: Malformed[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(file, on_bad_record=on_bad_record, cache=cache)
        for name, character in (("delimiter", delimiter), ("quote", quote)):
            if character is not None and (len(character) != 1 or not character.isascii() or character in "\r\n"):
                msg = f"{name} must be one ASCII character that ends no line, but {character!r} arrived."
                raise OptionError(msg, **{name: character})
        if delimiter == quote:
            msg = f"delimiter and quote must differ, but both are {quote!r}."
            raise OptionError(msg, delimiter=delimiter, quote=quote)
        self._delimiter: Final = delimiter
        self._quote: Final = quote
        self.headers: int = int(header)
        self.columns: Final = self._first()
        self._text: Final = self._number(text)
        self._target: Final = None if target is None else self._number(target)

    @property
    @override
    def framing(self) -> Framing:
        if self._quote is None:
            return every_line
        return QuotedLines(self._delimiter.encode(), self._quote.encode())

    @override
    def decoded(self, record: bytes) -> Example[str]:
        fields = split_fields(text_of(without_line_end(record)), self._delimiter, self._quote)
        if len(fields) != len(self.columns):
            msg = f"a record must have {len(self.columns)} fields, as the first has, but {len(fields)} arrived"
            raise UnfitError("fields", msg)
        return Example(fields[self._text], None if self._target is None else fields[self._target])

    @override
    def options(self) -> tuple[object, ...]:
        return (self._delimiter, self._quote, self.headers, self._text, self._target)

    def _first(self) -> list[str]:
        """The fields of the first record, which says how many there are, and with a header, what they are called."""
        if self.is_empty:
            if self.headers:
                msg = f"{str(self.file)!r} is empty, but a header is wanted; write one, or say header=False."
                raise RecordError(msg, file=str(self.file))
            return []
        try:
            return split_fields(text_of(without_line_end(self.first_record())), self._delimiter, self._quote)
        except UnfitError as error:
            msg = f"{self.file}, first record: {error.reason}, and it says what columns there are; mend it."
            raise RecordError(msg, file=str(self.file), kind=error.kind) from error

    def _number(self, column: Column) -> int:
        if isinstance(column, int):
            if self.columns and not 0 <= column < len(self.columns):
                msg = f"{self.file} has {len(self.columns)} columns, from 0, but column {column} was asked for."
                raise RecordError(msg, file=str(self.file), column=column)
            return column
        if not self.headers:
            msg = f"column {column!r} is asked for by name, but header=False; say its number, from 0."
            raise OptionError(msg, column=column)
        if self.columns.count(column) != 1:
            names = ", ".join(map(repr, self.columns[:20]))
            how = "no column" if column not in self.columns else "more than one column"
            msg = f"{self.file} has {how} {column!r}; its header is {names}. Say a name of these, or a number, from 0."
            raise RecordError(msg, file=str(self.file), column=column)
        return self.columns.index(column)


@final
class Csv(Delimited):
    r"""Comma-separated values, in quotes where need be, with a header; all options are those of `Delimited`.

    Source: RFC 4180 (Shafranovich 2005), in UTF-8.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "reviews.csv"
        >>> _ = file.write_text('text,stars\n"Fine, I say",5\n"Dull:\nvery ""dull"".",1\n')
        >>> for example in Csv(file, target="stars"):
        ...     print(repr(example.input), example.target)
        'Fine, I say' 5
        'Dull:\nvery "dull".' 1
    """


@final
class Tsv(Delimited):
    r"""Tab-separated values, in which quotes are text, with a header; the other options are those of `Delimited`.

    Source: IANA, text/tab-separated-values (Lindner 1993), in UTF-8.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "names.tsv"
        >>> _ = file.write_text("Ashikaga\tJapanese\n'Abbas\tEnglish\n")
        >>> [example.input for example in Tsv(file, text=0, target=1, header=False)]
        ['Ashikaga', "'Abbas"]
    """

    def __init__(
        self,
        file: str | PathLike[str],
        *,
        text: Column = "text",
        target: Column | None = None,
        header: bool = True,
        on_bad_record: Malformed[str] = "raise",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            file,
            text=text,
            target=target,
            header=header,
            delimiter="\t",
            quote=None,
            on_bad_record=on_bad_record,
            cache=cache,
        )


def split_fields(record: str, delimiter: str, quote: str | None) -> list[str]:
    """The fields of one record, without its line end.

    Raises:
        UnfitError: if a quote is never closed, or text follows where one is.

    Example:
        >>> split_fields('a,"b, ""c"".",d"e,', ",", '"')
        ['a', 'b, "c".', 'd"e', '']
    """
    if quote is None or quote not in record:
        return record.split(delimiter)
    quoted = re.compile("[^%s]*(?:%s%s[^%s]*)*" % ((re.escape(quote),) * 4))
    fields: list[str] = []
    place = 0
    while True:
        if record.startswith(quote, place):
            found = quoted.match(record, place + 1)
            assert found is not None
            place = found.end() + 1
            fields.append(found.group().replace(quote * 2, quote))
            if place > len(record):
                msg = f"a quote must be closed, but the one that opens field {len(fields)} is not"
                raise UnfitError("quote", msg)
            if place < len(record) and record[place] != delimiter:
                msg = (
                    f"a closed quote must be followed by {delimiter!r} or the line's end, but field {len(fields)} goes "
                    f"on with {record[place : place + 20]!r}; a quote within quotes is written twice"
                )
                raise UnfitError("quote", msg)
        else:
            stop = record.find(delimiter, place)
            fields.append(record[place:] if stop < 0 else record[place:stop])
            place = len(record) if stop < 0 else stop
        if place >= len(record):
            return fields
        place += 1
