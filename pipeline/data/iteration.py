"""Iterate over values in a fixed order, and tell how many there are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, cast, final

from typing_extensions import override

from pipeline.checks.hints import describe
from pipeline.errors import OptionError

A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)


def iterate(values: Iterable[A]) -> Iterator[A]:
    """Iterate over values; those of a map-style data set, which has no `__iter__`, are read by number.

    Python would read such a data set until an IndexError. But its own code may raise one by mistake, or none at all, so
    its length determines the end.

    Raises:
        OptionError: if the values have no fixed order, or neither `__iter__` nor a length.

    Example:
        >>> class Squares:
        ...     def __len__(self): return 3
        ...     def __getitem__(self, number): return number * number
        >>> list(iterate(Squares()))
        [0, 1, 4]
    """
    check_ordered(values)
    if hasattr(values, "__iter__"):
        return iter(values)
    if not is_map_style(values):
        msg = f"values must have __iter__, or __len__ and __getitem__, got {describe(values)}; define one of them."
        raise OptionError(msg)
    records = cast("Sequence[A]", values)
    # A generator: a StopIteration of the data set's own code becomes a RuntimeError (PEP 479) instead of the end.
    return (records[number] for number in range(len(records)))


def is_map_style(values: object) -> bool:
    """Return whether values are read by number only: they have `__getitem__` and `__len__`, but no `__iter__`."""
    return hasattr(values, "__getitem__") and hasattr(values, "__len__") and not hasattr(values, "__iter__")


def check_ordered(values: object) -> None:
    """Reject values whose order is not fixed, and those that are read by label.

    Raises:
        OptionError: for a set, a mapping or a table.
    """
    kind = type(values).__name__
    if isinstance(values, set | frozenset):
        msg = (
            f"values must have a fixed order, but that of a {kind} differs from process to process; "
            "pass a list: sorted(values)."
        )
        raise OptionError(msg)
    if isinstance(values, Mapping):
        msg = (
            f"values must be records in order, got {describe(cast('object', values))}, which is read by its keys; "
            "choose one of its values, or pass list(values.values())."
        )
        raise OptionError(msg)
    if hasattr(values, "columns") and hasattr(values, "iloc"):
        msg = (
            f"values must be records in order, but {describe(values)} gives the names of its columns; pass its rows: "
            'frame.to_dict("records"), or one column.'
        )
        raise OptionError(msg)


def by_position(values: Any) -> Any:  # noqa: ANN401 - any class of records
    """Return an object that reads the values by position; a pandas Series reads `series[3]` by its label 3."""
    return getattr(values, "iloc", values)


def find_length(values: object) -> int | None:
    """Return the number of values if it is known."""
    if not hasattr(values, "__len__"):
        return None
    # An iterable over a file or a stream may have the method, but raise in it.
    try:
        return len(cast("Sequence[object]", values))
    except (TypeError, NotImplementedError):
        return None


@final
class SizedIterator(Iterator[A_co], Generic[A_co]):
    """Iterator with the length of the values that it was made of, for stages that use the length.

    Args:
        values: the iterator.
        original: the values; their length is computed when it is needed, since a file has to be read for it.
    """

    def __init__(self, values: Iterator[A_co], original: object) -> None:
        self._values: Final = values
        self._original: Final = original

    @override
    def __next__(self) -> A_co:
        return next(self._values)

    def __len__(self) -> int:
        """Return the length of the original values.

        Raises:
            TypeError: if it is unknown.
        """
        return len(cast("Sequence[object]", self._original))
