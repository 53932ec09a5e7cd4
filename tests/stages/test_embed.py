"""Tests of `Embed`."""

import math
import re
from typing import Any, Literal, cast

import pytest
import torch

from pipeline import Embed, Ids, Pack, Packed, Padded, Vectors
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import OptionError, ShapeError, ValuesError
from support.untyped import as_any, to_list

LENGTHS = torch.tensor([3, 0, 1])


def ids(padding: int = 0) -> Padded[Ids]:
    """Return three rows, one of them empty, with this padding."""
    values = torch.tensor([[4, 2, 4], [padding] * 3, [1, padding, padding]])
    return Padded(Ids, values, LENGTHS, metadata=BatchMetadata(torch.tensor([7, 8, 9])))


@pytest.mark.parametrize("padding", [0, -1, 99])
def test_padding_is_not_looked_up(padding: int) -> None:
    """Its vectors are zeros whatever its ids, and row 0 of the weights gets no gradient from it."""
    embed = Embed(5, 3)
    vectors = embed(ids(padding))
    assert isinstance(vectors, Padded)
    assert vectors.kind is Vectors
    assert torch.equal(vectors.values[0], embed.weight[[4, 2, 4]])
    assert not vectors.values[1].any()
    assert not vectors.values[2, 1:].any()
    (gradient,) = torch.autograd.grad(vectors.values.sum(), embed.weight)
    assert to_list(gradient[:, 0]) == [0, 1, 1, 0, 2]


def test_layout_and_metadata_are_kept() -> None:
    """Packed ids give packed vectors, equal to the padded ones."""
    embed = Embed(5, 3)
    packed = embed(Pack()(ids()))
    assert isinstance(packed, Packed)
    assert torch.equal(packed.padded().values, embed(ids()).padded().values)
    assert to_list(packed.metadata.row_ids) == [7, 8, 9]


def test_given_vectors_are_frozen_unless_trained() -> None:
    """They are a copy."""
    vectors = torch.eye(5)
    frozen, trained = Embed.from_pretrained(vectors), Embed.from_pretrained(vectors, freeze=False)
    assert not frozen.weight.requires_grad
    assert trained.weight.requires_grad
    vectors.zero_()
    assert torch.equal(frozen.weight, torch.eye(5))
    with pytest.raises(ShapeError, match=r"vectors must be floating-point, of id x feature, got torch.int64 of \(2,\)"):
        Embed.from_pretrained(torch.tensor([1, 2]))
    no_tensor: Any = object()
    with pytest.raises(OptionError, match="vectors must be a tensor of id x feature, got object; pass the `weight` of"):
        Embed.from_pretrained(no_tensor)


@pytest.mark.parametrize("bad", [5, -1])
def test_ids_out_of_range_raise(bad: int) -> None:
    """With the row, the step and the id."""
    batch = Padded(
        Ids, torch.tensor([[1, 2], [3, bad]]), torch.tensor([2, 2]), metadata=BatchMetadata(torch.tensor([3, 6]))
    )
    with pytest.raises(
        ValuesError, match=f"row 6, step 1 holds id {bad}, but Embed has ids 0 to 4; make it as large as"
    ):
        Embed(5, 3)(batch)


def test_other_devices_and_sizes_raise() -> None:
    """With both devices, or the value."""
    with pytest.raises(ShapeError, match="values are on meta, but Embed's weights are on cpu; move the batch"):
        Embed(5, 3)(ids().to("meta"))
    with pytest.raises(OptionError, match="num_embeddings must be an integer of at least 1, got 0"):
        Embed(0, 3)


@pytest.mark.parametrize(
    ("init", "std", "wanted"),
    [("normal", None, 1.0), ("normal", 0.1, 0.1), ("uniform", None, 0.1), ("uniform", 0.3, 0.3)],
)
def test_initial_vectors_have_the_stated_deviation(
    init: Literal["normal", "uniform"], std: float | None, wanted: float
) -> None:
    """A uniform distribution ends at sqrt(3) deviations."""
    weight = Embed(300, 100, init=init, std=std).weight.detach()
    assert float(weight.std()) == pytest.approx(wanted, rel=0.03)
    assert float(weight.mean()) == pytest.approx(0, abs=wanted / 20)
    assert (float(weight.abs().max()) <= 3**0.5 * wanted) == (init == "uniform")


def test_xavier_is_that_of_torch() -> None:
    """It depends on both sizes."""
    torch.default_generator.manual_seed(0)
    weight = Embed(20, 3, init="xavier").weight
    torch.default_generator.manual_seed(0)
    assert torch.equal(weight, torch.nn.init.xavier_uniform_(torch.empty(20, 3)))


def test_invalid_initialization_raises() -> None:
    """With what was given."""
    with pytest.raises(OptionError, match=r"init must be one of normal, uniform, xavier, got 'zeros'"):
        Embed(3, 2, init=cast("Literal['normal']", "zeros"))
    with pytest.raises(OptionError, match=r"std is for init='normal' or 'uniform', got 1.0 with 'xavier'"):
        Embed(3, 2, init="xavier", std=1.0)


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        *[("std", value, "a finite number above 0") for value in (0.0, -1.0, math.inf, math.nan, True, "1", (1.0,))],
        *[("sparse", value, "True or False") for value in ("no", 1, None)],
        *[("num_embeddings", value, "an integer of at least 1") for value in ("3", 2.5, True, 0, -1, None)],
        *[("embedding_dim", value, "an integer of at least 1") for value in ("3", 2.5, True, 0, -1, None)],
    ],
)
def test_values_of_another_type_are_rejected(option: str, value: object, rule: str) -> None:
    """With one form of message."""
    for init in ("normal", "uniform"):
        with pytest.raises(OptionError, match=re.escape(f"{option} must be {rule}, got {value!r}")):
            as_any(Embed)(**{"num_embeddings": 3, "embedding_dim": 2, "init": init, option: value})
    if option == "sparse":
        with pytest.raises(OptionError, match=f"{option} must be {rule}, got {value!r}"):
            as_any(Embed).from_pretrained(torch.ones(3, 2), sparse=value)
