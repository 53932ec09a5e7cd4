"""A batch of empty rows alone takes part in the graph: a process of DDP that got one would otherwise hang the others."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline import (
    Attend,
    AttendEarlier,
    Batch,
    Classify,
    Dropout,
    Embed,
    Encode,
    Hidden,
    Ids,
    NextToken,
    Padded,
    Pool,
    Tag,
    Unpack,
)
from pipeline.data.metadata import BatchMetadata
from pipeline.registry import registry

ENCODERS = registry().encoders.names()
POOLS = registry().pools.names()
ATTENTIONS = registry().attentions.names()


def make_batch(width: int, *, targets: bool = False) -> Padded[Ids]:
    """Return two empty rows of a given width, perhaps with a target per row."""
    metadata = BatchMetadata(torch.arange(2), targets=torch.full((2,), -100) if targets else None)
    return Padded(Ids, torch.zeros(2, width, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), metadata=metadata)


LAYOUTS: dict[str, Callable[[], Batch[Ids]]] = {
    "no steps": lambda: make_batch(0),
    "padding only": lambda: make_batch(3),
    "packed": lambda: make_batch(3).packed(),
}


def find_weights_without_gradient(model: Any, output: Tensor) -> list[str]:
    """Return the weights that a sum of the output does not reach; gradients of the others are zero."""
    model.zero_grad()
    torch.autograd.backward(output.sum())
    gradients = {name: weight.grad for name, weight in model.named_parameters()}
    assert all(gradient is None or not gradient.any() for name, gradient in gradients.items() if "classify" not in name)
    return [name for name, gradient in gradients.items() if gradient is None]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("output", ["steps", "final"])
def test_encoders(encoder: str, layout: str, output: str) -> None:
    """Steps and final states each reach all weights, those of the embedding too."""
    model = Embed(9, 4) >> Dropout(0.5) >> Encode(encoder, hidden_size=4)
    states = model(LAYOUTS[layout]())
    values = states.final if output == "final" else states.padded().values
    assert not find_weights_without_gradient(model, values)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("pooling", POOLS)
@pytest.mark.filterwarnings("ignore:.* this direction has read one step only")
def test_poolings(pooling: str, layout: str) -> None:
    """Through the loss, too, in which an empty row has no weight."""
    model = Embed(9, 4) >> Encode("bilstm", hidden_size=4) >> Pool(pooling) >> Classify(3)
    assert not find_weights_without_gradient(model, model(LAYOUTS[layout]()).values)
    assert not find_weights_without_gradient(model, model(make_batch(3, targets=True)).loss())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("stage", [Attend, AttendEarlier])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_attentions(attention: str, stage: Callable[[str], Any], layout: str) -> None:
    """In both stages."""
    model: Any = Embed(9, 4) >> Encode("gru", hidden_size=4) >> stage(attention) >> Pool("mean") >> Classify(3)
    assert not find_weights_without_gradient(model, model(LAYOUTS[layout]()).values)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("head", [Tag, NextToken])
def test_heads_over_steps(head: Callable[[int], Any], layout: str) -> None:
    """A sum over no steps is zero, but still a function of the weights."""
    model: Any = Embed(9, 4) >> Encode("lstm", hidden_size=4) >> head(9)
    assert not find_weights_without_gradient(model, model(LAYOUTS[layout]()).values)


def test_stacked_encoders() -> None:
    """With a change of the layout in between."""
    first = Embed(9, 4) >> Encode("bilstm", hidden_size=4) >> Unpack()
    model = first >> Encode("gru", Hidden, hidden_size=3, name="second") >> Pool("last") >> Classify(2)
    assert not find_weights_without_gradient(model, model(make_batch(3)).values)
