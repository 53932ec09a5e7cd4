"""What may stand in the fields of a record: text, words, and targets."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar, cast, final

import attrs

from pipeline.checks.shapes import described
from pipeline.data.rows import Example, X_co
from pipeline.errors import OptionError
from pipeline.labels import Target
from pipeline.sources.problems import UnfitError

Column: TypeAlias = str | int
"""A column by its name, or by its number, from 0."""

V = TypeVar("V")
_MISSING: Final = object()


@final
@attrs.frozen
class Fields(Generic[X_co]):
    """Which fields of a record are its input and its target.

    Attributes:
        input: the column of the input.
        target: the column of the target; None for none.
        words: whether the input is a list of words, not a text.
    """

    input: Column
    target: Column | None
    words: bool

    @property
    def columns(self) -> list[Column]:
        """The columns that are read."""
        return [self.input] if self.target is None else [self.input, self.target]

    def example(self, record: Any) -> Example[X_co]:  # noqa: ANN401 - a mapping, a sequence, or what is neither
        """The example that a record holds: a mapping by names, or a sequence by numbers.

        Raises:
            UnfitError: if a field is missing, or is not of its type.
        """
        checked = words_in if self.words else text_in
        value = checked(field(record, self.input), f"field {self.input!r}")
        if self.target is None:
            return Example(cast("X_co", value))
        target = target_in(field(record, self.target), f"field {self.target!r}")
        return Example(cast("X_co", value), target)


def fields_of(text: Column | None, words: Column | None, target: Column | None) -> Fields[Any]:
    """Which fields to read.

    Raises:
        OptionError: if not exactly one of text and words is given.
    """
    if (text is None) == (words is None):
        msg = (
            f"text={text!r} and words={words!r} arrived, but one of them must name the field of the input: text= for "
            "text that Tokenize cuts, words= for lists of words that TokenizeWords takes."
        )
        raise OptionError(msg, text=text, words=words)
    return Fields(cast("Column", words if text is None else text), target, words is not None)


def field(record: Any, column: Column) -> object:  # noqa: ANN401 - what came may be anything
    """One field of a record.

    Raises:
        UnfitError: if the record has none of that name.
    """
    try:
        if not isinstance(record, str):  # its letters are no fields
            found: object = record[column]
            return found
    except (TypeError, KeyError, IndexError):
        pass
    came = f"{described(cast('object', record))} arrived"
    if isinstance(record, Mapping):
        came = f"it has {', '.join(map(repr, list(cast('Mapping[object, object]', record))[:8])) or 'none'}"
    msg = f"a record must have a field {column!r}, but {came}"
    raise UnfitError("missing", msg)


def text_in(value: object, what: str) -> str:
    """A field that must be text.

    Raises:
        UnfitError: if it is none, or holds half a character.
    """
    if not isinstance(value, str):
        msg = f"{what} must be text, but {described(value)} arrived"
        raise UnfitError("type", msg)
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        msg = f"{what} must be text, but holds a lone surrogate, which is half a character"
        raise UnfitError("surrogate", msg)
    return value


def words_in(value: object, what: str) -> Sequence[str]:
    """A field that must be a list of words.

    Raises:
        UnfitError: if it is none.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        msg = f"{what} must be a list of words, but {described(value)} arrived"
        raise UnfitError("type", msg)
    return [text_in(word, f"word {number} of {what}") for number, word in enumerate(cast("Sequence[object]", value))]


def target_in(value: object, what: str) -> Target:
    """A field that must be a class, a class a step, or nothing. True is 1, and False 0.

    Raises:
        UnfitError: if it is none of these.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Sequence):
        return [_class(one, f"entry {number} of {what}") for number, one in enumerate(cast("Sequence[object]", value))]
    return _class(value, what)


def _class(value: object, what: str) -> int | str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, int):
        msg = f"{what} must be a class, by name or number, but {described(value)} arrived"
        raise UnfitError("type", msg)
    return int(value)


def checked_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuse what is none of the choices of an option.

    Raises:
        OptionError: if it is none.
    """
    if value not in choices:
        msg = f"{name} must be one of {', '.join(map(repr, choices))}, but {value!r} arrived."
        raise OptionError(msg, **{name: value})
