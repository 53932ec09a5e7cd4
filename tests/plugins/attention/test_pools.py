"""Tests of poolings by attention with several weights per step: loops over rows, laws, the penalty, saving."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from torch import Tensor, nn
from typing_extensions import override

from pipeline import Bucket, Classify, Embed, Encode, Example, FromIds, Pad, Pool, Pooling, States, load
from pipeline.errors import OptionError
from pipeline.extend import MaybeCausal, add_to_loss, collect_added_losses
from pipeline.testing import adapt_pool, check_against_oracle, check_pool
from pipeline.training.adapters import ModelWithLoss, make_loader
from pipeline_attention import StructuredAttentionPool, VectorAttentionPool
from support.needs import mark_slow
from support.strategies import ragged_rows
from support.untyped import as_any, seed, to_list

POOLS: dict[str, Callable[[], Pooling]] = {
    "structured_attention": lambda: StructuredAttentionPool(3, hops=2, hidden_size=5),
    "vector_attention": lambda: VectorAttentionPool(3, hidden_size=5),
}
EXAMPLES = [Example([number, 1 + number % 3][: 1 + number % 2], target=number % 3) for number in range(8)]


def pool_structured(pool: StructuredAttentionPool, row: Tensor) -> Tensor:
    """Return the averages of one row, step by step."""
    if not len(row):
        return row.new_zeros(6)
    scores = torch.stack([pool.outer.weight @ torch.tanh(pool.inner.weight @ step) for step in row])
    return torch.cat([torch.softmax(scores[:, hop], dim=0) @ row for hop in range(pool.hops)])


def pool_vectors(pool: VectorAttentionPool, row: Tensor) -> Tensor:
    """Return the average of one row, feature by feature."""
    if not len(row):
        return row.new_zeros(3)
    scores = torch.stack([pool.outer(torch.relu(pool.inner(step))) for step in row])
    return torch.stack([torch.softmax(scores[:, each], dim=0) @ row[:, each] for each in range(3)])


@given(rows=ragged_rows())
def test_structured_attention_equals_the_loop(rows: list[Tensor]) -> None:
    """Values and gradients of rows and weights."""
    seed(3)
    pool = StructuredAttentionPool(3, hops=2, hidden_size=5).double()
    check_against_oracle(adapt_pool(Pool(pool)), lambda row: pool_structured(pool, row), rows, list(pool.parameters()))


@given(rows=ragged_rows())
def test_vector_attention_equals_the_loop(rows: list[Tensor]) -> None:
    """Values and gradients of rows and weights."""
    seed(3)
    pool = VectorAttentionPool(3, hidden_size=5).double()
    check_against_oracle(adapt_pool(Pool(pool)), lambda row: pool_vectors(pool, row), rows, list(pool.parameters()))


@pytest.mark.parametrize("name", mark_slow(POOLS, quick={"structured_attention"}))
def test_pools_obey_the_laws(name: str) -> None:
    """Those of poolings, all of them."""
    check_pool(POOLS[name])


@pytest.mark.parametrize("name", POOLS)
def test_weights_of_a_row_sum_to_one(name: str) -> None:
    """Those of an empty row, and of padding, are zeros."""
    states = States.from_padded(torch.randn(3, 4, 3), torch.tensor([3, 0, 4]))
    weights = POOLS[name]().weights(states)
    assert weights is not None
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0, 0.0, 1.0]))
    assert to_list(weights[0, 3:]) == [0.0]


@pytest.mark.parametrize("name", POOLS)
def test_vectors_have_the_same_bits_in_every_batch(name: str) -> None:
    """In a pipe for inference that says so."""
    seed(0)
    pipe = FromIds() >> Bucket(rows=4) >> Pad() >> Embed(9, 3) >> Pool(POOLS[name]()) >> Classify(3)
    frozen = pipe.for_inference(deterministic=True)
    together = list(frozen.vectors([[1, 2, 3, 4], [5], [], [7, 8]]))
    alone = [next(iter(frozen.vectors([row]))) for row in ([1, 2, 3, 4], [5], [], [7, 8])]
    assert torch.equal(torch.stack(together), torch.stack(alone))
    torch.testing.assert_close(torch.stack(together), torch.stack(list(pipe.vectors([[1, 2, 3, 4], [5], [], [7, 8]]))))


def compute_penalty(pool: StructuredAttentionPool, rows: list[Tensor]) -> Tensor:
    """Return the mean of ||A A' - I||^2 over rows that are not empty."""
    found: list[Tensor] = []
    for row in filter(len, rows):
        scores = torch.stack([pool.outer.weight @ torch.tanh(pool.inner.weight @ step) for step in row])
        weights = torch.softmax(scores, dim=0).T
        found.append((weights @ weights.T - torch.eye(pool.hops)).square().sum())
    return torch.stack(found).mean()


