"""Classes of fields and of predictions are found by name, and made if they are not passed."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import attrs
import pytest

from pipeline import Fields, Ids, Nested, Sides, TextPair, Vectors, load
from pipeline.errors import LoadError, SaveError
from pipeline.saving.records import (
    Records,
    check_names,
    decode_kind,
    describe_record,
    encode_kind,
    list_outcome_fields,
)
from support.saved import Event, Verdict, make_events
from support.untyped import as_any


@dataclasses.dataclass
class Both:
    """A dataclass with two fields."""

    label: str
    amount: float


class Pair(NamedTuple):
    """A named tuple with two fields."""

    label: str
    amount: float


@pytest.mark.parametrize("kind", [Ids, Vectors, Nested, Nested[Ids], Nested[Nested[Vectors]]])
def test_kinds_are_read_as_written(kind: Any) -> None:
    """Nested ones with the kind of their steps."""
    assert decode_kind(encode_kind(kind)) == kind


def test_other_kinds_are_rejected() -> None:
    """In both directions."""
    with pytest.raises(SaveError, match="must be Ids, Vectors, Hidden, Nested or a class of fields"):
        encode_kind(int)
    for wrong in ("int", {"Nested": "int"}, {"Nested": "Ids", "more": 1}, 3):
        with pytest.raises(LoadError, match="unknown kind"):
            decode_kind(as_any(wrong))


def test_the_fields_of_predictions_are_listed() -> None:
    """Of attrs classes, dataclasses and named tuples."""
    assert list_outcome_fields(Verdict) == list_outcome_fields(Both) == list_outcome_fields(Pair) == ["label", "amount"]
    for wrong in (dict, len, int):
        with pytest.raises(SaveError, match="must be an attrs class, a dataclass or a named tuple"):
            list_outcome_fields(wrong)


def test_given_classes_are_used(tmp_path: Path) -> None:
    """Found among `records` and `gives`; predictions are objects of them."""
    make_events().save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe", takes=dict[str, object], gives=Verdict, records=[Event])
    assert as_any(loaded.stages["pack"]).kind is Event
    row: dict[str, object] = {"kind": ["buy"], "price": [1.0], "count": [3.0], "time": [0.0]}
    assert [type(prediction) for prediction in loaded.predict([row])] == [Verdict]


def test_classes_are_made_if_they_are_not_given(tmp_path: Path) -> None:
    """With the saved fields; one class, however often it occurs."""
    make_events().save(tmp_path / "pipe")
    loaded = load(tmp_path / "pipe")
    made = as_any(loaded.stages["pack"]).kind
    assert issubclass(made, Fields)
    assert describe_record(made) == describe_record(Event)
    assert as_any(loaded.stages["pad"]).kind is made
    row: dict[str, object] = {"kind": ["buy"], "price": [1.0], "count": [3.0], "time": [0.0]}
    (prediction,) = loaded.predict([row])
    assert type(prediction).__name__ == "Verdict"
    assert as_any(prediction).label in {"no", "yes"}


def test_given_classes_with_other_fields_are_rejected(tmp_path: Path) -> None:
    """In kind, number or order: predictions would be wrong in silence."""
    make_events().save(tmp_path / "pipe")
    other = attrs.make_class("Event", {"code": attrs.field(type=Ids)}, bases=(Fields,), frozen=True, eq=False)
    with pytest.raises(
        LoadError, match="class 'Event' of the saved pipe cannot be used: the class that was passed has other fields"
    ):
        load(tmp_path / "pipe", records=[other])
    swapped = attrs.make_class("Verdict", ["amount", "label"])
    with pytest.raises(LoadError, match="class 'Verdict' of the saved pipe cannot be used"):
        load(tmp_path / "pipe", records=[swapped])


def test_the_class_of_pairs_is_known() -> None:
    """It is this library's."""
    assert Records([]).get_record("TextPair", as_any(describe_record(TextPair))) is TextPair
    assert issubclass(TextPair, Sides)


@pytest.mark.parametrize("name", ["", "a b", "1a", "class", "__init__", "a-b", "a\n", "é", "a" * 101, 3, None])
def test_names_that_are_none_are_rejected(name: object) -> None:
    """Attrs writes code with them."""
    with pytest.raises(LoadError, match="is not the name of a class or a field"):
        check_names([name], "Event")
    with pytest.raises(LoadError, match="'a' occurs twice"):
        check_names(["a", "a"], "Event")
