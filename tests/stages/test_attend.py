"""Tests of `Attend` and `AttendEarlier` against a plain loop over each row."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn

from pipeline import Attend, AttendEarlier, Attention, Encode, Padded, Pool, States, Vectors
from pipeline.builtin.pools import MeanPool
from pipeline.core.contexts import seeded
from pipeline.errors import CompositionError, OptionError, ShapeError, UnknownOptionError
from pipeline.parts.attention import masked_softmax
from pipeline.testing import MODULE_LAWS, Law, PlainModule, adapt_attend, check_against_oracle
from pipeline_attention import Additive, Concat, Dot, General, ScaledDot
from pipeline_recurrent import LSTM
from support.oracles import attend_by_softmax
from support.strategies import ragged_rows
from support.untyped import as_any

NAMES = ("dot", "scaled_dot", "general", "additive", "concat")


def make_attention(name: str) -> Attention:
    """Return a small attention in float64, the same at every call."""
    makers: dict[str, Callable[[], Attention]] = {
        "dot": lambda: Dot(3),
        "scaled_dot": lambda: ScaledDot(3),
        "general": lambda: General(3),
        "additive": lambda: Additive(3, hidden_size=2),
        "concat": lambda: Concat(3, hidden_size=2),
    }
    # The program's own generator stays as it was: a part whose creation changes it would break a law.
    with seeded(3):
        return makers[name]().double()


def compute_score(attention: Attention, query: Tensor, key: Tensor) -> Tensor:
    """Return the score of one query and one key, from the definition."""
    match attention:
        case ScaledDot():
            return query @ key / math.sqrt(len(key))
        case General():
            return (attention.linear.weight @ query + attention.linear.bias) @ key
        case Additive():
            inside = attention.query.weight @ query + attention.query.bias + attention.key.weight @ key
            return attention.value.weight[0] @ torch.tanh(inside)
        case Concat():
            return attention.value.weight[0] @ torch.tanh(attention.linear.weight @ torch.cat([query, key]))
        case _:
            return query @ key


def compute_scores(attention: Attention, row: Tensor) -> Tensor:
    """Return all scores of a row, computed one by one."""
    cells = [compute_score(attention, query, key) for query in row for key in row]
    return torch.stack(cells).reshape(len(row), len(row)) if cells else row.new_zeros(0, 0)


@pytest.mark.parametrize("name", NAMES)
@given(rows=ragged_rows())
def test_whole_rows_equal_the_loop(name: str, rows: list[Tensor]) -> None:
    """Each step attends to every step of its row: values and all gradients."""
    attention = make_attention(name)

    def attend_row(row: Tensor) -> Tensor:
        return attend_by_softmax(compute_scores(attention, row), row, [range(len(row))] * len(row))

    check_against_oracle(adapt_attend(Attend(attention)), attend_row, rows, list(attention.parameters()))


@pytest.mark.parametrize("window", [None, 1, 2])
@pytest.mark.parametrize("name", NAMES)
@given(rows=ragged_rows())
def test_earlier_steps_equal_the_loop(name: str, window: int | None, rows: list[Tensor]) -> None:
    """Each step attends to those before it, the first to itself only: values and all gradients."""
    attention = make_attention(name)

    def attend_row(row: Tensor) -> Tensor:
        reach = len(row) if window is None else window
        allowed = [range(max(0, step - reach), step) or [0] for step in range(len(row))]
        return attend_by_softmax(compute_scores(attention, row), row, allowed)

    stage = AttendEarlier(attention, window=window)
    check_against_oracle(adapt_attend(stage), attend_row, rows, list(attention.parameters()))


class Contexts(nn.Module):
    """A stage as a plain module, from values and lengths to values."""

    def __init__(self, stage: Attend | AttendEarlier) -> None:
        super().__init__()
        self.stage = stage

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return each step's context."""
        return self.stage(States.from_padded(values, lengths)).padded().values


