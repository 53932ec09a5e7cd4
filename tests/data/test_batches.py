"""Batches in both layouts: conversion, carries and reports."""

from typing import cast

import pytest
import torch
from hypothesis import given
from torch import Tensor

from pipeline import Causal, Ids, Nested, Packed, Pad, Padded, Pooled, Report, Row, States, Vectors
from pipeline.data.metadata import BatchMetadata, check_same_metadata
from pipeline.errors import CompositionError, OptionError
from pipeline.testing import check_packing_round_trip, make_batch
from support.records import Word, make_words
from support.strategies import ragged_rows
from support.untyped import as_any, to_list


@given(rows=ragged_rows())
def test_unpacking_inverts_packing(rows: list[Tensor]) -> None:
    """Values, lengths and the padded width are restored."""
    check_packing_round_trip(make_batch(rows, extra=2, filling=torch.nan))


@pytest.mark.parametrize(("rows", "time"), [(1, 1), (1, 5), (3, 1), (3, 4), (2, 0)])
def test_rows_of_equal_length_pack_without_indices(rows: int, time: int) -> None:
    """The fast path gives the values and gradients of the general one, and leaves the batch unchanged."""
    values = torch.randn(rows, time, 3, dtype=torch.float64, requires_grad=True)
    before = values.detach().clone()
    packed = Padded(Vectors, values, torch.full((rows,), time)).packed()
    assert torch.equal(packed.values, values.flatten(0, 1)[packed.order.flat_indices(time)])
    restored = packed.padded().values
    assert restored.is_contiguous()
    assert torch.equal(restored, values)
    weights = torch.randn_like(before)
    assert torch.equal(torch.autograd.grad((restored * weights).sum(), values)[0], weights)
    assert torch.equal(values, before)


def test_report_counts_real_and_padded_steps() -> None:
    """Eight rows of 3 to 8 steps have 45 real steps in a rectangle of 64, in either layout."""
    sizes = torch.tensor([4, 6, 8, 5, 4, 3, 7, 8])
    batch = Padded(Ids, torch.zeros(8, 8, dtype=torch.int64), sizes)
    assert batch.report() == batch.packed().report() == Report(batches=1, rows=8, steps=45, padded=64)
    assert batch.report().wasted == pytest.approx(19 / 64)
    assert Report().wasted == 0


def test_batches_have_targets_row_ids_and_mask() -> None:
    """Properties of the metadata and the lengths, the same in both layouts."""
    metadata = BatchMetadata(torch.tensor([5, 6]), targets=torch.tensor([1, 0]))
    batch = Padded(Vectors, torch.zeros(2, 3, 4), torch.tensor([3, 1]), metadata=metadata)
    states = States.from_padded(batch.values, batch.lengths)
    assert batch.targets is batch.packed().targets is metadata.targets
    assert batch.row_ids is batch.packed().row_ids is metadata.row_ids
    for data in (batch, batch.packed(), states):
        assert to_list(data.mask) == [[True, True, True], [True, False, False]]


def test_the_text_of_a_batch_with_fields_is_short() -> None:
    """Kinds and shapes of fields and inner rows, instead of their numbers and metadata."""
    batch = Pad(Word)([make_words(["ab", "c"] * 40)] * 9)
    assert "fields={word: Ids, int64 of shape (9, 80), characters: Nested, int64 of shape (9, 80)}" in repr(batch)
    assert repr(as_any(batch).fields["characters"]).count("inner=Ids, int64 of shape (3,)") == 1
    assert len(repr(batch)) < 700


VECTORS = torch.zeros(2, 3, 4)
SIZES = torch.tensor([3, 1])


def test_carry_continues_rows_and_starts_others_from_zeros() -> None:
    """A row that starts at its first step is not affected by NaN in the carry at its index, and no gradient flows back."""
    before = cast(
        "States[Causal]",
        States(
            Packed(Vectors, torch.zeros(4, 2), SIZES),
            torch.zeros(2, 2),
            carry=(torch.tensor([[[1.0, 2.0], [torch.nan, 3.0]]], requires_grad=True),),
        ),
    )
    metadata = BatchMetadata(torch.arange(2), start_steps=torch.tensor([5, 0]))
    batch = Padded(Vectors, VECTORS, SIZES, metadata=metadata)
    carry = batch.with_carry(before).initial_carry
    assert carry is not None
    assert to_list(carry[0]) == [[[1.0, 2.0], [0.0, 0.0]]]
    assert not carry[0].requires_grad
    with pytest.raises(OptionError, match="before must be the states of the preceding batch, got None, but row 0 cont"):
        batch.with_carry(None)


def test_the_default_device_does_not_matter() -> None:
    """Row ids stay on the CPU, and what is made for a batch is made where its tensors are."""
    values, lengths = torch.zeros(2, 3, 4), torch.tensor([3, 1])
    words = Nested(Ids(torch.zeros(0, dtype=torch.int64)), torch.zeros(0, dtype=torch.int64))
    torch.set_default_device("meta")
    try:
        batch = Padded(Vectors, values, lengths)
        pooled = Pooled(values[:, 0])
        nested = Pad(Nested[Ids])([Row(words)])
        with pytest.raises(CompositionError, match="dropped the metadata of its input"):
            check_same_metadata("Stage", BatchMetadata(lengths), pooled.metadata)
    finally:
        as_any(torch.set_default_device)(None)
    assert to_list(batch.row_ids) == to_list(pooled.row_ids) == [0, 1]
    assert nested.inner is not None
    assert to_list(nested.inner.lengths) == [0]