def test_the_penalty_equals_its_formula() -> None:
    """It is the mean over the rows with steps, times its weight, and only in training."""
    seed(1)
    pool = StructuredAttentionPool(3, hops=2, penalty=0.5).double()
    rows = [torch.randn(time, 3).double() for time in (4, 1, 0, 2)]
    states = States.from_padded(nn.utils.rnn.pad_sequence(rows, batch_first=True), torch.tensor([4, 1, 0, 2]))
    with collect_added_losses() as terms:
        pool(states)
        pool.eval()(states)
    assert len(terms) == 1
    torch.testing.assert_close(terms[0], 0.5 * compute_penalty(pool, rows))
    wanted = torch.autograd.grad(compute_penalty(pool, rows) / 2, pool.outer.weight)[0]
    torch.testing.assert_close(torch.autograd.grad(terms[0], pool.outer.weight)[0], wanted)


class Added(Pooling):
    """Returns the first step of each row, and adds a number that depends on its weight to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    @override
    def forward(self, states: States[MaybeCausal]) -> Tensor:
        add_to_loss(3 * self.scale)
        return states.padded().values[:, 0] * self.scale.detach()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_fit_adds_the_terms_of_parts_to_the_loss(accumulate: int) -> None:
    """Their gradient is the same with accumulated batches, whatever their sizes; the reported loss is the head's."""
    pool = Added()
    pipe = FromIds() >> Bucket(rows=6) >> Pad() >> Embed(9, 4) >> Pool(pool) >> Classify(3)
    sgd = torch.optim.SGD
    history = pipe.fit(
        EXAMPLES,
        epochs=1,
        optimizer=lambda weights: sgd(weights, lr=0.1),
        accumulate=accumulate,
        max_grad_norm=None,
        progress=False,
    )
    steps = 2 if accumulate == 1 else 1
    torch.testing.assert_close(pool.scale.detach(), torch.tensor(1 - 0.1 * 3 * steps))
    assert history.epochs[0].train_loss < 3


def test_adapters_of_other_libraries_add_the_terms() -> None:
    """In training, and not in evaluation."""
    pipe = FromIds() >> Bucket(rows=8) >> Pad() >> Embed(9, 4) >> Pool(Added()) >> Classify(3)
    model = ModelWithLoss(pipe)
    (batch,) = make_loader(pipe, EXAMPLES)
    with_term, without = (model.train(mode)(batch)["loss"] for mode in (True, False))
    torch.testing.assert_close(with_term, without + 3)


@pytest.mark.parametrize("name", POOLS)
def test_pipes_are_trained_saved_and_loaded(name: str, tmp_path: Path) -> None:
    """By name, after an encoder; with equal vectors."""
    data = FromIds() >> Bucket(rows=4) >> Pad()
    pipe = data >> Embed(9, 4) >> Encode("gru", hidden_size=3) >> Pool(name, hidden_size=2) >> Classify(3)
    pipe.fit(EXAMPLES, epochs=1, progress=False)
    pipe.save(tmp_path / "pipe")
    found, wanted = (torch.stack(list(each.vectors([[1, 2, 3], []]))) for each in (load(tmp_path / "pipe"), pipe))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("structured_attention", {"hops": 0}, "hops must be an integer of at least 1, got 0"),
        ("structured_attention", {"penalty": -1.0}, "penalty must be a finite number of 0 or more, got -1.0; 0 adds"),
        ("structured_attention", {"penalty": "1"}, "penalty must be a finite number of 0 or more, got '1'"),
        ("structured_attention", {"penalty": True}, "penalty must be a finite number of 0 or more, got True"),
        ("structured_attention", {"penalty": float("nan")}, "penalty must be a finite number of 0 or more, got nan"),
        ("attention", {"input_size": 0}, "input_size must be an integer of at least 1, got 0"),
        ("attention", {"input_size": "3"}, "input_size must be an integer of at least 1, got '3'"),
        ("structured_attention", {"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
        ("vector_attention", {"hidden_size": 0}, "hidden_size must be an integer of at least 1, got 0"),
    ],
)
def test_wrong_options_raise(name: str, options: dict[str, object], message: str) -> None:
    """Each error names the option and what it may be."""
    with pytest.raises(OptionError, match=message):
        as_any(Pool)(name, **{"input_size": 3, **options})
