"""Batches move between devices, are copied and pickled, and are pytrees and dataclasses."""

import copy
import dataclasses
import pickle
import re
from pprint import pformat
from typing import Any, cast

import attrs
import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from pipeline import Padded, Pooled, Scores, States, StepScores, Vectors
from pipeline.data.metadata import BatchMetadata, Collated
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


def make_collated() -> list[Any]:
    """Return data of each class, with and without optional tensors."""
    batch = make_batch()
    states = States.from_padded(batch.values, batch.lengths)
    scores = Scores(torch.zeros(1, 2), range(2)), StepScores(torch.zeros(2, 2), batch.lengths, ["a", "b"])
    return [batch, batch.packed(), states, attrs.evolve(states, carry=(states.final,)), Pooled(states.final), *scores]


def test_dataclass_fields_are_those_with_tensors() -> None:
    """Names of classes, kinds and packing orders are not among them, nor are fields that are None."""
    names = [[field.name for field in dataclasses.fields(value)] for value in make_collated()]
    batch = ["lengths", "values", "initial_carry", "metadata"]
    pooled = ["values", "metadata"]
    assert names == [
        batch,
        batch,
        ["steps", "final"],
        ["steps", "final", "carry"],
        pooled,
        pooled,
        ["lengths", "values", "metadata"],
    ]
    metadata: Any = BatchMetadata(torch.tensor([0]))
    assert [field.name for field in dataclasses.fields(metadata)] == ["row_ids"]


def test_every_field_with_tensors_is_a_dataclass_field() -> None:
    """DDP and FSDP would not find the tensors in others. The thresholds have no gradient."""
    for cls in (*Collated.__subclasses__(), BatchMetadata):
        if attrs.has(cls):
            found: Any = cls
            shown = {field.name for field in dataclasses.fields(found)} | {"thresholds"}
            hidden = [str(field.type) for field in attrs.fields(cls) if field.name not in shown]
            assert not re.search("Tensor|Padded|Packed|Predictions|Metadata", " ".join(hidden)), cls


def test_replacing_dataclass_fields_keeps_the_others() -> None:
    """FSDP 1 and mixed precision replace tensors in this way."""
    for value in make_collated():
        replaced = dataclasses.replace(value)
        assert type(replaced) is type(value)
        fields: Any = attrs.fields
        for field in fields(type(value)):
            assert getattr(replaced, field.name) is getattr(value, field.name)
    scores: Any = Scores(torch.zeros(1, 2), ["no", "yes"])
    assert list(dataclasses.replace(scores, values=torch.tensor([[0.0, 1.0]])).rows()) == [(0, "yes")]


@attrs.frozen(eq=False)
class Named(Pooled):
    """Pooled vectors with a further field."""

    title: str = attrs.field(default="", kw_only=True)


def test_subclasses_keep_their_own_fields() -> None:
    """Also if they are not registered themselves."""
    named: Any = Named(torch.zeros(1, 2), title="mine")
    assert dataclasses.replace(named, values=torch.ones(1, 2)).title == "mine"
    assert copy.deepcopy(named).title == "mine"


def set_each_field(value: Any, function: Any) -> Any:
    """Map a function over the tensors of a dataclass as Lightning's `apply_to_collection` does."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(set_each_field(item, function) for item in cast("tuple[object, ...]", value))
    held = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    result = copy.deepcopy(value, {id(item): item for item in held.values()})
    for name, item in held.items():
        setattr(result, name, set_each_field(item, function))
    return result


def test_lightning_sets_the_fields_of_a_copy_once() -> None:
    """Then the copy is frozen, and the original was never changed."""
    for value in make_collated():
        moved = set_each_field(value, to_meta)
        assert type(moved) is type(value)
        tensors, originals = pytree.tree_leaves(moved), pytree.tree_leaves(value)
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert {tensor.device.type for tensor in originals} == {"cpu"}
        for copied in (value, moved, copy.deepcopy(value), copy.deepcopy([value, value])[1], copy.copy(value)):
            with pytest.raises(attrs.exceptions.FrozenInstanceError):
                copied.metadata = None
        if hasattr(value, "order"):
            assert moved.order.device.type == "meta"


def test_batches_are_printed_by_pprint() -> None:
    """It reads the parameters of a dataclass."""
    assert "initial_carry" in pformat(make_batch(), width=10)
