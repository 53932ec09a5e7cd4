"""Tests of the declaration of fields and sides, and of the stages that select them."""

from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch

from pipeline import (
    Bucket,
    Classify,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    FromColumns,
    FromFields,
    FromIds,
    Identity,
    Ids,
    Join,
    Nested,
    Pack,
    Pad,
    Padded,
    Row,
    Sides,
    Vectors,
    read,
    through,
)
from pipeline.core.stage import Spec
from pipeline.errors import CompositionError, OptionError, ShapeError
from support.records import Event, Pair, make_event, make_ids
from support.untyped import as_any, to_list


def test_a_field_is_selected_in_both_layouts() -> None:
    """With the row ids and the order of the whole batch."""
    batch = Pad(Event)([make_event([3, 1], 4), make_event([2], 7)])
    for whole in (batch, Pack(Event)(batch)):
        code = Event.code(whole)
        assert to_list(code.padded().values) == [[3, 1], [2, 0]]
        assert to_list(code.row_ids) == [4, 7]
        assert code.order is batch.order


def test_a_side_has_its_own_lengths() -> None:
    """The row's length is that of the longer side."""
    batch = Pad(Pair)([Row(Pair(make_ids([1, 2]), make_ids([3]))), Row(Pair(make_ids([]), make_ids([4, 5, 6])))])
    assert to_list(batch.lengths) == [2, 3]
    assert to_list(Pair.premise(batch).lengths) == [2, 0]
    assert to_list(Pair.hypothesis(batch).lengths) == [1, 3]


def test_fields_of_unequal_lengths_are_rejected() -> None:
    """When the row is made; the error says how long each is."""
    with pytest.raises(ShapeError, match="fields of Event must have one value per step.*code has 2, amount has 1"):
        Event(make_ids([1, 2]), Vectors(torch.ones(1, 1)))


def test_stages_are_not_sequences() -> None:
    """A type checker accepts `through` there."""
    with pytest.raises(ShapeError, match="field 'amount' of Event must be a sequence.*EmbedFields"):
        Event(make_ids([1]), through(Identity(1)))


def test_another_record_is_rejected() -> None:
    """The error names both."""
    batch = Padded(Ids, torch.zeros(1, 1, dtype=torch.int64), torch.tensor([1]))
    with pytest.raises(ShapeError, match="Event.code takes batches of Event, got Ids"):
        as_any(Event.code)(batch)


def test_a_field_must_be_a_kind() -> None:
    """Of other annotations the class and the field are reported."""

    @attrs.frozen(eq=False)
    class Wrong(Fields):
        code: Ids
        size: int

    with pytest.raises(TypeError, match="field 'size' of Wrong must be Ids, Vectors, Hidden or Nested of these"):
        Wrong.get_kinds()


class Undecorated(Fields):
    """A class whose author forgot the decorator."""

    code: Ids


class Extended(Event):
    """One derived from a decorated class, with a field that attrs does not know."""

    place: Ids


@attrs.frozen(eq=False)
class Empty(Fields):
    """A class without fields."""


TAKING: list[Callable[[Any], object]] = [
    as_any(Pad),
    as_any(FromFields),
    lambda kind: Bucket(kind, rows=2),
    lambda kind: as_any(FromColumns)(kind, code=read(FromIds())),
    lambda kind: as_any(EmbedFields)(kind, code=through(Embed(9, 4))),
]


@pytest.mark.parametrize("make", TAKING)
def test_a_class_without_fields_is_rejected_by_every_stage_that_takes_one(make: Callable[[Any], object]) -> None:
    """When the stage is made, with the remedy."""
    for kind in (Undecorated, Extended):
        with pytest.raises(TypeError, match=rf"{kind.__name__} must be an attrs class; decorate it with @attrs.frozen"):
            make(kind)
    with pytest.raises(TypeError, match="Empty must have a field; declare each with its kind, as in `code: Ids`"):
        make(Empty)


@pytest.mark.parametrize("counts", [[2], torch.tensor([2.0]), torch.tensor([[2]]), 2, torch.tensor([2], device="meta")])
def test_counts_of_inner_steps_must_be_integers_per_step(counts: object) -> None:
    """A float would be rounded silently, and a second axis has no meaning."""
    with pytest.raises(ShapeError, match="counts must be an int64 tensor with one number per step, on the CPU, got"):
        Nested(make_ids([1, 2]), as_any(counts))


def test_inner_steps_must_be_a_sequence() -> None:
    """Not a list of ids."""
    with pytest.raises(ShapeError, match="inner must be a sequence, such as Ids or Vectors, got a list; wrap it"):
        Nested(as_any([1, 2]), torch.tensor([2]))


@pytest.mark.parametrize("name", ["cut", "aligned", "get_kinds", "_code"])
def test_a_field_with_a_name_that_the_base_uses_is_rejected(name: str) -> None:
    """A side called `aligned` made all sides count as fields of one length."""
    with pytest.raises(OptionError, match=f"field '{name}' of Wrong must have a public name .* rename it"):
        attrs.make_class("Wrong", {name: attrs.field(type=Ids)}, bases=(Sides,), eq=False)


def test_a_field_of_unknown_size_raises_as_soon_as_a_stage_needs_it() -> None:
    """No stage before it can determine the size; the error says where to state it."""
    embed = EmbedFields(Event, code=through(Embed(9, 4)), amount=through(Identity()))
    message = r"encoder 'gru' does not know .* of field 'amount' of Event is not known; state it, as in Identity\(1\)"
    with pytest.raises(CompositionError, match=message):
        _ = embed >> Encode("gru", hidden_size=8)
    with pytest.raises(CompositionError, match="field 'amount' of Event is not known"):
        _ = Join(Event.code >> Embed(9, 4), Event.amount) >> Encode("gru", hidden_size=8)
    with pytest.raises(CompositionError, match="Classify does not know .* of field 'amount' of Event"):
        Classify(2).build(embed.build(Spec()))
    sized = EmbedFields(Event, code=through(Embed(9, 4)), amount=through(Identity(2)))
    for model in (sized >> Encode("gru", hidden_size=8), embed >> Encode("gru", hidden_size=8, input_size=6)):
        assert model.double()(Pad(Event)([make_event([3, 1])])).final.shape == (1, 8)
