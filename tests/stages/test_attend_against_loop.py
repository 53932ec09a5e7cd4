"""Attention over whole rows and over earlier steps equals a plain loop over each row."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from pipeline import Attend, AttendEarlier, Attention, Encode, Padded, States, Vectors
from pipeline.errors import CompositionError, OptionError, ShapeError, UnknownOptionError
from pipeline.parts.attention import masked_softmax
from pipeline.testing import MODULE_LAWS, Law, PlainModule, adapt_attend, check_against_oracle
from pipeline_attention import Additive, Dot, General, ScaledDot
from pipeline_recurrent import LSTM
from support.oracles import attend
from support.strategies import ragged
from support.untyped import seed

NAMES = ("dot", "scaled_dot", "general", "additive")


def made(name: str) -> Attention:
    """A small attention in float64, the same at every call."""
    seed(3)
    makers: dict[str, Callable[[], Attention]] = {
        "dot": lambda: Dot(3),
        "scaled_dot": lambda: ScaledDot(3),
        "general": lambda: General(3),
        "additive": lambda: Additive(3, hidden_size=2),
    }
    return makers[name]().double()


def score(attention: Attention, query: Tensor, key: Tensor) -> Tensor:
    """One score of one query and one key, from the definition."""
    match attention:
        case ScaledDot():
            return query @ key / math.sqrt(len(key))
        case General():
            return (attention.linear.weight @ query + attention.linear.bias) @ key
        case Additive():
            inside = attention.query.weight @ query + attention.query.bias + attention.key.weight @ key
            return attention.value.weight[0] @ torch.tanh(inside)
        case _:
            return query @ key


def scores(attention: Attention, row: Tensor) -> Tensor:
    """Every score of a row, one at a time."""
    cells = [score(attention, query, key) for query in row for key in row]
    return torch.stack(cells).reshape(len(row), len(row)) if cells else row.new_zeros(0, 0)


@pytest.mark.parametrize("name", NAMES)
@given(rows=ragged())
def test_whole_rows_equal_the_loop(name: str, rows: list[Tensor]) -> None:
    """Each step attends to every step of its row: values and all gradients."""
    attention = made(name)

    def plainly(row: Tensor) -> Tensor:
        return attend(scores(attention, row), row, [range(len(row))] * len(row))

    check_against_oracle(adapt_attend(Attend(attention)), plainly, rows, list(attention.parameters()))


@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("name", NAMES)
@given(rows=ragged())
def test_earlier_steps_equal_the_loop(name: str, window: int | None, rows: list[Tensor]) -> None:
    """Each step attends to those before it, the first to itself alone: values and all gradients."""
    attention = made(name)

    def plainly(row: Tensor) -> Tensor:
        reach = len(row) if window is None else window
        allowed = [range(max(0, step - reach), step) or [0] for step in range(len(row))]
        return attend(scores(attention, row), row, allowed)

    stage = AttendEarlier(attention, window=window)
    check_against_oracle(adapt_attend(stage), plainly, rows, list(attention.parameters()))


class Contexts(nn.Module):
    """A stage as a script calls it that knows nothing of states."""

    def __init__(self, stage: Attend | AttendEarlier) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Each step's context."""
        return self.stage(States.from_padded(values, lengths)).padded().values


@pytest.mark.parametrize("law", MODULE_LAWS)
@pytest.mark.parametrize("stage", [Attend, AttendEarlier])
@pytest.mark.parametrize("name", NAMES)
def test_laws_hold(name: str, stage: type[Attend] | type[AttendEarlier], law: Law[PlainModule]) -> None:
    """Padding and batch mates change no answer, and the stages can be exported; earlier steps alone are causal."""
    law(
        lambda: PlainModule(
            Contexts(stage(made(name))), input_size=3, causal=stage is AttendEarlier, exportable=name == "general"
        )
    )


@given(rows=ragged())
def test_the_future_is_not_seen(rows: list[Tensor]) -> None:
    """Changing a row's last step changes no context but that step's own."""
    stage = AttendEarlier(made("general"))
    for row in rows:
        if not len(row):
            continue
        changed = torch.cat([row[:-1], row[-1:] + 1])
        lengths = torch.tensor([len(row)])
        before, after = (stage(States.from_padded(x.unsqueeze(0), lengths)).packed().values for x in (row, changed))
        last = len(row) - 1
        assert torch.equal(before[:last], after[:last])
        weights = stage.weights(States.from_padded(row.unsqueeze(0), lengths))[0]
        assert not weights.diagonal()[1:].any(), "only the first step attends to itself"


def test_weights_sum_to_one_at_real_steps() -> None:
    """Weights are given on request; padding neither attends nor is attended."""
    states = States.from_padded(torch.randn(2, 4, 3).double(), torch.tensor([4, 2]))
    for stage in (Attend(made("general")), AttendEarlier(made("general"))):
        weights = stage.weights(states)
        assert weights.shape == (2, 4, 4)
        torch.testing.assert_close(weights.sum(-1), states.mask.double())
        assert not weights[1, :, 2:].any()


def test_a_query_with_nothing_to_attend_gives_zeros() -> None:
    """And finite gradients, where a plain softmax gives NaN."""
    values = torch.full((1, 3), 1e38, requires_grad=True)
    weights = masked_softmax(values, torch.tensor([[False, False, False]]))
    (gradient,) = torch.autograd.grad(weights.sum(), values)
    assert not weights.any()
    assert not gradient.any()


def test_final_states_stay_the_encoders() -> None:
    """Attention changes the steps, and leaves what the encoder ended with."""
    states = Encode(LSTM(3, 4))(Padded(Vectors, torch.randn(2, 5, 3), torch.tensor([5, 2])))
    found = Attend("general", input_size=4)(states)
    assert torch.equal(found.final, states.final)
    assert found.carry is states.carry
    assert not torch.equal(found.packed().values, states.packed().values)


def test_a_size_is_learned_or_said() -> None:
    """An attention by name waits for its size, and refuses another."""
    waiting = Attend("general")
    states = States.from_padded(torch.zeros(1, 2, 3), torch.tensor([2]))
    with pytest.raises(CompositionError, match=r'does not know its input size yet.*Attend\("general", input_size=3\)'):
        waiting(states)
    with pytest.raises(ShapeError, match="attention 'general' reads 4 features, but 3 arrived"):
        Attend("general", input_size=4)(states)
    joined = Encode(LSTM(3, 5)) >> waiting
    assert sorted(joined.state_dict())[:2] == ["attend.attention.linear.bias", "attend.attention.linear.weight"]


def test_bad_options_are_refused() -> None:
    """Each with the rule, what arrived and what to do."""
    with pytest.raises(OptionError, match="window must be 1 or more, but 0 arrived"):
        AttendEarlier("dot", window=0)
    with pytest.raises(OptionError, match=r"options \['bias'\] go with a registered name; General was made already"):
        Attend(General(3), bias=False)
    with pytest.raises(UnknownOptionError, match="attention 'dot' of pipeline .* takes no option 'bias'"):
        Attend("dot", bias=False)
