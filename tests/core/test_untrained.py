"""Test the warning of a pooling that leaves the recurrent weights of one direction untrained."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import (
    Attend,
    Bucket,
    Classify,
    Dropout,
    Embed,
    Encode,
    FromIds,
    Hidden,
    Join,
    Pad,
    Padded,
    Pool,
    Unpack,
    Vectors,
    classifier,
    load,
)
from pipeline_recurrent import GRU, LRU, LSTM
from support.untyped import seed

UNTRAINED: dict[str, Callable[[str], Any]] = {
    "an LSTM": lambda pool: Encode(LSTM(4, 3, bidirectional=True)) >> Pool(pool),
    "merged": lambda pool: Encode(GRU(4, 3, bidirectional=True, merge="mean")) >> Pool(pool),
    "of two layers": lambda pool: Encode(GRU(4, 3, bidirectional=True, num_layers=2)) >> Pool(pool),
    "scanned": lambda pool: Encode(LRU(4, 3, bidirectional=True)) >> Pool(pool),
    "by name": lambda pool: Encode("bilstm", input_size=4, hidden_size=3) >> Pool(pool),
    "with dropout": lambda pool: Encode(LSTM(4, 3, bidirectional=True)) >> Dropout(0.1) >> Pool(pool),
}

TRAINED: dict[str, Callable[[], Any]] = {
    "both directions": lambda: Encode(LSTM(4, 3, bidirectional=True)) >> Pool("final"),
    "all steps": lambda: Encode(LSTM(4, 3, bidirectional=True)) >> Pool("mean"),
    "one direction": lambda: Encode(LSTM(4, 3)) >> Pool("last"),
    "attention": lambda: Encode(LSTM(4, 3, bidirectional=True)) >> Attend("dot") >> Pool("last"),
    "both ends": lambda: Encode(LSTM(4, 3, bidirectional=True)) >> Join(Pool("last"), Pool("first")),
    "a causal encoder": lambda: Encode("causal_cnn", input_size=4, hidden_size=3) >> Pool("last"),
    "a transformer": lambda: Encode("transformer", input_size=4, hidden_size=4, num_heads=2) >> Pool("first"),
    "another encoder after it": lambda: (
        Encode(LSTM(4, 3, bidirectional=True))
        >> Unpack()
        >> Encode("gru", Hidden, hidden_size=3, name="upper")
        >> Pool("last")
    ),
}


def find_untrained(model: Any) -> list[str]:
    """Return the weights of an encoder with a gradient of zero."""
    seed(0)
    batch = Padded(Vectors, torch.randn(2, 3, 4), torch.tensor([3, 2]))
    torch.autograd.backward(model(batch).values.square().sum())
    return [name for name, weight in model.named_parameters() if not weight.grad.any()]


@pytest.mark.parametrize("name", UNTRAINED)
@pytest.mark.parametrize("pool", ["first", "last"])
def test_a_pooling_of_one_step_leaves_weights_untrained_and_is_warned_of(name: str, pool: str) -> None:
    """With the direction that has read one step."""
    direction = {"first": "forward", "last": "backward"}[pool]
    number = 3 if name == "with dropout" else 2
    with pytest.warns(
        UserWarning, match=f"stage {number} `Pool` takes the {pool} step .* the {direction} direction of"
    ):
        model = UNTRAINED[name](pool)
    assert find_untrained(model)


@pytest.mark.parametrize("name", TRAINED)
def test_what_trains_all_weights_is_not_warned_of(name: str) -> None:
    """Warnings are errors here."""
    assert not find_untrained(TRAINED[name]())


def test_a_pooling_is_warned_of_once_at_the_line_that_joins_it() -> None:
    """However many stages follow, and also if the encoder is made later than it is joined."""
    with pytest.warns(UserWarning, match="takes the last step") as caught:
        _ = Encode(LSTM(4, 3, bidirectional=True)) >> Pool("last") >> Dropout(0.1) >> Classify(2)
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lazy = Encode("bigru", hidden_size=3) >> Pool("last")
    with pytest.warns(UserWarning, match="stage 3 `Pool` takes the last step"):
        _ = Embed(9, 4) >> lazy


def test_a_saved_model_is_loaded_without_the_warning(tmp_path: Path) -> None:
    """Who predicts with it can do nothing about it."""
    with pytest.warns(UserWarning, match="takes the last step"):
        model = classifier(9, 2, pooling="last", embedding_dim=4, hidden_size=3)
    (FromIds() >> Bucket(rows=2) >> Pad() >> model).save(tmp_path / "model")
    assert len(list(load(tmp_path / "model").predict([[1, 2], [3]]))) == 2
