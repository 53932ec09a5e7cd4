"""Tests of the declaration of fields and sides, and of the stages that select them."""

import attrs
import pytest
import torch

from pipeline import (
    Classify,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    Identity,
    Ids,
    Join,
    Pack,
    Pad,
    Padded,
    Row,
    Sides,
    Vectors,
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
