"""Records of a list, an iterable, a torch `Dataset`, or a data set of Hugging Face `datasets`, as a source."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final, Generic, Protocol, TypeAlias, TypedDict, TypeVar, cast, final, overload

from torch.utils.data import IterableDataset
from typing_extensions import Unpack, override

from pipeline.checks.hints import describe
from pipeline.data.iteration import check_ordered
from pipeline.data.rows import Example, X_co, reject_single_text
from pipeline.errors import OptionError, UnsizedError
from pipeline.sources.malformed import (
    SHOWN,
    Column,
    ColumnValues,
    Fields,
    MalformedError,
    OnBadRecord,
    Problem,
    TargetColumns,
    choose_fields,
    find_column,
)
from pipeline.sources.source import compute_digest
from pipeline.sources.validated import Validated

V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)


class MapStyle(Protocol[V_co]):
    """Records by number, as in a torch `Dataset`."""

    def __getitem__(self, index: int, /) -> V_co:
        """Return the record of a number."""
        ...


Collection: TypeAlias = Iterable[V] | MapStyle[V]
"""Records that can be read in order or by number."""


class RecordOptions(TypedDict, Generic[V], total=False):
    """Options of `Records` with fields, explained there."""

    target: TargetColumns | None
    on_bad_record: OnBadRecord[V]


@final
class Records(Validated[X_co]):
    """Records of a list, an iterable, a torch `Dataset`, or a data set of Hugging Face `datasets`.

    A record is an input, or an `Example`; or a mapping or a tuple whose field `text` or `words` is the input, or whose
    fields `inputs` are, and whose field `target` is the target. Values with a length are read by number; others only in
    order. A pandas Series is read by position, not by its labels.

    Args:
        values: the records. Each iteration must start at the first record, so `values` cannot be an iterator.
        text: the field of the input if it is text: by name, or by number in a tuple.
        words: the field of the input if it is a list of words.
        inputs: the fields of the input if they are several, for `FromColumns`; they may hold anything.
        target: the field of the target: a class by name or number, a list with a class per step, or None. A list of
            fields gives several targets, a mapping of their values.
        on_bad_record: rule for records in which a field is missing or has a wrong type, see `FileOptions`. Inputs
            without fields are checked by the input stage.

    Raises:
        OptionError: if `values` is an iterator, a set, a table or several splits, or has no field of that name.
        TextError: if `values` is a single text.

    Example:
        >>> source = Records([{"review": "Fine!", "stars": 5}, {"review": "Dull."}], text="review", target="stars")
        >>> source[0].input, source[0].target
        ('Fine!', 5)
        >>> source[1]
        Traceback (most recent call last):
        pipeline.errors.RecordError: list, record 2: a record must have a field 'stars', got fields 'review'; ...
    """

    # The first two infer the type of the inputs; with fields, the records may be anything.
    @overload
    def __init__(
        self: "Records[V]", values: Iterable[V | Example[V]], *, on_bad_record: OnBadRecord[V] = "raise"
    ) -> None: ...
    @overload
    def __init__(
        self: "Records[V]", values: MapStyle[Example[V]], *, on_bad_record: OnBadRecord[V] = "raise"
    ) -> None: ...
    @overload
    def __init__(
        self: "Records[str]", values: Collection[Any], *, text: Column, **options: Unpack[RecordOptions[str]]
    ) -> None: ...
    @overload
    def __init__(
        self: "Records[Sequence[str]]",
        values: Collection[Any],
        *,
        words: Column,
        **options: Unpack[RecordOptions[Sequence[str]]],
    ) -> None: ...
    @overload
    def __init__(
        self: "Records[ColumnValues]",
        values: Collection[Any],
        *,
        inputs: Sequence[str],
        **options: Unpack[RecordOptions[ColumnValues]],
    ) -> None: ...
    def __init__(
        self,
        values: object,
        *,
        text: Column | None = None,
        words: Column | None = None,
        inputs: Sequence[str] | None = None,
        target: TargetColumns | None = None,
        on_bad_record: OnBadRecord[Any] = "raise",
    ) -> None:
        super().__init__(on_bad_record)
        reject_single_text(values)
        _check_values(values)
        has_fields = not text is words is target is inputs is None
        fields = choose_fields(text, words, target, inputs=inputs) if has_fields else None
        self._fields: Final[Fields[X_co] | None] = fields
        self._values: Final[Any] = values if self._fields is None else _select_columns(values, self._fields.columns)
        # A pandas Series takes `series[3]` for the row labelled 3, wherever that is.
        self._by_number: Final[Any] = getattr(values, "iloc", self._values)
        self._original: Final[Any] = values
        self._name: Final = type(values).__name__

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the values, if they have a method `set_epoch`, as a Hugging Face `IterableDataset` has."""
        if hasattr(self._original, "set_epoch"):
            self._original.set_epoch(epoch)

    @property
    @override
    def fingerprint(self) -> str | None:
        """Digest of the fingerprint of a data set of Hugging Face `datasets`; None for other values."""
        found: object = getattr(self._values, "_fingerprint", None)
        if not isinstance(found, str) or callable(self.on_bad_record):
            return None
        return compute_digest("records", found, repr(self._fields), self.on_bad_record)

    @override
    def _iterate_raw(self) -> Iterator[Example[X_co] | Problem]:
        epoch: object = getattr(self._original, "epoch", None)
        if self._values is not self._original and isinstance(epoch, int) and hasattr(self._values, "set_epoch"):
            # Selecting columns made a copy, which does not follow the epoch of the data set that the user has.
            self._values.set_epoch(epoch)
        # A torch Dataset without __iter__ must not be iterated: Python would read until an IndexError, and a bug of the
        # data set may raise one, too.
        if hasattr(self._values, "__iter__"):
            for number, value in enumerate(cast("Iterable[object]", self._values)):
                yield self._make_record(number, value)
        else:
            # Not `map`: a StopIteration that the data set raises by mistake would end it silently.
            for number in range(self._count_raw()):
                yield self._read_raw(number)

    @override
    def _count_raw(self) -> int:
        if not hasattr(self._values, "__len__"):
            msg = f"{self._name} must have a length for this; iterate over it, or put the records into a list."
            raise UnsizedError(msg)
        return len(self._values)

    @override
    def _read_raw(self, number: int) -> Example[X_co] | Problem:
        if isinstance(self._values, IterableDataset) or not hasattr(self._values, "__getitem__"):
            msg = f"{self._name} cannot be read by number; iterate over it, or put the records into a list."
            raise UnsizedError(msg)
        return self._make_record(number, self._by_number[number])

    @override
    def __getitems__(self, indices: Sequence[int]) -> list[Example[X_co]]:
        read_several: Callable[[list[int]], list[object]] | None = getattr(self._values, "__getitems__", None)
        if read_several is None:
            return super().__getitems__(indices)
        numbers = [self._get_raw_number(index) for index in indices]
        values = read_several(numbers)
        return [self._accept(self._make_record(*pair)) for pair in zip(numbers, values, strict=True)]

    def _make_record(self, number: int, value: object) -> Example[X_co] | Problem:
        if self._fields is None:
            return cast("Example[X_co]", value) if isinstance(value, Example) else Example(cast("X_co", value))
        try:
            return self._fields.make_example(value)
        except MalformedError as error:
            text = repr(value)[:SHOWN]
            return Problem(self._locate_raw(number), self._name, number + 1, 1, error.kind, error.reason, text)

    @override
    def _locate_raw(self, number: int) -> str:
        return f"{self._name}, record {number + 1}"


