"""Parameter groups, and optimizers by name or of one's own."""

from typing import Any

import pytest
import torch
from torch import nn

from pipeline import Embed, language_model
from pipeline.errors import OptionError
from pipeline.training.optimizers import group_parameters, make_optimizer
from support.untyped import as_any


def test_tied_weights_count_as_embedding_and_frozen_ones_as_nothing() -> None:
    """Each trainable weight is in exactly one group."""
    model = language_model(9, embedding_dim=4, hidden_size=4, tied=True)
    as_any(model).next_token.linear.bias.requires_grad_(False)
    decayed, free = group_parameters(model, 0.3)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert all(weight.ndim == 2 for weight in decayed["params"])
    assert [weight.shape for weight in free["params"] if weight.ndim == 2] == [(9, 4)]
    found = {id(weight) for group in (decayed, free) for weight in group["params"]}
    assert found == {id(weight) for weight in model.parameters() if weight.requires_grad}
    assert len(decayed["params"]) + len(free["params"]) == len(found)


def test_norms_have_no_decay() -> None:
    """Of a module with a norm and an embedding of torch's."""
    model = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2))
    decayed, free = group_parameters(model, 0.1)
    assert [tuple(weight.shape) for weight in decayed["params"]] == [(2, 3)]
    assert len(free["params"]) == 4


@pytest.mark.parametrize(("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD")])
def test_named_optimizers_are_fused(name: Any, kind: str) -> None:
    """One kernel updates all weights."""
    optimizer = make_optimizer(nn.Linear(2, 3), name, learning_rate=0.1, weight_decay=0.2)
    assert type(optimizer).__name__ == kind
    assert optimizer.defaults["fused"] is True
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.1}


def test_a_model_without_trainable_weights_is_rejected() -> None:
    """And a function that returns no optimizer."""
    embed = Embed.from_vectors(torch.ones(3, 2))
    with pytest.raises(OptionError, match="must have weights to train"):
        make_optimizer(embed, "adamw", learning_rate=0.1, weight_decay=0)
    with pytest.raises(OptionError, match="optimizer must return an optimizer of torch's, got a list"):
        make_optimizer(nn.Linear(2, 3), as_any(list), learning_rate=0.1, weight_decay=0)
