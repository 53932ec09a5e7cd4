"""Test the language model."""

from functools import partial

import pytest
import torch

from pipeline import (
    Ids,
    Padded,
    language_model,
)
from pipeline.errors import CompositionError
from support.untyped import as_any

BATCH = Padded(Ids, torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1]))


def test_a_language_model_may_tie_its_weights() -> None:
    """The sizes must be equal then."""
    model = language_model(9, embedding_dim=4, hidden_size=4, tied=True)
    weights = dict(model.named_parameters(remove_duplicate=False))
    assert weights["embed.weight"] is weights["next_token.linear.weight"]
    assert model(BATCH).values.shape == (4, 9)
    with pytest.raises(CompositionError, match="the input has size 5 .* but NextToken has input_size=4"):
        language_model(9, embedding_dim=4, hidden_size=5, tied=True)


def test_a_language_model_is_causal() -> None:
    """Changing the last step changes the scores of that step only."""
    model = language_model(9, embedding_dim=4, hidden_size=4).eval()
    one, other = (model(Padded(Ids, torch.tensor([[1, 2, last]]), torch.tensor([3]))).values for last in (3, 4))
    assert torch.equal(one[:2], other[:2])
    assert not torch.equal(one[2], other[2])


def test_a_language_model_may_have_no_attention_or_use_contexts_alone() -> None:
    """By default context and state predict together."""
    make = partial(language_model, 9, embedding_dim=4, hidden_size=4)
    stages = [list(make(attention=attention).stages) for attention in ("dot", None)]
    assert stages[0] == ["pack", "embed", "dropout", "encode", "attend_earlier", "dropout_2", "next_token"]
    assert stages[1] == ["pack", "embed", "dropout", "encode", "dropout_2", "next_token"]
    assert as_any(make().stages["attend_earlier"]).output == "tanh"
    alone = make(output="context")
    assert "attend_earlier.combine.weight" not in alone.state_dict()
    joined = make(output="concat")
    assert joined.state_dict()["next_token.linear.weight"].shape == (9, 8)
