"""Columns of a batch of records, as Ray Data, Hugging Face `datasets`, pandas and pyarrow have them.

A batch is a mapping from columns to arrays or lists, a data frame, or a table. Reading gives plain values, row by row;
what is added comes back in the same form.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final, TypeAlias, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import TypeIs

from pipeline.checks.hints import describe
from pipeline.errors import LengthError, OptionError
from pipeline.text import suggest_name

T = TypeVar("T")

_Table: TypeAlias = Any
"""A data frame of pandas, or a table or record batch of pyarrow, which have no types here."""

_ACCEPTED: Final = "a mapping from columns to arrays or lists, a table of pyarrow, or a data frame of pandas"


def list_columns(batch: object) -> list[str]:
    """Return the names of the columns.

    Raises:
        OptionError: if it is not a batch of columns.

    Example:
        >>> list_columns({"text": ["to be", "or not"], "stars": [4, 2]})
        ['text', 'stars']
    """
    if isinstance(batch, Mapping):
        return list(cast("Mapping[str, object]", batch))
    if _is_arrow(batch):
        return list(cast("_Table", batch).schema.names)
    if _is_frame(batch):
        return list(cast("_Table", batch).columns)
    msg = f"columns must be {_ACCEPTED}, got {describe(batch)}; for Hugging Face datasets use map(..., batched=True)."
    raise OptionError(msg)


def read_column(batch: object, name: str) -> list[Any]:
    """Return the values of a column as plain Python values; arrays of features become tensors.

    Raises:
        OptionError: if there is no such column, or it holds a single value, as a record does.

    Example:
        >>> read_column({"ids": np.array([[1, 2], [3, 4]])}, "ids")
        [[1, 2], [3, 4]]
    """
    names = list_columns(batch)
    if name not in names:
        msg = f"columns must have {name!r}, got {', '.join(map(str, names))}."
        raise OptionError(msg + suggest_name(name, list(map(str, names))), column=name)
    column: object = cast("_Table", batch)[name]
    if isinstance(batch, Mapping):
        if isinstance(column, str | bytes) or not hasattr(column, "__len__"):
            msg = (
                f"column {name!r} must hold a value per row, got {column!r:.60}; this is a single record, so pass "
                "batched=True to map, or use map_batches."
            )
            raise OptionError(msg, column=name)
        return [_to_plain(value) for value in cast("Sequence[object]", column)]
    # In both libraries a column has its own method for a list of its values.
    values: list[object] = cast("_Table", column).to_pylist() if _is_arrow(batch) else cast("_Table", column).tolist()
    return [_to_plain(value) for value in values]


def add_columns(batch: T, new: Mapping[str, Sequence[object]], replaces: str | None = None) -> T:
    """Return a batch with more columns, in the form that it has.

    Args:
        batch: the columns.
        new: a value per row for each new column.
        replaces: the column that a new one of its name may replace.

    Raises:
        OptionError: if a column exists already.
        LengthError: if there is not one value per row.

    Example:
        >>> add_columns({"text": ["to be", "or not"]}, {"length": [2, 2]})
        {'text': ['to be', 'or not'], 'length': [2, 2]}
    """
    names = list_columns(batch)
    for name, values in new.items():
        if name in names and name != replaces:
            msg = f"columns must not have {name!r} yet, but have it; drop or rename it, or choose another name."
            raise OptionError(msg, column=name)
        if names and len(values) != (count := _count_rows(batch, names[0])):
            msg = f"column {name!r} must have a value for each of {count} rows, got {len(values)}."
            raise LengthError(msg, column=name, rows=count, values=len(values))
    table: _Table = batch
    if isinstance(batch, Mapping):
        given = dict(cast("Mapping[str, object]", batch))
        # Ray takes a batch of arrays for one format, and a batch of lists for another.
        has_arrays = any(map(_is_array, given.values()))
        table = {**given, **{name: _to_array(values) if has_arrays else list(values) for name, values in new.items()}}
    elif _is_arrow(batch):
        arrow: _Table = import_module("pyarrow")
        for name, values in new.items():
            column = arrow.array(list(values))
            place = names.index(name) if name in names else None
            table = table.append_column(name, column) if place is None else table.set_column(place, name, column)
    else:
        series: _Table = import_module("pandas").Series
        # As objects, if they are lists: pandas would take lists of equal length for a table.
        columns = {name: series(_to_array(values), index=table.index) for name, values in new.items()}
        table = table.assign(**columns)
    return cast("T", table)


def _count_rows(batch: object, name: str) -> int:
    return len(cast("_Table", batch)[name])


def _to_array(values: Sequence[object]) -> NDArray[Any]:
    """Return values as an array with one axis: of numbers or texts, or else of objects, such as lists."""
    if set(map(type, values)) in ({str}, {bool}, {int}, {float}):
        return np.array(values)
    # Filled one by one: from lists of equal length, `np.array` would make two axes.
    array = np.empty(len(values), object)
    for number, value in enumerate(values):
        array[number] = value
    return array


def _to_plain(value: object) -> object:
    """Return a value of NumPy as a plain one, and an array of features as a tensor of time x feature."""
    if isinstance(value, np.generic):
        return cast("object", cast("_Table", value).item())
    if _is_array(value):
        if value.dtype.kind == "f" and value.ndim == 2:
            return torch.tensor(value, dtype=torch.get_default_dtype(), device="cpu")
        # An array of objects may hold arrays.
        values: list[object] = value.tolist()
        return list(map(_to_plain, values)) if value.dtype.kind == "O" else values
    return value


def _is_array(value: object) -> TypeIs[NDArray[Any]]:
    return isinstance(value, np.ndarray)


def _is_arrow(batch: object) -> bool:
    # By name: a table can exist only if pyarrow is imported already.
    return type(batch).__module__.partition(".")[0] == "pyarrow" and hasattr(batch, "schema")


def _is_frame(batch: object) -> bool:
    return type(batch).__module__.partition(".")[0] == "pandas" and hasattr(batch, "columns")
