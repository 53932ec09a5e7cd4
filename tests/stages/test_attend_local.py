"""Tests of windows around a step, and around a predicted position, against loops over steps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from torch import Tensor

from pipeline import Attend, AttendLocal, Bucket, Classify, Embed, Encode, FromIds, Pack, Pad, Pool, States, load
from pipeline.core.contexts import seeded
from pipeline.errors import OptionError
from pipeline.testing import adapt_attend, check_against_oracle
from pipeline_attention import Additive, General
from support.oracles import attend_by_softmax
from support.saved import compute_answers
from support.strategies import ragged_rows
from support.untyped import as_any, seed


def score(attention: General, row: Tensor) -> Tensor:
    """Return all scores of a row, computed one by one."""
    linear = attention.linear
    cells = [(linear.weight @ query + linear.bias) @ key for query in row for key in row]
    return torch.stack(cells).reshape(len(row), len(row)) if cells else row.new_zeros(0, 0)


@pytest.mark.parametrize("memory", [1, 2**20])
@pytest.mark.parametrize("window", [1, 2])
@given(rows=ragged_rows())
def test_a_window_around_each_step_equals_the_loop(window: int, memory: int, rows: list[Tensor]) -> None:
    """Values and all gradients; also in chunks."""
    with seeded(3):
        attention = General(3).double()

    def attend_row(row: Tensor) -> Tensor:
        steps = range(len(row))
        allowed = [[key for key in steps if abs(key - query) <= window] for query in steps]
        return attend_by_softmax(score(attention, row), row, allowed)

    stage = Attend(attention, window=window, memory=memory)
    check_against_oracle(adapt_attend(stage), attend_row, rows, list(attention.parameters()))


def test_a_window_is_cut_out_of_long_rows() -> None:
    """Blocks of queries see the keys near them only, and give what the mask gives."""
    states = States.from_padded(torch.randn(2, 300, 3, dtype=torch.float64), torch.tensor([300, 140]))
    for attention in (General(3).double(), Additive(3).double()):
        stage = Attend(attention, window=5)
        wanted = attention(states.padded().values, states.padded().values, stage.make_mask(states))
        wanted = wanted.masked_fill(~states.mask.unsqueeze(-1), 0)
        torch.testing.assert_close(stage(states).padded().values, wanted)
        assert int(stage.weights(states).count_nonzero(-1).max()) == 11


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_in_long_rows_are_exact_in_half_precision(dtype: torch.dtype) -> None:
    """Half precision has no number for each step, but the steps around a position are found, with their weights."""
    seed(0)
    stage = AttendLocal("dot", window=2, input_size=3).to(dtype)
    with torch.no_grad():
        as_any(stage.vector).weight.zero_()
    states = States.from_padded(torch.ones(1, 3002, 3, dtype=dtype), torch.tensor([3002]))
    assert bool((stage.predict_positions(states) == 1500.5).all())
    weights = stage.weights(states)
    assert weights.dtype is dtype
    assert torch.equal(weights[0, 7].nonzero().flatten(), torch.arange(1499, 1503))
    wanted = torch.exp(-2 * torch.tensor([1.5, 0.5, 0.5, 1.5]).div(2).square()) / 4
    torch.testing.assert_close(weights[0, 7, 1499:1503], wanted.to(dtype), rtol=0.02, atol=0)
    assert stage(states).padded().values.dtype is dtype


@pytest.mark.parametrize("memory", [1, 2**20])
@given(rows=ragged_rows())
def test_predicted_positions_equal_the_loop(memory: int, rows: list[Tensor]) -> None:
    """Values and all gradients, also through the position."""
    with seeded(3):
        stage = AttendLocal(General(3), window=2, memory=memory).double()
    attention: Any = stage.attention

    def attend_row(row: Tensor) -> Tensor:
        contexts: list[Tensor] = []
        scores, layers = score(attention, row), as_any(stage)
        for step, state in enumerate(row):
            inside = torch.tanh(layers.position.weight @ state)
            position = (len(row) - 1) * torch.sigmoid(layers.vector.weight[0] @ inside)
            near = [key for key in range(len(row)) if abs(key - float(position.detach())) <= 2]
            weights = torch.softmax(torch.stack([scores[step, key] for key in near]), 0)
            gauss = torch.stack([torch.exp(-((key - position) ** 2) / 2) for key in near])
            contexts.append((weights * gauss) @ torch.stack([row[key] for key in near]))
        return torch.stack(contexts) if contexts else torch.zeros_like(row)

    check_against_oracle(adapt_attend(stage), attend_row, rows, list(stage.parameters()))


def make_pipe(attend: Any) -> Any:
    """Return a classifier of rows of ids."""
    seed(0)
    model = Pack() >> Embed(9, 4) >> Encode("lstm", hidden_size=4) >> attend >> Pool("mean") >> Classify(2)
    return as_any(FromIds() >> Bucket(rows=2, seed=0) >> Pad() >> model)


@pytest.mark.parametrize("kind", ["window", "predicted"])
def test_a_pipe_is_saved_loaded_and_exported(kind: str, tmp_path: Path) -> None:
    """With equal bits, and with its weights."""
    local = AttendLocal("additive", window=2, output="tanh")
    pipe, rows = make_pipe(Attend("general", window=1) if kind == "window" else local), [[1, 2, 3, 4], [5, 6], []]
    pipe.save(tmp_path / "pipe")
    assert compute_answers(as_any(load(tmp_path / "pipe")), rows) == compute_answers(pipe, rows)
    (name,) = {name for found in pipe.attention_weights(rows) for name in found.weights}
    assert name == ("attend" if kind == "window" else "attend_local")
    model = (
        Pack()
        >> Embed(9, 4)
        >> Encode("lstm", hidden_size=4)
        >> (Attend("general", window=1) if kind == "window" else AttendLocal("general", window=2))
        >> Pool("mean")
        >> Classify(2)
    )
    assert model.export(tmp_path / "rows.pt2", batches=2).difference <= 1e-5


def test_invalid_options_raise() -> None:
    """Windows of nothing, attentions with values of their own, and determinism."""
    with pytest.raises(OptionError, match="window must be an integer of at least 1, got 0"):
        Attend("dot", window=0)
    with pytest.raises(OptionError, match="window must be an integer of at least 1, got 0"):
        AttendLocal("dot", window=0)
    with pytest.raises(OptionError, match="AttendLocal weighs the steps themselves, but MultiHead projects"):
        AttendLocal("multi_head", window=2, input_size=4)
    with pytest.raises(OptionError, match="key_value_predict' is for Attend and AttendEarlier"):
        AttendLocal("dot", window=2, output="key_value_predict", input_size=2)
