"""Tests of the outputs of attention stages: a context, context and state side by side, and Luong's attentional state."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given
from torch import Tensor

from pipeline import (
    Attend,
    AttendEarlier,
    Bucket,
    Embed,
    Encode,
    FromIds,
    NextToken,
    Pack,
    Pad,
    Pool,
    Shift,
    States,
    load,
)
from pipeline.core.contexts import seeded
from pipeline.errors import CompositionError, OptionError
from pipeline.stages.attend_output import Output
from pipeline.testing import adapt_attend, check_against_oracle
from pipeline_attention import General
from support.needs import mark_slow
from support.oracles import attend_by_softmax
from support.saved import compute_answers
from support.stepping import make_ids
from support.strategies import ragged_rows
from support.untyped import as_any, seed

OUTPUTS: tuple[Output, ...] = get_args(Output)
AttentionStage = Attend | AttendEarlier


def make_stage(kind: type[AttentionStage], output: Output) -> AttentionStage:
    """Return a stage in float64, the same at every call."""
    with seeded(3):
        return kind(General(3), output=output).double()


def count_input(output: Output) -> int:
    """Return the size of the states."""
    return 9 if output == "key_value_predict" else 3


def make_loop(stage: AttentionStage) -> Callable[[Tensor], Tensor]:
    """Return the outputs of one row, computed step by step from their definition."""

    def attend_row(row: Tensor) -> Tensor:
        if not len(row):
            return row.new_zeros(0, 6 if stage.output == "concat" else 3)
        row, value, predict = row.chunk(3, 1) if stage.output == "key_value_predict" else (row, row, row)
        linear = as_any(stage.attention).linear
        scores = torch.stack([torch.stack([(linear.weight @ q + linear.bias) @ k for k in row]) for q in row])
        earlier = [range(step) or [0] for step in range(len(row))]
        everything = [range(len(row))] * len(row)
        contexts = attend_by_softmax(scores, value, everything if isinstance(stage, Attend) else earlier)
        if stage.output == "context":
            return contexts
        both = [torch.cat([context, state]) for context, state in zip(contexts, predict, strict=True)]
        if stage.output == "concat":
            return torch.stack(both)
        assert stage.combine is not None
        return torch.stack([torch.tanh(stage.combine.weight @ each) for each in both])

    return attend_row


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", [Attend, AttendEarlier])
@given(rows=ragged_rows(features=9))
def test_outputs_equal_the_loop(kind: type[AttentionStage], output: Output, rows: list[Tensor]) -> None:
    """Values and all gradients, also those of the layer."""
    stage, rows = make_stage(kind, output), [row[:, : count_input(output)] for row in rows]
    check_against_oracle(adapt_attend(stage), make_loop(stage), rows, list(stage.parameters()))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("kind", [Attend, AttendEarlier])
def test_padding_has_no_effect(kind: type[AttentionStage], output: Output) -> None:
    """NaN in it changes no value and no gradient."""
    stage = make_stage(kind, output)
    found: list[list[Tensor]] = []
    for filling in (0.0, torch.nan):
        values = torch.ones(2, 3, count_input(output), dtype=torch.float64).cumsum(1)
        values[1, 1:] = filling
        outputs = stage(States.from_padded(values, torch.tensor([3, 1]))).packed().values
        found.append([outputs, *torch.autograd.grad(outputs.square().sum(), list(stage.parameters()))])
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)
        assert first.isfinite().all()


def test_the_layout_is_kept() -> None:
    """Packed states give packed states."""
    for output in OUTPUTS:
        states = States.from_padded(torch.randn(2, 3, count_input(output)), torch.tensor([3, 1]))
        packed = states.with_values(states.packed())
        stage = make_stage(Attend, output).float()
        assert type(stage(states).steps) is type(states.steps)
        assert type(stage(packed).steps) is type(packed.steps)


def test_final_states_are_joined_with_zeros() -> None:
    """They must have the size of the steps; `Pool("final")` rejects them."""
    states = States.from_padded(torch.randn(2, 3, 3), torch.tensor([3, 1]))
    found = Attend("dot", input_size=3, output="concat")(states)
    assert torch.equal(found.final, torch.cat([torch.zeros(2, 3), states.final], 1))
    with pytest.raises(CompositionError, match="Attend changed the steps"):
        Pool("final")(found)


def test_sizes_follow_from_the_output() -> None:
    """The layer is made by `>>`, and the next stage gets the right size."""
    for output, size in zip(OUTPUTS, (6, 12, 6, 2), strict=True):
        encode = Encode("lstm", causal=True, hidden_size=6)
        model = Pack() >> Embed(9, 4) >> encode >> AttendEarlier("dot", output=output) >> NextToken(9)
        assert model.state_dict()["next_token.linear.weight"].shape == (9, size)
        names = [name for name in model.state_dict() if name.startswith("attend_earlier")]
        assert names == (["attend_earlier.combine.weight"] if output in {"tanh", "key_value_predict"} else [])


def test_another_word_is_an_error() -> None:
    """It names the choices."""
    with pytest.raises(OptionError, match="output must be one of context, concat, tanh, key_value_predict, got 'sum'"):
        as_any(Attend)("dot", output="sum")


@pytest.mark.parametrize("output", OUTPUTS)
def test_steps_equal_the_whole_pass(output: Output) -> None:
    """A row in chunks of two steps, then one by one."""
    seed(0)
    encode = Encode("gru", causal=True, hidden_size=6)
    model: Any = Embed(9, 4) >> encode >> AttendEarlier("general", output=output, window=3) >> NextToken(9)
    row = [3, 1, 4, 1, 5, 2]
    wanted = model(make_ids([row])).values
    carry, found = None, list[Tensor]()
    for chunk in (row[:2], row[2:4], row[4:5], row[5:]):
        scores, carry = model.step(make_ids([chunk]), carry)
        found.append(scores.values)
    torch.testing.assert_close(torch.cat(found), wanted)


def make_pipe(output: Output) -> Any:
    """Return a language model over rows of ids."""
    seed(0)
    encode = Encode("lstm", causal=True, hidden_size=3)
    model = Pack() >> Embed(9, 4) >> encode >> AttendEarlier("additive", output=output) >> NextToken(9)
    return as_any(FromIds() >> Shift() >> Bucket(rows=2, seed=0) >> Pad() >> model)


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_trained_pipe_is_saved_and_loaded(output: Output, tmp_path: Path) -> None:
    """With equal bits."""
    pipe, rows = make_pipe(output), [[1, 2, 3, 4], [5, 6], [7]]
    pipe.fit(rows, epochs=1, seed=0, progress=False)
    pipe.save(tmp_path / "pipe")
    assert compute_answers(as_any(load(tmp_path / "pipe")), rows) == compute_answers(pipe, rows)


@pytest.mark.parametrize("output", mark_slow(["concat", "tanh", "key_value_predict"], quick={"tanh"}))
def test_outputs_are_exported(output: Output, tmp_path: Path) -> None:
    """Of whole rows, and step by step, where the memory has the size of a state."""
    model = Pack() >> Embed(9, 4) >> Encode("lstm", causal=True, hidden_size=3)
    scored = model >> AttendEarlier("general", output=output) >> NextToken(9)
    assert scored.export(tmp_path / "rows.pt2", batches=2).difference <= 1e-5
    assert scored.export(tmp_path / "step.pt2", form="step", batches=2).difference <= 1e-5


def test_states_that_cannot_be_divided_are_an_error() -> None:
    """Into a key, a value and the part that predicts."""
    with pytest.raises(CompositionError, match="must be a multiple of 3, got 4"):
        _ = Encode("gru", input_size=3, hidden_size=4) >> Attend("dot", output="key_value_predict")
