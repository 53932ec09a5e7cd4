"""Malformed records: their description, their counts, and the checks of fields that find them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import cached_property
from typing import Any, Final, Generic, Literal, TypeAlias, cast, final

import attrs

from pipeline.checks.hints import describe
from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError, PipelineError, RecordError
from pipeline.labels import MAX_ID, OneTarget, Target, get_scalar, is_missing, is_step_target, is_vector, to_steps
from pipeline.text import suggest_name

SHOWN: Final = 200
"""Number of characters of a malformed record that a problem shows."""

MAX_PROBLEMS: Final = 100
"""Number of problems that `Skipped.first` holds; later ones are only counted."""

Column: TypeAlias = str | int
"""A column by name, or by number from 0."""

TargetColumns: TypeAlias = Column | Sequence[str]
"""The column of the target; or a list of columns, each of which is one of several targets by its name."""

ColumnValues: TypeAlias = Mapping[str, Any]
"""An input that is several columns: text, numbers, or lists of these, as the file holds them."""


@final
@attrs.frozen
class Problem:
    """A malformed record.

    Attributes:
        where: location of the record as errors show it: `reviews.csv, line 7`.
        file: the file, or the type of the data set.
        number: first line of the record in its file, from 1; in a table or a data set, its number, from 1.
        lines: number of lines of the record.
        kind: short name of the violated rule, by which problems are counted: `fields`, `encoding`, ...
        reason: the rule and the value that violates it.
        text: beginning of the record; bytes that cannot be decoded are shown as escapes.
    """

    where: str
    file: str
    number: int
    lines: int
    kind: str
    reason: str
    text: str

    def make_error(self) -> RecordError:
        """Return the error for this problem."""
        msg = (
            f"{self.where}: {self.reason}; the record begins {self.text[:60]!r}; fix it, or read with "
            'on_bad_record="skip" or with a function that returns a replacement.'
        )
        return RecordError(msg, file=self.file, line=self.number, kind=self.kind, text=self.text)


OnBadRecord: TypeAlias = Literal["raise", "skip"] | Callable[[Problem], Example[X_co] | None]
"""Rule for malformed records: raise an error, skip and count, or call a function that returns a replacement or None."""


class MalformedError(Exception):
    """A record violates a rule of its format. Raised by parsers, which do not know the location of the record."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind: Final = kind
        self.reason: Final = reason


@final
@attrs.frozen
class Skipped:
    """Malformed records that were skipped.

    Attributes:
        kinds: number of records per kind of problem.
        first: the first 100 problems.

    Example:
        >>> print(Skipped({"fields": 2, "encoding": 1}))
        3 records skipped (fields: 2, encoding: 1)
    """

    kinds: Mapping[str, int] = attrs.field(factory=dict[str, int])
    first: Sequence[Problem] = ()

    @property
    def total(self) -> int:
        """Number of skipped records."""
        return sum(self.kinds.values())

    def __str__(self) -> str:
        kinds = ", ".join(f"{kind}: {count}" for kind, count in self.kinds.items())
        records = "record" if self.total == 1 else "records"
        return f"{self.total} {records} skipped" + (f" ({kinds})" if kinds else "")


@final
@attrs.frozen
class Fields(Generic[X_co]):
    """The fields of a record that are its input, which is text, a list of words or several columns, and its target."""

    input: Column
    target: Column | tuple[str, ...] | None
    words: bool
    inputs: Sequence[str] | None = None

    @cached_property
    def _names(self) -> tuple[str, dict[Column, str]]:
        # Names for errors, made once, because formatting them for each record takes as long as parsing it.
        return f"field {self.input!r}", {column: f"field {column!r}" for column in self.target_columns}

    @property
    def input_columns(self) -> Sequence[Column]:
        """Columns of the input."""
        return [self.input] if self.inputs is None else self.inputs

    @property
    def target_columns(self) -> Sequence[Column]:
        """Columns of the target, or of the targets."""
        return () if self.target is None else self.target if isinstance(self.target, tuple) else (self.target,)

    @property
    def columns(self) -> list[Column]:
        """Columns that are read."""
        return list(dict.fromkeys([*self.input_columns, *self.target_columns]))

    def make_example(self, record: Any) -> Example[X_co]:  # noqa: ANN401 - a mapping, a sequence, or something wrong
        """Return the example in a record: a mapping with fields by name, or a sequence with fields by number."""
        if self.inputs is None:
            check = _check_words if self.words else _check_text
            value = cast("X_co", check(_get_field(record, self.input), self._names[0]))
        else:
            value = cast("X_co", {name: _get_field(record, name) for name in self.inputs})
        if self.target is None:
            return Example(value)
        names = self._names[1]
        if not isinstance(self.target, tuple):
            return Example(value, check_target(_get_field(record, self.target), names[self.target]))
        targets = {column: check_target(_get_field(record, column), names[column]) for column in self.target}
        return Example(value, cast("Target", targets))


