"""What is there already, as a source: a list, an iterable, a torch `Dataset`, a data set of Hugging Face `datasets`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias, TypeVar, cast, final, overload

from torch.utils.data import IterableDataset
from typing_extensions import override

from pipeline.checks.shapes import described
from pipeline.data.rows import Example, X_co, refuse_text
from pipeline.errors import OptionError, UnsizedError
from pipeline.sources.fields import Column, Fields, fields_of
from pipeline.sources.kept import digest
from pipeline.sources.problems import SHOWN, Malformed, Problem, UnfitError
from pipeline.sources.screened import Screened, Span

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class MapStyle(Protocol[V_co]):
    """Records by number, as torch's `Dataset` has them."""

    def __getitem__(self, index: int, /) -> V_co:
        """The record of a number."""
        ...


Collection: TypeAlias = Iterable[V] | MapStyle[V]
"""What holds records: it can be read from its beginning, or by number."""


@final
class Records(Screened[object, X_co]):
    """Records that are there already: in a list, an iterable, a torch `Dataset`, a data set of Hugging Face `datasets`.

    Each record is an input, bare or in an `Example`; or a mapping, or a tuple, of whose fields `text` or `words` is the
    input, and `target` the target. What knows its size and gives records by number is read so; what does not, from its
    beginning alone.

    Args:
        values: the records. It must begin anew each time it is read, so not an iterator.
        text: the field of the input, if that is text: by its name, or by its number in a tuple.
        words: the field of the input, if that is a list of words.
        target: the field of the target: a class, by name or number, a list of them, one a step, or None.
        on_bad_record: what becomes of records that lack a field, or have one of another type: `raise`, `skip`, or a function
            of a `Problem` that gives an example in its place, or None. Bare inputs are the door's to judge.

    Raises:
        OptionError: if `values` is an iterator or several splits, or has no field of that name.
        TextError: if `values` is one text.

    Example:
        >>> source = Records([{"review": "Fine!", "stars": 5}, {"review": "Dull."}], text="review", target="stars")
        >>> source[0].input, source[0].target
        ('Fine!', 5)
        >>> source[1]
        Traceback (most recent call last):
        pipeline.errors.RecordError: list, record 2: a record must have a field 'stars', but it has 'review', ...
    """

    @overload
    def __init__(
        self: "Records[V]",
        values: Iterable[V | Example[V]],
        *,
        on_bad_record: Malformed[V] = "raise",
    ) -> None: ...
    @overload
    def __init__(
        self: "Records[V]",
        values: MapStyle[Example[V]],
        *,
        on_bad_record: Malformed[V] = "raise",
    ) -> None: ...
    @overload
    def __init__(
        self: "Records[str]",
        values: Collection[Any],
        *,
        text: Column,
        target: Column | None = None,
        on_bad_record: Malformed[str] = "raise",
    ) -> None: ...
    @overload
    def __init__(
        self: "Records[Sequence[str]]",
        values: Collection[Any],
        *,
        words: Column,
        target: Column | None = None,
        on_bad_record: Malformed[Sequence[str]] = "raise",
    ) -> None: ...
    def __init__(
        self,
        values: object,
        *,
        text: Column | None = None,
        words: Column | None = None,
        target: Column | None = None,
        on_bad_record: Malformed[Any] = "raise",
    ) -> None:
        super().__init__(on_bad_record, cache=None)
        refuse_text(values)
        _refuse_unreadable(values)
        named = not text is words is target is None
        self._fields: Final[Fields[X_co] | None] = fields_of(text, words, target) if named else None
        self._values: Final[Any] = values if self._fields is None else _narrowed(values, self._fields.columns)
        self._name: Final = type(values).__name__

    @property
    @override
    def fingerprint(self) -> str | None:
        """Of a data set of Hugging Face `datasets`, its own; else there is none."""
        found: object = getattr(self._values, "_fingerprint", None)
        if not isinstance(found, str) or callable(self.on_bad_record):
            return None
        return digest("records", found, repr(self._fields), self.on_bad_record)

    @override
    def _all(self) -> Iterator[tuple[Span, object]]:
        numbers_only = not hasattr(self._values, "__iter__")
        values: Iterable[object] = map(self._values.__getitem__, range(self._count())) if numbers_only else self._values
        return (((number, number + 1), value) for number, value in enumerate(values))

    @override
    def _count(self) -> int:
        if not hasattr(self._values, "__len__"):
            msg = (
                f"{self._name} does not know how many records it has; read it from its beginning, or put the records "
                "into a list."
            )
            raise UnsizedError(msg)
        return len(self._values)

    @override
    def _span(self, record: int) -> Span:
        return record, record + 1

    @override
    def _read(self, span: Span) -> object:
        if isinstance(self._values, IterableDataset) or not hasattr(self._values, "__getitem__"):
            msg = f"{self._name} gives no record by number; read it from its beginning, or put the records into a list."
            raise UnsizedError(msg)
        return self._values[span[0]]

    @override
    def __getitems__(self, indices: Sequence[int]) -> list[Example[X_co]]:
        several: Callable[[list[int]], list[object]] | None = getattr(self._values, "__getitems__", None)
        if several is None:
            return super().__getitems__(indices)
        spans = [self._span_of(index) for index in indices]
        found = several([span[0] for span in spans])
        return [self._settled(raw, span) for raw, span in zip(found, spans, strict=True)]

    @override
    def _parsed(self, raw: object, span: Span) -> Example[X_co]:
        if self._fields is not None:
            return self._fields.example(raw)
        return cast("Example[X_co]", raw) if isinstance(raw, Example) else Example(cast("X_co", raw))

    @override
    def _problem(self, raw: object, span: Span, error: UnfitError) -> Problem:
        return Problem(self._place(span), self._name, span[1], 1, error.kind, error.reason, repr(raw)[:SHOWN])

    @override
    def _place(self, span: Span) -> str:
        return f"{self._name}, record {span[1]}"


def _refuse_unreadable(values: object) -> None:
    if isinstance(values, Mapping):
        splits = ", ".join(map(repr, list(cast("Mapping[object, object]", values))[:8]))
        msg = f"values must be records, but a mapping of {splits} arrived; take one of them: values[...]."
        raise OptionError(msg)
    kind = described(values)
    if isinstance(values, Iterator):
        msg = (
            f"values must begin anew each time it is read, but {kind} is used up by the first; put the "
            "records into a list, or write a class whose __iter__ makes the iterator."
        )
        raise OptionError(msg)
    if not (hasattr(values, "__iter__") or (hasattr(values, "__getitem__") and hasattr(values, "__len__"))):
        msg = f"values must be iterable, or have a length and records by number, but {kind} arrived."
        raise OptionError(msg)


def _narrowed(values: object, columns: list[Column]) -> object:
    """A table without the columns that are not read, so that they are not decoded; anything else as it is."""
    names: object = getattr(values, "column_names", None)
    select: Callable[[list[Column]], object] | None = getattr(values, "select_columns", None)
    if select is None or not isinstance(names, list):
        return values
    known = cast("list[str]", names)
    for column in columns:
        if column not in known:
            msg = (
                f"{type(values).__name__} has no column {column!r}; its columns are {', '.join(map(repr, known[:20]))}."
            )
            raise OptionError(msg, column=column)
    return select(columns)
