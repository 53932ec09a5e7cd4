"""Sources of comma-separated and tab-separated values, and of other delimiters."""

from collections.abc import Mapping, Sequence
from typing import Any, final, overload

from typing_extensions import TypeVar, Unpack

from pipeline.sources.delimited_source import DelimitedSource, EmptyTarget
from pipeline.sources.line_groups import ColumnType
from pipeline.sources.malformed import (
    Column,
    ColumnValues,
    TargetColumns,
)
from pipeline.sources.parsed import FileOptions
from pipeline.sources.text_file import FileInput

T_co = TypeVar("T_co", covariant=True, default=str)


class ColumnOptions(FileOptions[str], total=False):
    """Options of `Tsv`, explained in `Delimited`."""

    text: Column
    target: TargetColumns | None
    header: bool
    empty_target: EmptyTarget


class GroupOptions(FileOptions[ColumnValues], total=False):
    """Options of `Tsv` with several input columns, explained in `Delimited`."""

    target: TargetColumns | None
    empty_target: EmptyTarget
    group: str | None
    sort: str | None
    step_targets: bool


class CsvOptions(ColumnOptions, total=False):
    """Options of `Csv`, explained in `Delimited`."""

    delimiter: str
    quote: str | None


class CsvGroupOptions(GroupOptions, total=False):
    """Options of `Csv` with several input columns, explained in `Delimited`."""

    delimiter: str
    quote: str | None


class Delimited(DelimitedSource[T_co]):
    """A table in text: one record per line, fields separated by a character. `Csv` and `Tsv` are special cases.

    Quoted fields may contain line ends; errors name the first line of such a record. Blank lines are not records. White
    space around fields is kept, also in targets and in the names of columns. After a quote that is not closed
    correctly, reading continues at the line after the quote, so only one line is lost.

    With `inputs`, the input of a record has several columns, for `FromColumns`. With `group`, the lines with the same
    value in that column are the steps of one record, wherever they are in the file; each input is then a list. Records
    are in the order of their first lines. Reading them takes the memory of the whole file.

    Args:
        file: as for `TextLines`.
        text: the column of the input, by name or by number from 0.
        inputs: instead of `text`, the names of several columns; or a mapping from names to `str`, `int` or `float`, as
            which their fields are read.
        group: the column whose value the lines of one record share, such as a user's name.
        sort: the column of `inputs` by which the lines of a record are sorted; by default they keep the order of the
            file.
        step_targets: with `group`, each line has a target of its own. By default all lines of a record have the same.
        target: likewise the column of the target, a class name; None for no target. A list of names gives several
            targets, a mapping of their fields.
        header: True if the first record has the names of the columns.
        delimiter: separates fields: one ASCII character.
        quote: encloses fields that contain delimiters or line ends: one ASCII character, or None.
        empty_target: meaning of an empty field in the target's column: no target ("none"), an empty text ("keep"),
            which is a class only if `Labels` lists it, or a malformed record ("raise").
        options: see `FileOptions`. A record with another number of fields than the first, with wrong quotes, or with
            other text where there must be a finite number, is malformed. Of a group, that is the whole record if its
            group is known, else the line alone.

    Raises:
        OptionError: if an option is out of range.
        RecordError: if the file has no records, its first record is malformed, or there is no column of that name.
        SourceError: if the file cannot be read.
    """

    @overload
    def __init__(
        self: "Delimited[str]",
        file: FileInput,
        *,
        text: Column = "text",
        target: TargetColumns | None = None,
        header: bool = True,
        delimiter: str = ",",
        quote: str | None = '"',
        empty_target: EmptyTarget = "none",
        **options: Unpack[FileOptions[str]],
    ) -> None: ...
    @overload
    def __init__(
        self: "Delimited[ColumnValues]",
        file: FileInput,
        *,
        inputs: Sequence[str] | Mapping[str, ColumnType],
        **options: Unpack[CsvGroupOptions],
    ) -> None: ...
    def __init__(self, file: FileInput, **options: Any) -> None:
        super().__init__(file, **options)


@final
class Csv(DelimitedSource[T_co]):
    r"""Comma-separated values with a header; fields may be quoted. All options are those of `Delimited`.

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "reviews.csv"
        >>> _ = file.write_text('text,stars\n"Fine, I say",5\n"Dull:\nvery ""dull"".",1\n')
        >>> for example in Csv(file, text="text", target="stars"):
        ...     print(repr(example.input), example.target)
        'Fine, I say' 5
        'Dull:\nvery "dull".' 1
        >>> _ = file.write_text("user,code,price\nann,buy,2.5\nbob,buy,1\nann,sell,3\n")
        >>> for example in Csv(file, inputs={"code": str, "price": float}, group="user"):
        ...     print(example.input)
        {'code': ['buy', 'sell'], 'price': [2.5, 3.0]}
        {'code': ['buy'], 'price': [1.0]}
    """

    @overload
    def __init__(self: "Csv[str]", file: FileInput, **options: Unpack[CsvOptions]) -> None: ...
    @overload
    def __init__(
        self: "Csv[ColumnValues]",
        file: FileInput,
        *,
        inputs: Sequence[str] | Mapping[str, ColumnType],
        **options: Unpack[CsvGroupOptions],
    ) -> None: ...
    def __init__(self, file: FileInput, **options: Any) -> None:
        super().__init__(file, **options)


@final
class Tsv(DelimitedSource[T_co]):
    r"""Tab-separated values with a header, in which quotes are text. The other options are those of `Delimited`.

    Source: IANA, text/tab-separated-values (Lindner 1993).

    Example:
        >>> import pathlib
        >>> file = pathlib.Path(getfixture("tmp_path")) / "names.tsv"
        >>> _ = file.write_text("Ashikaga\tJapanese\n'Abbas\tEnglish\n")
        >>> list(Tsv(file, text=0, target=1, header=False).inputs())
        ['Ashikaga', "'Abbas"]
    """

    @overload
    def __init__(self: "Tsv[str]", file: FileInput, **options: Unpack[ColumnOptions]) -> None: ...
    @overload
    def __init__(
        self: "Tsv[ColumnValues]",
        file: FileInput,
        *,
        inputs: Sequence[str] | Mapping[str, ColumnType],
        **options: Unpack[GroupOptions],
    ) -> None: ...
    def __init__(self, file: FileInput, **options: Any) -> None:
        super().__init__(file, delimiter="\t", quote=None, **options)