def choose_fields(
    text: Column | None,
    words: Column | None,
    target: TargetColumns | None,
    default: str | None = None,
    inputs: Sequence[str] | None = None,
) -> Fields[Any]:
    """Return the fields to read; the input is text in the field `default` if no other is given.

    Raises:
        OptionError: if several or none of text, words and inputs are given, or the target is not a column or a list of
            columns.
    """
    target = check_target_columns(target)
    if text is words is inputs is None:
        text = default
    if (text is not None) + (words is not None) + (inputs is not None) != 1:
        msg = (
            f"exactly one of text= (for text, read by Tokenize), words= (for lists of words, read by TokenizeWords) "
            f"and inputs= (for several fields, read by FromColumns) must name the field of the input, got "
            f"text={text!r}, words={words!r} and inputs={inputs!r}."
        )
        raise OptionError(msg, text=text, words=words, inputs=inputs)
    if inputs is not None:
        check_inputs(inputs)
        return Fields("", target, words=False, inputs=tuple(inputs))
    return Fields(cast("Column", words if text is None else text), target, words is not None)


def check_inputs(inputs: Iterable[str]) -> None:
    """Reject input columns that are not a list of names.

    Raises:
        OptionError: if it is one text, is empty, or has a name twice.
    """
    names = list(inputs)
    if isinstance(inputs, str) or not names or len(set(names)) < len(names):
        msg = f"inputs must be a list of different columns, such as ['code', 'amount'], got {inputs!r}."
        raise OptionError(msg, inputs=inputs)


def check_target_columns(target: TargetColumns | None) -> Column | tuple[str, ...] | None:
    """Return the column of the target, or those of several targets.

    Raises:
        OptionError: if it is neither a column nor a list of different names.
    """
    if target is None or isinstance(target, str | int):
        return target
    names: object = target
    if isinstance(names, list | tuple):
        columns = cast("Sequence[object]", names)
        texts = [column for column in columns if isinstance(column, str)]
        if 0 < len(columns) == len(texts) == len(set(texts)):
            return tuple(texts)
    msg = f"target must be a column, or a list of names of different columns for several targets, got {target!r}."
    raise OptionError(msg, target=target)


def find_column(column: str, columns: Sequence[str], name: str, error: type[PipelineError] = RecordError) -> int:
    """Return the number of a column of the table of that name.

    Raises:
        RecordError: or `error`, if there is no such column, or more than one.
    """
    if columns.count(column) != 1:
        found, fix = "no column", f"choose one of these.{suggest_name(column, columns)}"
        if column in columns:
            found, fix = "more than one column", "rename one of them."
        known = (", ".join(map(repr, columns[:20])) or "none") + (", ..." if len(columns) > 20 else "")
        msg = f"{name} has {found} {column!r}; its columns are {known}; {fix}"
        raise error(msg, file=name, column=column)
    return columns.index(column)


def _get_field(record: Any, column: Column) -> object:  # noqa: ANN401 - may be anything
    # Trying is faster than asking for the type, and lets a record be of any class with items.
    try:
        if not isinstance(record, str):  # its characters are not fields
            found: object = record[column]
            return found
    except (TypeError, KeyError, IndexError):
        pass
    got = describe(cast("object", record))
    if isinstance(record, Mapping):
        names = list(cast("Mapping[object, object]", record))
        got = f"fields {', '.join(map(repr, names[:8]))}" if names else "an empty record"
    msg = f"a record must have a field {column!r}, got {got}"
    raise MalformedError("missing", msg)


def _check_text(value: object, name: str) -> str:
    if not isinstance(value, str):
        msg = f"{name} must be text, got {describe(value)}"
        raise MalformedError("type", msg)
    if not value.isascii():  # only looks at a flag of the string, and spares encoding most texts
        try:
            value.encode()
        except UnicodeEncodeError as error:
            msg = f"{name} must be text, got a lone surrogate, which is half a character"
            raise MalformedError("surrogate", msg) from error
    return value


def _check_words(value: object, name: str) -> Sequence[str]:
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        msg = f"{name} must be a list of words, got {describe(value)}"
        raise MalformedError("type", msg)
    words = enumerate(cast("Sequence[object]", value))
    return [_check_text(word, f"word {number} of {name}") for number, word in words]


def check_target(value: object, name: str) -> Target:
    """Return a class, a class per step, a number or several, or None. Values of numpy and torch become Python's.

    Sets of names, and mappings with several targets by name, are checked by their entries.
    """
    if isinstance(value, Mapping):
        named = cast("Mapping[str, object]", value)
        return {key: cast("OneTarget", check_target(each, f"{key!r} of {name}")) for key, each in named.items()}
    if isinstance(value, AbstractSet):
        return {_check_text(each, f"an entry of {name}") for each in cast("AbstractSet[object]", value)}
    if not is_step_target(value):
        number = get_scalar(value)
        if isinstance(number, float) and math.isfinite(number):
            return number
        return cast("Target", to_steps(value)) if is_vector(value) else _check_class(number, name)
    return [_check_class(step, f"entry {number} of {name}") for number, step in enumerate(to_steps(value))]


def _check_class(value: object, name: str) -> int | str | None:
    if is_missing(value):
        return None
    value = get_scalar(value)
    if isinstance(value, str):
        return _check_text(value, name)
    if not isinstance(value, int):
        msg = f"{name} must be a class, by name or number, got {describe(value)}"
        raise MalformedError("type", msg)
    if not -MAX_ID <= value <= MAX_ID:
        msg = f"{name} must be a class number of at most 63 bits, got {value}"
        raise MalformedError("range", msg)
    return int(value)  # True becomes 1
