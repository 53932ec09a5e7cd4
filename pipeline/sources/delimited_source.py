"""Parse comma-separated and tab-separated values with Python's `csv` module, line by line or in groups of lines.

Source: RFC 4180 (Shafranovich 2005), https://www.rfc-editor.org/rfc/rfc4180; and the documentation of `csv`.
"""

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias, cast

from typing_extensions import TypeVar, Unpack, override

from pipeline.checks.options import check_choice
from pipeline.data.rows import Example
from pipeline.errors import OptionError, RecordError
from pipeline.labels import Target
from pipeline.sources.line_groups import ColumnType, FieldError, LineGroup, convert_fields, join_steps
from pipeline.sources.malformed import (
    Column,
    MalformedError,
    TargetColumns,
    check_inputs,
    check_target_columns,
    find_column,
)
from pipeline.sources.parsed import FileOptions, FileSource
from pipeline.sources.record_table import Parsed
from pipeline.sources.text_file import FileInput, Lines

T_co = TypeVar("T_co", covariant=True, default=str)

EmptyTarget: TypeAlias = Literal["none", "keep", "raise"]

_MAX_FIELD: Final = 2**24
"""Longest field in characters. A longer one is taken for a quote that is never closed."""


class DelimitedSource(FileSource[T_co]):
    """Base of `Delimited`, `Csv` and `Tsv`; the options are explained in `Delimited`."""

    def __init__(
        self,
        file: FileInput,
        *,
        text: Column | None = None,
        inputs: Sequence[str] | Mapping[str, ColumnType] | None = None,
        target: TargetColumns | None = None,
        header: bool = True,
        delimiter: str = ",",
        quote: str | None = '"',
        empty_target: EmptyTarget = "none",
        group: str | None = None,
        sort: str | None = None,
        step_targets: bool = False,
        **options: Unpack[FileOptions[Any]],
    ) -> None:
        super().__init__(file, **options)
        self._inputs: Final = None if inputs is None else _choose_inputs(inputs, text, group, sort)
        if group is None and (sort is not None or step_targets):
            msg = "sort and step_targets are for records of several lines; pass group= as well, or leave them out."
            raise OptionError(msg, sort=sort, step_targets=step_targets)
        self._group: Final = group
        self._sort: Final = sort
        self._step_targets: Final = step_targets
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
        self._quoting: Final[Literal[0, 3]] = csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE
        self._has_header: Final = header
        self._empty_target: Final = empty_target
        self._text: Final = "text" if text is None else text
        self._target: Final = check_target_columns(target)
        self.columns: list[str] = []
        self._prepare()

    @override
    def _open_parser(self, lines: Lines, file: int) -> Callable[[], Example[T_co] | None]:
        # A larger limit of the user stays; the limit of the csv module, 128 KiB, is too small for long documents.
        csv.field_size_limit(max(_MAX_FIELD, csv.field_size_limit()))
        reader = csv.reader(lines, delimiter=self._delimiter, quotechar=self._quote, quoting=self._quoting, strict=True)
        self.columns = self._read_first(reader, lines)
        pick = self._choose_reader()
        pick_target = self._choose_target_reader()
        width = len(self.columns)

        def read() -> Example[T_co] | None:
            fields = _read_fields(reader, lines)
            if not fields:
                return None  # the csv module gives an empty list for a blank line
            if len(fields) != width:
                msg = f"a record must have {width} fields, as the first has, got {len(fields)}"
                raise MalformedError("fields", msg)
            return Example(pick(fields), None if pick_target is None else pick_target(fields))

        return read

    def _choose_reader(self) -> Callable[[Sequence[str]], T_co]:
        """Return a function from the fields of a line to its input; with groups, to its group and the input fields."""
        if self._inputs is None:
            text = self._get_number(self._text)
            return lambda fields: cast("T_co", fields[text])
        numbers = {name: (self._get_number(name), kind) for name, kind in self._inputs.items()}
        if self._group is None:
            return lambda fields: cast(
                "T_co", {name: convert_fields([fields[at]], kind, name)[0] for name, (at, kind) in numbers.items()}
            )
        group = self._get_number(self._group)
        return lambda fields: cast("T_co", (fields[group], [fields[at] for at, _ in numbers.values()]))

    def _choose_target_reader(self) -> Callable[[Sequence[str]], Target] | None:
        """Return a function from the fields of a line to its target, or to its targets by their columns."""
        found = self._find_target()
        if isinstance(found, int):
            return lambda fields: self._read_target(fields[found], self._target)
        if found is None:
            return None
        return lambda fields: {name: self._read_target(fields[at], name) for name, at in found.items()}

    def _find_target(self) -> int | Mapping[str, int] | None:
        """Return the number of the target's column, or those of several targets by their names."""
        if isinstance(self._target, tuple):
            return {name: self._get_number(name) for name in self._target}
        return None if self._target is None else self._get_number(self._target)

    @property
    @override
    def has_lines(self) -> bool:
        return self._is_regular and self._group is None

    @override
    def parse_columns(self, lines: Sequence[str]) -> Mapping[str, object]:
        fields = next(csv.reader(lines, delimiter=self._delimiter, quotechar=self._quote, quoting=self._quoting))
        return dict(zip(self.column_names, fields, strict=True))

    @override
    def name_columns(self, value: object) -> Mapping[str, object]:
        return cast("Mapping[str, object]", value) if isinstance(value, Mapping) else {self._name_text(): value}

    def name_group(self, number: int) -> Mapping[str, str]:
        """Return the column of groups, with its value in a record; empty if records are single lines."""
        if self._group is None:
            return {}
        name = self._get_table().read(self._get_raw_number(number)).name
        return {self._group: name.removeprefix(f"{self._group} = ")}

    def _name_text(self) -> str:
        number = self._get_number(self._text)
        return self.columns[number] if self._has_header else str(number)

    @property
    def column_names(self) -> Sequence[str]:
        """The names of all columns; without a header, their numbers."""
        return self.columns if self._has_header else [str(number) for number in range(len(self.columns))]

    @override
    def _parse(self) -> Iterator[Parsed]:
        return super()._parse() if self._group is None else self._parse_groups()

    def _parse_groups(self) -> Iterator[Parsed]:
        """Collect the lines of each group; yield the groups, and the lines that belong to none."""
        found: dict[object, LineGroup | Parsed] = {}
        for parsed in super()._parse():
            if not isinstance(parsed.record, Example):
                found[parsed.line, parsed.record] = parsed
                continue
            name, fields = cast("tuple[str, list[str]]", parsed.record.input)
            group = found.setdefault(name, LineGroup(name))
            assert isinstance(group, LineGroup)  # the keys of other records are not text
            group.lines.append(parsed.line)
            group.fields.append(fields)
            group.targets.append(parsed.record.target)
        for group in found.values():
            yield group if isinstance(group, Parsed) else self._make_record(group)

    def _make_record(self, group: "LineGroup") -> Parsed:
        assert self._inputs is not None
        name = f"{self._group} = {group.name}"
        try:
            columns: dict[str, list[Any]] = {
                column: convert_fields(texts, kind, column)
                for (column, kind), texts in zip(self._inputs.items(), zip(*group.fields, strict=True), strict=True)
            }
            if not self._step_targets:
                group.check_targets(self._target)
        except FieldError as error:
            line, text = group.lines[error.place], ",".join(group.fields[error.place])
            return self._make_problem(0, line, name, error, 1, text)
        targets = group.targets
        if self._sort is not None:
            key = columns[self._sort]
            order = sorted(range(len(key)), key=key.__getitem__)
            columns = {column: [values[at] for at in order] for column, values in columns.items()}
            targets = [targets[at] for at in order]
        target = targets[0] if not self._step_targets else cast("Target", join_steps(targets))
        return Parsed(0, group.lines[0], name, Example(columns, target))

    @override
    def _get_options(self) -> tuple[object, ...]:
        inputs = (
            self._get_number(self._text)
            if self._inputs is None
            else (
                {name: kind.__name__ for name, kind in self._inputs.items()},
                self._group,
                self._sort,
                self._step_targets,
            )
        )
        return (
            self.encoding,
            self._delimiter,
            self._quote,
            self._has_header,
            self._empty_target,
            inputs,
            self._find_target(),
        )

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

    def _read_target(self, field: str, column: object) -> str | None:
        if field or self._empty_target == "keep":
            return field
        if self._empty_target == "raise":
            msg = f"column {column!r} must have a class, got an empty field"
            raise MalformedError("target", msg)
        return None


def _choose_inputs(
    inputs: Sequence[str] | Mapping[str, ColumnType], text: Column | None, group: str | None, sort: str | None
) -> Mapping[str, ColumnType]:
    """Return the type of each input column.

    Raises:
        OptionError: if there is also a text column, an unknown type, or no input column by which lines are sorted.
    """
    check_inputs(inputs)
    if text is not None:
        msg = f"exactly one of text= and inputs= must name the input, got text={text!r} and inputs={inputs!r}."
        raise OptionError(msg, text=text, inputs=inputs)
    found: Mapping[str, ColumnType] = inputs if isinstance(inputs, Mapping) else dict.fromkeys(inputs, str)
    for name, kind in found.items():
        if kind not in (str, int, float):
            msg = f"inputs must map columns to str, int or float, got {kind!r} for {name!r}."
            raise OptionError(msg, inputs=inputs)
    if group is not None and sort is not None and sort not in found:
        msg = f"sort must be one of the inputs, {', '.join(map(repr, found))}, got {sort!r}; add it to them."
        raise OptionError(msg, sort=sort)
    return found


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
