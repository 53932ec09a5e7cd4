"""Embedding and dropout: padding is never looked up, layouts are kept, masks are what they say."""

import pytest
import torch

from pipeline import Dropout, Embed, Encode, Ids, Pack, Packed, Padded, Pool, States, Vectors
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import OptionError, ShapeError, ValuesError
from pipeline_recurrent import LSTM
from support.untyped import distinct, listed, seed

LENGTHS = torch.tensor([3, 0, 1])


def ids(padding: int = 0) -> Padded[Ids]:
    """Three rows, one of them empty, with something in the padding."""
    values = torch.tensor([[4, 2, 4], [padding] * 3, [1, padding, padding]])
    return Padded(Ids, values, LENGTHS, metadata=BatchMetadata(torch.tensor([7, 8, 9])))


@pytest.mark.parametrize("padding", [0, -1, 99])
def test_padding_is_never_looked_up(padding: int) -> None:
    """Whatever stands in it, it becomes zeros, and row 0 of the weights gets no gradient from it."""
    embed = Embed(5, 3)
    vectors = embed(ids(padding))
    assert isinstance(vectors, Padded)
    assert vectors.kind is Vectors
    assert torch.equal(vectors.values[0], embed.weight[[4, 2, 4]])
    assert not vectors.values[1].any()
    assert not vectors.values[2, 1:].any()
    (gradient,) = torch.autograd.grad(vectors.values.sum(), embed.weight)
    assert listed(gradient[:, 0]) == [0, 1, 1, 0, 2]


def test_layouts_and_riders_are_kept() -> None:
    """Packed ids become packed vectors, the same ones."""
    embed = Embed(5, 3)
    packed = embed(Pack()(ids()))
    assert isinstance(packed, Packed)
    assert torch.equal(packed.padded().values, embed(ids()).padded().values)
    assert listed(packed.metadata.row_ids) == [7, 8, 9]


def test_given_vectors_are_frozen_unless_trained() -> None:
    """And they are a copy."""
    vectors = torch.eye(5)
    frozen, trained = Embed.from_vectors(vectors), Embed.from_vectors(vectors, trained=True)
    assert not frozen.weight.requires_grad
    assert trained.weight.requires_grad
    vectors.zero_()
    assert torch.equal(frozen.weight, torch.eye(5))
    with pytest.raises(ShapeError, match=r"vectors must be floats of id x feature, but torch.int64 of \(2,\) arrived"):
        Embed.from_vectors(torch.tensor([1, 2]))


@pytest.mark.parametrize("bad", [5, -1])
def test_ids_out_of_range_are_refused(bad: int) -> None:
    """With the row, the step and the id."""
    batch = Padded(
        Ids, torch.tensor([[1, 2], [3, bad]]), torch.tensor([2, 2]), metadata=BatchMetadata(torch.tensor([3, 6]))
    )
    with pytest.raises(
        ValuesError, match=f"row 6, step 1 holds id {bad}, but Embed has ids 0 to 4; make it as large as"
    ):
        Embed(5, 3)(batch)


def test_vectors_and_other_devices_are_refused() -> None:
    """Vectors are embedded already; a batch elsewhere is named with both devices."""
    with pytest.raises(ShapeError, match="values are on meta, but Embed's weights are on cpu; move the batch"):
        Embed(5, 3)(ids().to("meta"))
    with pytest.raises(OptionError, match="num_embeddings must be 1 or more, but 0 arrived"):
        Embed(0, 3)


def test_dropout_draws_for_each_value_or_for_each_row() -> None:
    """And scales up what stays; in evaluation it changes nothing."""
    seed(0)
    batch = Padded(Vectors, torch.ones(2, 50, 8), torch.tensor([50, 50]))
    states = States.from_padded(batch.values, batch.lengths)
    for value in (batch, batch.packed(), states, States(states.packed(), states.final)):
        each, row = Dropout(0.5)(value), Dropout(0.5, per="row")(value)
        assert set(listed(each.padded().values.flatten())) == {0.0, 2.0}
        assert distinct(each.padded().values.reshape(-1, 8)) > 2
        rows = row.padded().values
        assert all(distinct(steps) == 1 for steps in rows)
        assert set(listed(rows.flatten())) == {0.0, 2.0}
        assert not torch.equal(rows[0], rows[1])
        assert Dropout(0.5).eval()(value) is value
    pooled = Pool("max")(states)
    assert set(listed(Dropout(0.75, per="row")(pooled).values.flatten())) == {0.0, 4.0}


def test_dropout_leaves_padding_alone() -> None:
    """NaN in padding stays there, and reaches no answer."""
    values = torch.ones(1, 3, 4)
    values[0, 2] = torch.nan
    batch = Padded(Vectors, values, torch.tensor([2]))
    for per in ("step", "row"):
        states = Encode(LSTM(4, 2))(Dropout(0.5, per="row" if per == "row" else "step")(batch))
        assert states.packed().values.isfinite().all()


def test_bad_dropout_is_refused() -> None:
    """With the rule and what arrived."""
    with pytest.raises(OptionError, match="p must be a probability, 0 <= p < 1, but 1.0 arrived"):
        Dropout(1.0)
    with pytest.raises(ShapeError, match="Dropout takes vectors, but a Padded of none arrived; put it after Embed"):
        Dropout()(ids())
