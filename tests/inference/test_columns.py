"""Batches of columns are read and extended in the form that they have."""

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from pipeline.errors import LengthError, OptionError
from pipeline.inference.columns import add_columns, list_columns, read_column
from support.needs import needs
from support.untyped import to_list

WORDS = [["to", "be"], [], ["not"]]


def make_lists(columns: dict[str, Any]) -> Any:
    """Return columns as lists, as `datasets` passes them."""
    return {name: list(values) for name, values in columns.items()}


def make_arrays(columns: dict[str, Any]) -> Any:
    """Return columns as arrays, as Ray passes them: of objects if they hold lists."""
    found: dict[str, Any] = {}
    for name, values in columns.items():
        found[name] = np.empty(len(values), object)
        for number, value in enumerate(values):
            found[name][number] = np.array(value, object) if isinstance(value, list) else value
    return found


def make_frame(columns: dict[str, Any]) -> Any:
    """Return columns as a data frame whose rows are labelled in another order."""
    count = len(next(iter(columns.values())))
    return import_module("pandas").DataFrame(columns, index=range(count, 0, -1))


def make_table(columns: dict[str, Any]) -> Any:
    """Return columns as a table of pyarrow."""
    return import_module("pyarrow").table(columns)


def make_record_batch(columns: dict[str, Any]) -> Any:
    """Return columns as a record batch of pyarrow."""
    return import_module("pyarrow").record_batch(columns)


FORMS = [
    pytest.param(make_lists, id="lists"),
    pytest.param(make_arrays, id="arrays"),
    pytest.param(make_frame, id="frame", marks=needs("pandas")),
    pytest.param(make_table, id="table", marks=needs("pyarrow")),
    pytest.param(make_record_batch, id="record batch", marks=needs("pyarrow")),
]

Make = Callable[[dict[str, Any]], Any]


@pytest.mark.parametrize("make", FORMS)
def test_values_are_read_as_plain_values(make: Make) -> None:
    """Texts, numbers, and lists of unequal length."""
    batch = make({"text": ["a", "b", "c"], "number": [1, 2, 3], "words": WORDS})
    assert list_columns(batch) == ["text", "number", "words"]
    assert read_column(batch, "text") == ["a", "b", "c"]
    assert read_column(batch, "number") == [1, 2, 3]
    assert read_column(batch, "words") == WORDS
    assert {type(value) for value in read_column(batch, "number")} == {int}


@pytest.mark.parametrize("make", FORMS)
@pytest.mark.parametrize("values", [["x", "y", "z"], [0.5, 1.5, 2.5], WORDS, [["a"], ["b"], ["c"]]], ids=str)
def test_added_columns_have_the_form_of_the_batch(make: Make, values: Sequence[Any]) -> None:
    """In the order of the rows, also lists of equal length, and behind the columns that exist."""
    batch = make({"text": ["a", "b", "c"]})
    found = add_columns(batch, {"new": values})
    assert isinstance(found, type(batch))
    assert list_columns(found) == ["text", "new"]
    assert read_column(found, "new") == values
    assert list_columns(batch) == ["text"]


@pytest.mark.parametrize("make", FORMS)
def test_a_column_is_replaced_in_its_place_only_if_that_is_wanted(make: Make) -> None:
    """Otherwise nothing would be known of the values that were there."""
    batch = make({"text": ["a", "b"], "tags": [["N"], ["V"]]})
    found = add_columns(batch, {"tags": [["N", "N"], []], "more": [1, 2]}, replaces="tags")
    assert list_columns(found) == ["text", "tags", "more"]
    assert read_column(found, "tags") == [["N", "N"], []]
    with pytest.raises(OptionError, match="columns must not have 'tags' yet, but have it; drop or rename it"):
        add_columns(batch, {"tags": [["N"], []]})


def test_new_columns_must_have_a_value_per_row() -> None:
    """Libraries would report it without the name, or not at all."""
    with pytest.raises(LengthError, match="column 'new' must have a value for each of 2 rows, got 3"):
        add_columns({"text": ["a", "b"]}, {"new": [1, 2, 3]})


def test_arrays_of_features_become_tensors() -> None:
    """With one axis for all rows, as Ray stacks rows of equal length, and of unequal length."""
    equal = read_column({"x": np.ones((2, 3, 4))}, "x")
    unequal = np.empty(2, object)
    unequal[0], unequal[1] = np.ones((3, 1)), np.zeros((0, 1))
    assert [tuple(value.shape) for value in equal] == [(3, 4), (3, 4)]
    assert [to_list(value) for value in read_column({"x": unequal}, "x")] == [[[1.0]] * 3, []]
    assert all(isinstance(value, Tensor) for value in equal)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"txt": ["a"]}, "columns must have 'text', got txt. Did you mean 'txt'?"),
        ({"text": "a"}, "column 'text' must hold a value per row, got 'a'; this is a single record, so pass batched"),
        (["a"], "columns must be a mapping from columns to arrays or lists, a table .*, got a list"),
    ],
)
def test_what_is_not_a_batch_with_the_column_is_rejected(batch: object, message: str) -> None:
    """Also a record, which `map` passes by default."""
    with pytest.raises(OptionError, match=message.replace("?", r"\?")):
        read_column(batch, "text")