@pytest.mark.parametrize("law", MODULE_LAWS)
@pytest.mark.parametrize("stage", [Attend, AttendEarlier])
@pytest.mark.parametrize("name", NAMES)
def test_laws_hold(name: str, stage: type[Attend] | type[AttendEarlier], law: Law[PlainModule]) -> None:
    """Padding and batchmates have no effect, the stages can be exported, and `AttendEarlier` is causal."""
    law(
        lambda: PlainModule(
            Contexts(stage(make_attention(name))),
            input_size=3,
            causal=stage is AttendEarlier,
            exportable=name == "general",
        )
    )


@given(rows=ragged_rows())
def test_earlier_attention_is_causal(rows: list[Tensor]) -> None:
    """Changing a row's last step changes no other context."""
    stage = AttendEarlier(make_attention("general"))
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
    """Padding neither attends nor is attended to."""
    states = States.from_padded(torch.randn(2, 4, 3).double(), torch.tensor([4, 2]))
    for stage in (Attend(make_attention("general")), AttendEarlier(make_attention("general"))):
        weights = stage.weights(states)
        assert weights.shape == (2, 4, 4)
        torch.testing.assert_close(weights.sum(-1), states.mask.double())
        assert not weights[1, :, 2:].any()


def test_a_fully_masked_query_gives_zeros() -> None:
    """With finite gradients, unlike a plain softmax, which gives NaN."""
    values = torch.full((1, 3), 1e38, requires_grad=True)
    weights = masked_softmax(values, torch.tensor([[False, False, False]]))
    (gradient,) = torch.autograd.grad(weights.sum(), values)
    assert not weights.any()
    assert not gradient.any()


def test_final_states_are_not_changed() -> None:
    """Attention changes the steps only."""
    states = Encode(LSTM(3, 4))(Padded(Vectors, torch.randn(2, 5, 3), torch.tensor([5, 2])))
    found = Attend("general", input_size=4)(states)
    assert torch.equal(found.final, states.final)
    assert found.carry is states.carry
    assert not torch.equal(found.packed().values, states.packed().values)


def test_the_input_size_is_inferred_or_given() -> None:
    """An attention given by name waits for its input size, and rejects another."""
    lazy = Attend("general")
    states = States.from_padded(torch.zeros(1, 2, 3), torch.tensor([2]))
    with pytest.raises(CompositionError, match=r'does not know its input size yet.*Attend\("general", input_size=3\)'):
        lazy(states)
    with pytest.raises(ShapeError, match="attention 'general' has input_size=4, got values with 3 features"):
        Attend("general", input_size=4)(states)
    joined = Encode(LSTM(3, 5)) >> lazy
    assert sorted(joined.state_dict())[:2] == ["attend.attention.linear.bias", "attend.attention.linear.weight"]


def test_invalid_options_raise() -> None:
    """Each with the rule, the value and a fix."""
    with pytest.raises(OptionError, match="window must be an integer of at least 1, got 0"):
        AttendEarlier("dot", window=0)
    with pytest.raises(OptionError, match=r"options \['bias'\] need a registered name, got a General object"):
        as_any(Attend)(General(3), bias=False)
    with pytest.raises(
        OptionError, match=r"Attend must get an object derived from Attention .*, got a torch\.nn\..*Linear"
    ):
        as_any(Attend)(nn.Linear(3, 3))
    for stage, part in ((as_any(Attend), General), (as_any(Encode), LSTM), (as_any(Pool), MeanPool)):
        message = rf"must get an object, got the class {part.__name__}; create an object: {part.__name__}\(\.\.\.\)"
        with pytest.raises(OptionError, match=message):
            stage(part)
    with pytest.raises(
        OptionError, match=r"got a torch\.nn\.modules\.rnn\.LSTM; .*, or copy an nn\.LSTM with LSTM\.from_"
    ):
        as_any(Encode)(nn.LSTM(3, 3))
    with pytest.raises(UnknownOptionError, match="attention 'dot' of ragged-pipeline .* does not take option 'bias'"):
        Attend("dot", bias=False)
