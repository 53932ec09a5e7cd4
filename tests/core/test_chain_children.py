"""Child modules of a chain: those that users or torch's tools replace, wrap or delete take part as they are now."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint import checkpoint_wrapper

from pipeline import Bucket, Chain, Classify, Dropout, Embed, Encode, FromIds, Ids, Labels, Pad, Padded, Pool, Scores
from pipeline.core.join import join
from pipeline.errors import CompositionError
from pipeline_recurrent import LSTM
from support.untyped import as_any, seed

BATCH = Padded(Ids, torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.tensor([3, 2]))


def make_model() -> Chain[Padded[Ids], Scores[int]]:
    """Return a small classifier whose dropout leaves few values."""
    seed(0)
    return Embed(9, 4) >> Dropout(0.9) >> Encode(LSTM(4, 5)) >> Pool("max") >> Classify(2)


def _is_encode(module: nn.Module) -> bool:
    return isinstance(module, Encode)


def test_a_replaced_head_is_used_and_trained() -> None:
    """A new head for other classes, as in transfer learning."""
    model = make_model().eval()
    before = model(BATCH).values
    head = Classify(3, input_size=5)
    model.classify = head
    assert model.stages["classify"] is head
    scores = model(BATCH)
    assert before.shape == (2, 2)
    assert scores.values.shape == (2, 3)
    torch.autograd.backward(scores.values.sum())
    assert head.linear is not None
    assert head.linear.weight.grad is not None
    assert model.check().parameters == sum(weight.numel() for weight in model.parameters())


def test_a_replaced_head_predicts() -> None:
    """Predictions are names of the new head."""
    pipe = FromIds() >> Bucket(rows=2) >> Pad() >> make_model()
    pipe.classify = Classify(Labels(["x"]), input_size=5)
    assert list(map(str, pipe.predict([[1, 2], [3]]))) == ["x", "x"]


def test_a_wrapped_stage_is_called() -> None:
    """Torch's tool for activation checkpoints puts a wrapper in the place of each chosen module."""
    model = make_model().eval()
    expected = model(BATCH).values
    as_any(checkpoint_wrapper).apply_activation_checkpointing(model, check_fn=_is_encode)
    calls: list[nn.Module] = []
    model.get_submodule("encode").register_forward_pre_hook(lambda module, _: calls.append(module))
    assert torch.equal(model(BATCH).values, expected)
    assert calls == [model.get_submodule("encode")]


@pytest.mark.parametrize("how", ["delete", "none", "identity"])
def test_a_stage_that_was_taken_out_has_no_effect(how: str) -> None:
    """Two passes are the same without the dropout."""
    model = make_model()
    assert not torch.equal(model(BATCH).values, model(BATCH).values)
    if how == "delete":
        delattr(model, "dropout")
    else:
        as_any(model).dropout = nn.Identity() if how == "identity" else None
    assert torch.equal(model(BATCH).values, model(BATCH).values)


def test_a_chain_with_a_module_that_is_no_stage_runs_but_cannot_be_joined() -> None:
    """Such a module has no size and no type, which the next stage needs."""
    encode = Embed(9, 4) >> Dropout(0.9) >> Encode(LSTM(4, 5))
    as_any(encode).dropout = nn.Identity()
    encode(BATCH)
    with pytest.raises(CompositionError, match="stage 2 was replaced by Identity, which is not a stage; join"):
        join(encode, Pool("max"))


def test_copies_have_children_of_their_own() -> None:
    """Replacing a stage of a copy leaves the original alone."""
    model = make_model().eval()
    expected = model(BATCH).values
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        copied.classify = Classify(3, input_size=5)
        assert copied(BATCH).values.shape == (2, 3)
        assert torch.equal(model(BATCH).values, expected)
