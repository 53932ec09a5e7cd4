"""Tests of `EachStep`: each step equals its inner row alone, computed once per distinct inner row."""

from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline import (
    Chain,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Identity,
    Ids,
    Nested,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Pooled,
    Row,
    Vectors,
    through,
    unused,
)
from pipeline.errors import ShapeError, ValuesError
from pipeline_recurrent import LSTM
from support.records import Event, Word, make_event, make_ids, make_nested, make_words
from support.untyped import as_any, seed

WORDS = st.lists(st.lists(st.text("abc", max_size=4), max_size=4), min_size=1, max_size=4)


def make_speller() -> Chain[Packed[Ids], Pooled]:
    """Return a chain from characters to one vector per word, in float64."""
    seed(0)
    chain = Embed(26, 3).double() >> Encode(LSTM(3, 2, bidirectional=True).double()) >> Pool("max")
    return cast("Chain[Packed[Ids], Pooled]", chain)


def spell_alone(speller: Chain[Packed[Ids], Pooled], word: str) -> Tensor:
    """Return the vector of one word in a batch of its own."""
    ids = make_ids([ord(letter) - ord("a") for letter in word])
    return speller(Pad()([Row(ids)]).packed()).values[0]


@given(rows=WORDS)
def test_each_word_equals_the_word_alone(rows: list[list[str]]) -> None:
    """In both layouts, for equal words, empty words and empty rows."""
    speller = make_speller()
    batch = Pad(Nested[Ids])([Row(make_nested(words)) for words in rows])
    stage = EachStep(speller)
    padded, packed = stage(batch), stage(batch.packed())
    for row, words in enumerate(rows):
        for step, word in enumerate(words):
            torch.testing.assert_close(padded.values[row, step], spell_alone(speller, word))
        assert not padded.values[row, len(words) :].any()
    torch.testing.assert_close(packed.values, padded.packed().values)


def test_each_distinct_word_is_computed_once() -> None:
    """Five words, two of them distinct."""
    seen: list[int] = []
    speller = make_speller()
    speller.register_forward_pre_hook(lambda _, args: seen.append(len(args[0].lengths)))
    batch = Pad(Nested[Ids])([Row(make_nested(["a", "b", "a"])), Row(make_nested(["b", "b"]))])
    EachStep(speller)(batch)
    assert seen == [2]


def test_gradients_of_equal_words_add_up() -> None:
    """A word that occurs twice has the gradient of both places, as two computations would."""
    speller = make_speller()
    batch = Pad(Nested[Ids])([Row(make_nested(["ab", "c", "ab"]))])
    weights = torch.tensor([[1.0], [2.0], [4.0]], dtype=torch.float64)
    torch.autograd.backward((EachStep(speller)(batch).values[0] * weights).sum())
    found = {name: parameter.grad for name, parameter in speller.named_parameters()}
    speller.zero_grad()
    torch.autograd.backward(5 * spell_alone(speller, "ab").sum() + 2 * spell_alone(speller, "c").sum())
    for name, parameter in speller.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_inner_rows_may_hold_vectors_or_several_fields() -> None:
    """Baskets of items with fields: nothing is compared, every inner row is computed."""
    items = Nested(make_event([3, 1, 2]).sequence, torch.tensor([2, 0, 1]))
    read = EmbedFields(Event, through(Embed(4, 2).double()), through(Identity(2)))
    stage = EachStep(read >> Encode(LSTM(4, 2).double()) >> Pool("final"))
    found = stage(Pad(Nested[Event])([Row(items)])).values[0]
    alone = as_any(stage.inner)(Pad(Event)([make_event([3, 1])]).packed()).values[0]
    torch.testing.assert_close(found[0], alone)
    assert not found[1].any()


def test_words_and_characters_are_joined() -> None:
    """The vector of a word's id beside that of its characters; sizes pass through."""
    spell = EachStep(Embed(26, 3) >> Encode("bilstm", hidden_size=2) >> Pool("max"))
    model = Pack(Word) >> EmbedFields(Word, word=through(Embed(9, 5)), characters=through(spell))
    encode = Encode("lstm", hidden_size=3)
    chain = model >> encode
    assert chain.state_dict()["encode.encoder.rnn.weight_ih_l0"].shape == (12, 9)
    batch = Pad(Word)([make_words(["ab", "c"]), make_words([])])
    assert chain(batch).steps.values.shape == (2, 3)
    names = {key.split(".encoder.")[0] for key in model.state_dict()}
    assert {"embed_fields.word.weight", "embed_fields.characters.inner.embed.weight"} <= names


def test_rows_without_inner_rows_are_rejected() -> None:
    """A flat field has none; the error says what to select."""
    stage = EachStep(make_speller())
    with pytest.raises(ShapeError, match="input of EachStep must be Nested, got Ids"):
        as_any(stage)(Pad()([Row(make_ids([1]))]))


def test_unused_fields_are_left_out() -> None:
    """The vectors are those of the other fields."""
    embed = EmbedFields(Event, code=through(Embed(9, 4)), amount=unused(Vectors))
    found = embed(Pad(Event)([make_event([3, 1])]))
    assert isinstance(found, Padded)
    assert found.values.shape == (1, 2, 4)


def test_an_error_in_an_inner_row_names_the_row_and_the_step() -> None:
    """Not only the number of the inner row among the distinct ones, which looks like a row id."""
    pad, spell = Pad(Nested[Ids]), EachStep(Embed(3, 2) >> Encode(LSTM(2, 2)) >> Pool("max"))
    batch = pad([Row(make_nested(["a", "b"]), row_id=5), Row(make_nested(["a", "b", "az"]), row_id=6)])
    with pytest.raises(ValuesError, match="inner row at step 2 of row 6, .*: row 2, step 1 holds id 25") as caught:
        spell(batch)
    assert caught.value.details["row"] == 6


@pytest.mark.parametrize("inner", [Embed(26, 2), Embed(26, 2) >> Encode(LSTM(2, 2))])
def test_inner_chains_without_a_vector_per_row_are_rejected(inner: object) -> None:
    """The vectors of steps would be taken for those of rows."""
    batch = Pad(Nested[Ids])([Row(make_nested(["ab", "c"]))])
    with pytest.raises(
        ShapeError, match="must return Pooled with one vector for each of 2 inner rows, got a .*with Pool"
    ):
        as_any(EachStep)(inner)(batch)
