"""Tests of poolings: each equals a plain loop over the rows, and gives zeros for an empty row."""

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
from support.strategies import ragged_rows
from support.untyped import seed, to_list

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "final": lambda row: row[-1],
    "last": lambda row: row[-1],
    "first": lambda row: row[0],
    "sum": lambda row: row.sum(0),
    "mean": lambda row: row.mean(0),
    "max": lambda row: row.amax(0),
}


@pytest.mark.parametrize("name", PLAIN)
@given(rows=ragged_rows())
def test_pools_equal_the_loop(name: str, rows: list[Tensor]) -> None:
    """Values and gradients of every pooling without weights equal those of a loop over rows."""
    check_against_oracle(adapt_pool(Pool(name)), lambda row: PLAIN[name](row) if len(row) else row.new_zeros(3), rows)


def make_attention_pool() -> AttentionPool:
    """Return a small pooling in float64, the same at every call."""
    seed(3)
    return AttentionPool(3).double()


@given(rows=ragged_rows())
def test_attention_pool_equals_the_loop(rows: list[Tensor]) -> None:
    """Values equal those of a loop over rows, and so do the gradients of rows, projection and query."""
    pool = make_attention_pool()

    def pool_row(row: Tensor) -> Tensor:
        if not len(row):
            return row.new_zeros(3)
        scores = [torch.tanh(pool.projection.weight @ step + pool.projection.bias) @ pool.query for step in row]
        return torch.softmax(torch.stack(scores), dim=0) @ row

    check_against_oracle(adapt_pool(Pool(pool)), pool_row, rows, list(pool.parameters()))


def test_equal_maxima_share_the_gradient() -> None:
    """Of two equal maxima each gets half of the gradient, as in torch's amax."""
    values = torch.tensor([[[2.0], [2.0], [1.0], [9.0]]], requires_grad=True)
    pooled_rows = Pool("max")(States.from_padded(values, torch.tensor([3])))
    (gradient,) = torch.autograd.grad(pooled_rows.values.sum(), values)
    assert to_list(gradient.flatten()) == [0.5, 0.5, 0.0, 0.0]


def test_final_differs_from_last_if_bidirectional() -> None:
    """The backward half of the final state belongs to the first step, not to the last."""
    states = Encode(LSTM(3, 4, bidirectional=True))(Padded(Vectors, torch.randn(2, 5, 3), torch.tensor([5, 2])))
    final, last, first = (Pool(name)(states).values for name in ("final", "last", "first"))
    assert torch.equal(final[:, :4], last[:, :4])
    assert torch.equal(final[:, 4:], first[:, 4:])
    assert not torch.equal(final, last)


def test_attention_pool_weights_sum_to_one() -> None:
    """The weights of an empty row are zeros."""
    states = States.from_padded(torch.randn(2, 4, 3).double(), torch.tensor([3, 0]))
    weights = make_attention_pool().weights(states)
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 0.0]).double())


def test_a_pooling_may_change_the_size() -> None:
    """It declares its output size, which becomes the input size of the head after it."""

    class MeanAndMax(Pooling):
        def forward(self, states: States) -> Tensor:
            return torch.cat([Pool(name)(states).values for name in ("mean", "max")], dim=1)

        def output_size(self, input_size: int) -> int:
            return 2 * input_size

    model = Encode(LSTM(3, 4)) >> Pool(MeanAndMax()) >> Classify(2)
    assert model.state_dict()["classify.linear.weight"].shape == (2, 8)
    assert model(Padded(Vectors, torch.zeros(1, 2, 3), torch.tensor([2]))).values.shape == (1, 2)


def test_unknown_names_and_options_raise() -> None:
    """The errors list the known names or options."""
    with pytest.raises(UnknownNameError, match="'avg' is not the name of an installed pool.*: attention, final, first"):
        Pool("avg")
    with pytest.raises(UnknownOptionError, match="pool 'mean' .* does not take option 'dim'; its options: none"):
        Pool("mean", dim=1)


def test_unequal_sizes_raise() -> None:
    """They raise when stages are joined, and when a pooling is called alone."""
    states = States.from_padded(torch.zeros(1, 2, 3), torch.tensor([2]))
    with pytest.raises(CompositionError, match="pool 'attention' does not know its input size yet"):
        Pool("attention")(states)
    with pytest.raises(ShapeError, match="pool 'attention' has input_size=5, got values with 3 features"):
        Pool("attention", input_size=5)(states)
    with pytest.raises(
        CompositionError, match="between stage 1 `Encode` and stage 2 `Pool`: the input has size 4 along"
    ):
        _ = Encode(LSTM(3, 4)) >> Pool("attention", input_size=5)
