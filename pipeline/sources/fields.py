"""Fields of a record: text, words and targets, with their checks."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, TypeAlias, cast, final

import attrs

from pipeline.checks.hints import describe
from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError
from pipeline.labels import Target
from pipeline.sources.malformed import MalformedError

Column: TypeAlias = str | int
"""A column by name, or by number from 0."""


@final
@attrs.frozen
class Fields(Generic[X_co]):
    """Choice of the fields of a record that are its input and its target.

    Attributes:
        input: the column of the input.
        target: the column of the target; None for no target.
        words: True if the input is a list of words, False if it is text.
    """

    input: Column
    target: Column | None
    words: bool

    @cached_property
    def _names(self) -> tuple[str, str]:
        # Names for errors, made once, because formatting them for each record takes as long as parsing it.
        return f"field {self.input!r}", f"field {self.target!r}"

    @property
    def columns(self) -> list[Column]:
        """Columns that are read."""
        return [self.input] if self.target is None else [self.input, self.target]

    def make_example(self, record: Any) -> Example[X_co]:  # noqa: ANN401 - a mapping, a sequence, or something wrong
        """Return the example in a record: a mapping with fields by name, or a sequence with fields by number."""
        check = check_words if self.words else check_text
        value = check(get_field(record, self.input), self._names[0])
        if self.target is None:
            return Example(cast("X_co", value))
        target = check_target(get_field(record, self.target), self._names[1])
        return Example(cast("X_co", value), target)


def choose_fields(
    text: Column | None, words: Column | None, target: Column | None, default: str | None = None
) -> Fields[Any]:
    """Return the fields to read; the input is text in the field `default` if neither `text` nor `words` is given.

    Raises:
        OptionError: if both or none of text and words are given.
    """
    if text is words is None:
        text = default
    if (text is None) == (words is None):
        msg = (
            f"exactly one of text= (for text, read by Tokenize) and words= (for lists of words, read by TokenizeWords) "
            f"must name the field of the input, got text={text!r} and words={words!r}."
        )
        raise OptionError(msg, text=text, words=words)
    return Fields(cast("Column", words if text is None else text), target, words is not None)


def get_field(record: Any, column: Column) -> object:  # noqa: ANN401 - may be anything
    """Return a field of a record."""
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


def check_text(value: object, what: str) -> str:
    """Return a field if it is text."""
    if not isinstance(value, str):
        msg = f"{what} must be text, got {describe(value)}"
        raise MalformedError("type", msg)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            msg = f"{what} must be text, got a lone surrogate, which is half a character"
            raise MalformedError("surrogate", msg) from error
    return value


def check_words(value: object, what: str) -> Sequence[str]:
    """Return a field if it is a list of words."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        msg = f"{what} must be a list of words, got {describe(value)}"
        raise MalformedError("type", msg)
    return [check_text(word, f"word {number} of {what}") for number, word in enumerate(cast("Sequence[object]", value))]


def check_target(value: object, what: str) -> Target:
    """Return a field if it is a class, a class per step, or None. True becomes 1, False 0."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        steps = enumerate(cast("Sequence[object]", value))
        return [_check_class(one, f"entry {number} of {what}") for number, one in steps]
    return _check_class(value, what)


def _check_class(value: object, what: str) -> int | str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return check_text(value, what)
    if not isinstance(value, int):
        msg = f"{what} must be a class, by name or number, got {describe(value)}"
        raise MalformedError("type", msg)
    return int(value)


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Check an option that has a few choices.

    Raises:
        OptionError: if the value is not one of them.
    """
    if value not in choices:
        msg = f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}."
        raise OptionError(msg, **{name: value})
