"""Reflection on type hints."""

from typing import TYPE_CHECKING, Any, Optional, TypeVar, Union

import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar as DefaultTypeVar

from pipeline import Padded, Vectors
from pipeline.checks.hints import (
    describe,
    format_hint,
    get_axis_names,
    get_classes,
    is_unconstrained,
    resolve_hints,
    split_union,
)

if TYPE_CHECKING:
    from pathlib import Path

A = TypeVar("A")
B = TypeVar("B", bound=int)
D = DefaultTypeVar("D", default=int)


@pytest.mark.parametrize(
    ("hint", "classes"),
    [
        (int, (int,)),
        (list[int], (list,)),
        (int | None, (int, type(None))),
        (Union[int, str], (int, str)),  # noqa: UP007 - the older form is another class at run time
        (Optional[int], (int, type(None))),  # noqa: UP045
        (None, (type(None),)),
        (Any, None),
        (object, None),
        (A, None),
        (int | A, None),
        (Float[Tensor, "batch"], None),
    ],
)
def test_classes_of_a_hint(hint: object, classes: tuple[type, ...] | None) -> None:
    """Classes for `isinstance`, or None if the hint needs more than that."""
    assert get_classes(hint) == classes


TEXTS: list[tuple[object, str]] = [
    (Optional[Float[Tensor, "batch time"]], "Float[Tensor, 'batch time'] or None"),  # noqa: UP045 - for pyright
    (Padded[Vectors], "Padded[Vectors]"),
    (B, "int"),
    (A, "~A"),
    (Any, "Any"),
]


@pytest.mark.parametrize(("hint", "text"), TEXTS)
def test_hints_are_written_as_in_the_source(hint: object, text: str) -> None:
    """Type variables are written as their bounds."""
    assert format_hint(hint) == text


def test_unconstrained_hints_accept_anything() -> None:
    """Type variables of both modules count, whatever their class is."""
    assert all(map(is_unconstrained, (Any, object, A, D)))
    assert not any(map(is_unconstrained, (int, int | None, list[Any])))


def test_unions_are_split_and_axes_named() -> None:
    """Of any other hint the result is the hint itself, and no axis."""
    assert split_union(int | str) == (int, str)
    assert split_union(int) == (int,)
    assert get_axis_names(Float[Tensor, "*batch #time feature"]) == ["batch", "time", "feature"]
    assert get_axis_names(Tensor) == []


def test_unresolvable_hints_are_empty() -> None:
    """A name imported for type checkers only does not exist at run time."""

    def function(path: "Path") -> int:
        return len(str(path))

    def resolvable(count: int) -> int:
        return count

    assert resolve_hints(function) == {}
    assert resolve_hints(resolvable) == {"count": int, "return": int}


def test_values_are_described_briefly() -> None:
    """Tensors by dtype, shape and device; other values by their type."""
    assert describe(torch.zeros(2, 3)) == "float32 of shape (2, 3)"
    assert describe(torch.zeros(2, device="meta")) == "float32 of shape (2,) on meta"
    values: list[object] = [None, 3, [], "a"]
    assert [describe(value) for value in values] == ["None", "an int", "a list", "a str"]
