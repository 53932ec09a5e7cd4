"""Iterate over values in a fixed order, up to their length."""

from collections.abc import Callable, Iterable, Iterator
from typing import cast

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from typing_extensions import override

from pipeline import Bucket, FromIds, Pad
from pipeline.data.iteration import SizedIterator, find_length, iterate
from pipeline.errors import OptionError
from support.untyped import to_list, untyped


class MapStyle(Dataset[list[int]]):
    """A torch data set of five records that never raises an IndexError, or raises an error of its own at a record."""

    def __init__(self, error: BaseException | None = None, at: int = -1) -> None:
        self.error, self.at = error, at

    def __len__(self) -> int:
        return 5

    @override
    def __getitem__(self, index: int) -> list[int]:
        if index == self.at and self.error is not None:
            raise self.error
        return [index + 1]


def as_iterable(values: object) -> Iterable[list[int]]:
    """Hide from type checkers that a map-style data set has no `__iter__`."""
    return cast("Iterable[list[int]]", values)


def test_a_map_style_data_set_is_read_by_its_length() -> None:
    """In every entrance of a pipe: training, prediction, input stages and streams by themselves."""
    data = FromIds() >> Bucket(rows=2) >> Pad()
    assert list(iterate(as_iterable(MapStyle()))) == [[1], [2], [3], [4], [5]]
    for batches in (data(as_iterable(MapStyle())), data.predict_batches(as_iterable(MapStyle()))):
        assert sorted(row for batch in batches for row in to_list(batch.metadata.row_ids)) == [0, 1, 2, 3, 4]
    assert len(list(FromIds().map(as_iterable(MapStyle())))) == 5


@pytest.mark.parametrize("error", [IndexError("mine"), KeyError("mine"), StopIteration("mine")], ids=repr)
@pytest.mark.parametrize("entrance", ["call", "predict", "map"])
def test_an_error_of_the_data_set_is_not_its_end(error: BaseException, entrance: str) -> None:
    """A StopIteration becomes a RuntimeError, as in generators."""
    data = FromIds() >> Bucket(rows=2) >> Pad()
    source = as_iterable(MapStyle(error, at=2))
    calls: dict[str, Callable[[], Iterator[object]]] = {
        "call": lambda: data(source),
        "predict": lambda: data.predict_batches(source),
        "map": lambda: FromIds().map(source),
    }
    wanted = RuntimeError if isinstance(error, StopIteration) else type(error)
    with pytest.raises(wanted):
        list(calls[entrance]())


UNORDERED: list[tuple[object, str]] = [
    ({1, 2}, r"values must have a fixed order, but that of a set differs .*; pass a list: sorted\(values\)"),
    (frozenset({1}), "values must have a fixed order, but that of a frozenset"),
    ({0: [1], 1: [2]}, r"values must be records in order, got .*dict.*; choose one .* list\(values.values\(\)\)"),
]


@pytest.mark.parametrize(("values", "message"), UNORDERED)
def test_values_without_an_order_are_rejected(values: object, message: str) -> None:
    """Before anything is read."""
    for call in (iterate, FromIds().map, FromIds() >> Bucket(rows=2), Bucket(rows=2)):
        with pytest.raises(OptionError, match=message):
            list(cast("Iterable[object]", untyped(call)(values)))


def test_ordered_values_are_accepted() -> None:
    """Views of a dict, arrays, tensors, tuples and generators."""
    ordered: list[Iterable[object]] = [{1: 2}.values(), {1: 2}.keys(), np.arange(1), torch.arange(1), (1,), iter([1])]
    for values in ordered:
        assert len(list(iterate(values))) == 1


def test_an_object_with_items_but_no_length_is_rejected() -> None:
    """Python would read it until an IndexError, which it may never raise."""

    class Items:
        def __getitem__(self, index: int) -> int:
            return index

    with pytest.raises(OptionError, match="values must have __iter__, or __len__ and __getitem__"):
        iterate(as_iterable(Items()))


def test_a_length_may_be_unknown() -> None:
    """`__len__` may be missing, or raise."""

    class Unsized:
        def __len__(self) -> int:
            raise TypeError

    assert find_length([1, 2]) == 2
    assert find_length(iter([1])) is None
    assert find_length(Unsized()) is None
    assert find_length(SizedIterator(iter([1]), [1])) == 1
    assert find_length(SizedIterator(iter([1]), iter([1]))) is None
