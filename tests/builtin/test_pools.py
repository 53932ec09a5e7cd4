"""Every pool equals a plain loop over each row, looks at real steps alone, and gives zeros for a row of none."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor

from pipeline import Classify, Encode, Padded, Pool, Pooling, States, Vectors
from pipeline.errors import CompositionError, ShapeError, UnknownNameError, UnknownOptionError
from pipeline.testing import adapt_pool, check_against_oracle
from pipeline_attention import AttentionPool
from pipeline_recurrent import LSTM
from support.strategies import ragged
from support.untyped import listed, seed

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "final": lambda row: row[-1],
    "last": lambda row: row[-1],
    "first": lambda row: row[0],
    "sum": lambda row: row.sum(0),
    "mean": lambda row: row.mean(0),
    "max": lambda row: row.amax(0),
}


@pytest.mark.parametrize("name", PLAIN)
@given(rows=ragged())
def test_pools_equal_the_loop(name: str, rows: list[Tensor]) -> None:
    """Values and gradients of every pool without weights."""
    check_against_oracle(adapt_pool(Pool(name)), lambda row: PLAIN[name](row) if len(row) else row.new_zeros(3), rows)


def attention_pool() -> AttentionPool:
    """A small pool in float64, the same at every call."""
    seed(3)
    return AttentionPool(3).double()


@given(rows=ragged())
def test_attention_pool_equals_the_loop(rows: list[Tensor]) -> None:
    """A learned query asks each step: values, and gradients of rows, projection and query."""
    pool = attention_pool()

    def plainly(row: Tensor) -> Tensor:
        if not len(row):
            return row.new_zeros(3)
        asked = [torch.tanh(pool.projection.weight @ step + pool.projection.bias) @ pool.query for step in row]
        return torch.softmax(torch.stack(asked), dim=0) @ row

    check_against_oracle(adapt_pool(Pool(pool)), plainly, rows, list(pool.parameters()))


def test_equal_maxima_share_the_gradient() -> None:
    """As torch's amax has it, whatever the order of the steps."""
    values = torch.tensor([[[2.0], [2.0], [1.0], [9.0]]], requires_grad=True)
    pooled_rows = Pool("max")(States.from_padded(values, torch.tensor([3])))
    (gradient,) = torch.autograd.grad(pooled_rows.values.sum(), values)
    assert listed(gradient.flatten()) == [0.5, 0.5, 0.0, 0.0]


def test_final_is_not_last_for_two_directions() -> None:
    """The backward half of the final state belongs to the first step, not to the last."""
    states = Encode(LSTM(3, 4, bidirectional=True))(Padded(Vectors, torch.randn(2, 5, 3), torch.tensor([5, 2])))
    final, last, first = (Pool(how)(states).values for how in ("final", "last", "first"))
    assert torch.equal(final[:, :4], last[:, :4])
    assert torch.equal(final[:, 4:], first[:, 4:])
    assert not torch.equal(final, last)


def test_attention_pool_weights_are_given_on_request() -> None:
    """They sum to 1 over each row that has steps."""
    states = States.from_padded(torch.randn(2, 4, 3).double(), torch.tensor([3, 0]))
    weights = attention_pool().weights(states)
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 0.0]).double())


def test_a_stranger_may_pool_to_another_size() -> None:
    """A pool that gives more features than come in says so, and the head behind it learns its size."""

    class MeanAndMax(Pooling):
        def forward(self, states: States) -> Tensor:
            return torch.cat([Pool(how)(states).values for how in ("mean", "max")], dim=1)

        def output_size(self, input_size: int) -> int:
            return 2 * input_size

    model = Encode(LSTM(3, 4)) >> Pool(MeanAndMax()) >> Classify(2)
    assert model.state_dict()["classify.linear.weight"].shape == (2, 8)
    assert model(Padded(Vectors, torch.zeros(1, 2, 3), torch.tensor([2]))).values.shape == (1, 2)


def test_bad_names_and_options_are_refused() -> None:
    """With the list of what exists."""
    with pytest.raises(
        UnknownNameError, match="'avg' is no pool that is installed; there are: attention, final, first"
    ):
        Pool("avg")
    with pytest.raises(UnknownOptionError, match="pool 'mean' .* takes no option 'dim'; it takes: none"):
        Pool("mean", dim=1)


def test_sizes_that_do_not_fit_are_refused() -> None:
    """At the join, and at the call of a pool by itself."""
    states = States.from_padded(torch.zeros(1, 2, 3), torch.tensor([2]))
    with pytest.raises(CompositionError, match="pool 'attention' does not know its input size yet"):
        Pool("attention")(states)
    with pytest.raises(ShapeError, match="pool 'attention' reads 5 features, but 3 arrived"):
        Pool("attention", input_size=5)(states)
    with pytest.raises(CompositionError, match="between stage 1 `Encode` and stage 2 `Pool`: 4 features come in, but"):
        _ = Encode(LSTM(3, 4)) >> Pool("attention", input_size=5)
