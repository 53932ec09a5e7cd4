"""Parameter groups, and optimizers by name or of one's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pipeline import (
    Bucket,
    Classify,
    Embed,
    Encode,
    Example,
    FromIds,
    Ids,
    Pack,
    Packed,
    Pad,
    Pool,
    language_model,
)
from pipeline.core.contexts import seeded
from pipeline.core.join import join
from pipeline.errors import OptionError
from pipeline.training.lazy_adam import LazyAdam
from pipeline.training.optimizers import group_parameters, make_optimizer
from support.untyped import as_any, to_list


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
    embed = Embed.from_pretrained(torch.ones(3, 2))
    with pytest.raises(OptionError, match="must have weights to train"):
        make_optimizer(embed, "adamw", learning_rate=0.1, weight_decay=0)
    with pytest.raises(OptionError, match="optimizer must return an optimizer of torch's, got a list"):
        make_optimizer(nn.Linear(2, 3), as_any(list), learning_rate=0.1, weight_decay=0)


def make_sparse() -> Any:
    """Return a pipe with a sparse embedding of ten ids."""
    with seeded(3):
        model = Embed(10, 4, sparse=True) >> Encode("lstm", hidden_size=3) >> Pool("max") >> Classify(2)
        return FromIds() >> Bucket(rows=4) >> Pad() >> Pack() >> model


EXAMPLES = [Example([2 + row % 3, 3 + row % 4, 2], row % 2) for row in range(12)]
"""Rows of the ids 2 to 6."""

PRECISE: Any = {"lr": 0.1, "eps": 1e-15}
"""Torch's SparseAdam and Adam add their `eps` at other places, so it is made to have no effect."""


def make_lazy(groups: Any) -> LazyAdam:
    """Make the optimizer for `fit`."""
    return LazyAdam(groups, **PRECISE)


def test_fit_moves_only_rows_of_a_sparse_embedding_that_occur() -> None:
    """They move as with torch's SparseAdam, all other weights as with Adam, and gradients are clipped together."""
    pipe, plain = make_sparse(), make_sparse()
    before = pipe.state_dict()["embed.weight"].clone()
    options: Any = {"epochs": 2, "max_grad_norm": 0.5, "progress": False}
    pipe.fit(EXAMPLES, optimizer=make_lazy, weight_decay=0.0, **options)
    moved = (pipe.state_dict()["embed.weight"] != before).any(1)
    assert to_list(moved.nonzero().flatten()) == [2, 3, 4, 5, 6]
    stages = list(plain.stages.values())
    data: Any = join(*stages[:4])
    model: Any = join(*stages[4:])
    sparse, *others = model.parameters()
    optimizers: Any = [torch.optim.SparseAdam([sparse], **PRECISE), torch.optim.Adam(others, **PRECISE)]
    for batch in [*data(EXAMPLES), *data(EXAMPLES)]:
        model.zero_grad()
        torch.autograd.backward(model(batch).loss())
        sparse.grad = sparse.grad.coalesce()
        gradients = [sparse.grad.values(), *(weight.grad for weight in others)]
        nn.utils.clip_grads_with_norm_([sparse, *others], 0.5, nn.utils.get_total_norm(gradients))
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(pipe.parameters(), [sparse, *others], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_where_all_rows_occur_lazy_adam_is_adam() -> None:
    """By name it is chosen for a pipe with a sparse embedding, and its state continues as that of Adam."""
    lazy, dense = Embed(3, 2, sparse=True), Embed(3, 2)
    dense.load_state_dict(lazy.state_dict())
    chosen: Any = make_optimizer(lazy, "adamw", learning_rate=0.1, weight_decay=0.1)
    assert type(chosen) is LazyAdam
    other: Any = make_optimizer(dense, "adamw", learning_rate=0.1, weight_decay=0.1)
    for number in range(4):
        for embed, optimizer in ((lazy, chosen), (dense, other)):
            optimizer.zero_grad()
            batch = Packed(Ids, torch.tensor([2, 0, 1, 0, number % 3]), torch.tensor([5]))
            torch.autograd.backward(embed(batch).values.square().sum())
            optimizer.step()
        torch.testing.assert_close(lazy.weight, dense.weight)
        chosen.load_state_dict(chosen.state_dict())


def test_a_sparse_embedding_has_the_gradient_of_a_dense_one_and_rejects_momentum() -> None:
    """And its option is saved with it."""
    dense = Embed(5, 3)
    sparse = Embed(**as_any(dense.get_config()) | {"sparse": True})
    assert sparse.get_config()["sparse"]
    sparse.load_state_dict(dense.state_dict())
    batch = Packed(Ids, torch.tensor([4, 2, 4]), torch.tensor([2, 1]))
    for embed in (dense, sparse):
        torch.autograd.backward(embed(batch).values.square().sum())
    assert sparse.weight.grad is not None
    assert sparse.weight.grad.is_sparse
    assert dense.weight.grad is not None
    assert torch.equal(sparse.weight.grad.to_dense(), dense.weight.grad)
    with pytest.raises(OptionError, match="optimizer='sgd' has momentum, which moves all rows"):
        make_optimizer(sparse, "sgd", learning_rate=0.1, weight_decay=0)
    sparse.requires_grad_(requires_grad=False)
    model = nn.Sequential(sparse, nn.Linear(3, 2))
    assert isinstance(make_optimizer(model, "sgd", learning_rate=0.1, weight_decay=0), torch.optim.SGD)


def test_a_dense_embedding_does_not_continue_a_sparse_one(tmp_path: Path) -> None:
    """Its optimizer is another one."""
    options: Any = {"checkpoints": tmp_path, "progress": False}
    pipe = make_sparse()
    pipe.fit(EXAMPLES, epochs=1, **options)
    pipe.get_submodule("embed").sparse = False
    with pytest.raises(OptionError, match=r"embed\.sparse"):
        pipe.fit(EXAMPLES, epochs=2, resume=True, **options)