def _check_values(values: object) -> None:
    kind = describe(values)
    if isinstance(values, Iterator):
        msg = (
            f"each iteration over values must start at the first record, but {kind} can be read only once; put the "
            "records into a list, or write a class whose __iter__ returns a new iterator."
        )
        raise OptionError(msg)
    if hasattr(values, "columns") and hasattr(values, "shape"):
        msg = (
            f"values must be records, but iterating over {kind} gives its columns; pass a list of its rows: "
            'frame.to_dict("records") in pandas, frame.to_dicts() in polars, table.to_pylist() in pyarrow.'
        )
        raise OptionError(msg)
    check_ordered(values)
    if not (hasattr(values, "__iter__") or (hasattr(values, "__getitem__") and hasattr(values, "__len__"))):
        msg = f"values must be iterable, or have a length and records by number, got {kind}."
        raise OptionError(msg)


def _select_columns(values: object, columns: list[Column]) -> object:
    """Return a data set with the given columns only, so that others are not decoded; other values unchanged."""
    names: object = getattr(values, "column_names", None)
    select: Callable[[list[Column]], object] | None = getattr(values, "select_columns", None)
    if select is None or not isinstance(names, list):
        return values
    for column in columns:
        find_column(str(column), cast("list[str]", names), type(values).__name__, OptionError)
    return select(columns)
