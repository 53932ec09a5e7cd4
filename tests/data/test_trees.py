"""Batches move between devices, are copied and pickled, and are pytrees."""

import copy
import pickle

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline import Padded, Pooled, Scores, States, StepScores, Vectors
from pipeline.data.metadata import BatchMetadata
from support.untyped import to_list


def make_batch() -> Padded[Vectors]:
    """Return one row with a target and an initial carry."""
    return Padded(
        Vectors,
        torch.ones(1, 2, 3),
        torch.tensor([2]),
        initial_carry=(torch.ones(1, 1, 3),),
        metadata=BatchMetadata(torch.tensor([0]), targets=torch.tensor([1])),
    )


def test_batches_survive_copies_and_pickling() -> None:
    """Workers of a DataLoader pickle batches."""
    batch = Padded(Vectors, torch.randn(2, 3, 4), torch.tensor([3, 1]), metadata=BatchMetadata(torch.tensor([5, 6])))
    states = States.from_padded(batch.values, batch.lengths)
    for copied in (copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert torch.equal(copied.values, batch.values)
        assert to_list(copied.row_ids) == [5, 6]
        assert copied.kind is Vectors
    assert torch.equal(pickle.loads(pickle.dumps(states)).steps.values, states.steps.values)


def test_lengths_and_row_ids_stay_on_the_cpu() -> None:
    """Values, targets, carries and packing indices move to the device; lengths and row ids do not."""
    batch = make_batch()
    for moved in (batch.to("meta"), batch.packed().to("meta")):
        assert moved.values.device.type == "meta"
        assert moved.initial_carry is not None
        assert moved.initial_carry[0].device.type == "meta"
        assert moved.targets is not None
        assert moved.targets.device.type == "meta"
        assert moved.mask.device.type == "meta"
        assert moved.order.row_of_step.device.type == moved.order.lengths_on_device.device.type == "meta"
        assert moved.lengths.device.type == moved.row_ids.device.type == "cpu"
    assert States.from_padded(batch.values, batch.lengths).to("meta").final.device.type == "meta"
    assert Pooled(torch.zeros(1, 2)).to("meta").values.device.type == "meta"
    assert Scores(torch.zeros(1, 2), range(2)).to("meta").values.device.type == "meta"
    assert StepScores(torch.zeros(2, 2), batch.lengths, range(2)).to("meta").values.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="pinned memory needs CUDA")
def test_pinned_batches_keep_their_values() -> None:
    """`pin_memory` pins every tensor that moves."""
    batch = make_batch()
    pinned = batch.pin_memory()
    assert pinned.values.is_pinned()
    assert torch.equal(pinned.values, batch.values)


def double(tensor: Tensor) -> Tensor:
    """Return twice a tensor."""
    return tensor * 2


def to_meta(tensor: Tensor) -> Tensor:
    """Return a tensor on another device."""
    return tensor.to("meta")


def test_batches_are_pytrees_with_keys() -> None:
    """Tensors are leaves under their fields' names; lengths and row ids are not leaves."""
    batch = make_batch()
    leaves, _ = pytree.tree_flatten_with_path(batch)
    assert {pytree.keystr(path) for path, _ in leaves} == {".values", ".initial_carry[0]", ".metadata.targets"}
    doubled = pytree.tree_map(double, batch)
    assert isinstance(doubled, Padded)
    assert doubled.values.sum() == 12
    assert doubled.targets == 2
    assert doubled.lengths is batch.lengths
    moved = pytree.tree_map(to_meta, States.from_padded(batch.values, batch.lengths))
    assert isinstance(moved, States)
    assert moved.order.row_of_step.device.type == "meta"


def test_carry_is_a_leaf_of_states() -> None:
    """The carry of states is differentiated and moved like their vectors."""
    states = States(make_batch().packed(), torch.ones(1, 3), carry=(torch.ones(1, 1, 3),))
    leaves, _ = pytree.tree_flatten_with_path(states)
    assert ".carry[0]" in {pytree.keystr(path) for path, _ in leaves}
