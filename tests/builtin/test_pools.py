"""Tests of poolings: each equals a plain loop over the rows, and gives zeros for an empty row."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from torch import Tensor

from pipeline import (
    Bucket,
    Classify,
    Dropout,
    Embed,
    Encode,
    Example,
    FromIds,
    Identity,
    Ids,
    Pack,
    Pad,
    Padded,
    Pool,
    Pooling,
    States,
    Vectors,
    load,
)
from pipeline.errors import CompositionError, OptionError, ShapeError, UnknownNameError, UnknownOptionError
from pipeline.export.program import run_onnx
from pipeline.extend import join
from pipeline.testing import adapt_pool, check_against_oracle, check_pool
from pipeline_attention import AttentionPool
from pipeline_recurrent import LSTM
from support.needs import mark_slow, needs
from support.strategies import ragged_rows
from support.untyped import as_any, seed, to_list

PLAIN: dict[str, Callable[[Tensor], Tensor]] = {
    "final": lambda row: row[-1],
    "last": lambda row: row[-1],
    "first": lambda row: row[0],
    "sum": lambda row: row.sum(0),
    "mean": lambda row: row.mean(0),
    "max": lambda row: row.amax(0),
    "min": lambda row: row.amin(0),
    "mean_sqrt": lambda row: row.sum(0) / len(row) ** 0.5,
}


def take_largest(row: Tensor, k: int) -> Tensor:
    """Return the k largest numbers of each column in their order, and then zeros; of equal ones the earlier ones."""
    columns: list[Tensor] = []
    for column in row.T:
        ranked = sorted(range(len(column)), key=lambda step: (-column[step].item(), step))
        chosen = [column[step] for step in sorted(ranked[:k])]
        columns.append(torch.stack([*chosen, *[column.new_zeros(())] * (k - len(chosen))]))
    return torch.stack(columns, dim=1).flatten()


OPTIONS: dict[str, tuple[Callable[[], Pool], Callable[[Tensor], Tensor]]] = {
    "logsumexp": (lambda: Pool("logsumexp"), lambda row: row.logsumexp(0)),
    "logsumexp cold": (lambda: Pool("logsumexp", temperature=0.1), lambda row: (row / 0.1).logsumexp(0) * 0.1),
    "logsumexp mean": (
        lambda: Pool("logsumexp", temperature=3.0, mean=True),
        lambda row: ((row / 3).exp().sum(0) / len(row)).log() * 3,
    ),
    "kmax 1": (lambda: Pool("kmax", k=1), lambda row: take_largest(row, 1)),
    "kmax 3": (lambda: Pool("kmax", k=3), lambda row: take_largest(row, 3)),
    "quartiles": (
        lambda: Pool("quantiles"),
        lambda row: torch.quantile(row, torch.tensor([0.25, 0.5, 0.75]).double(), dim=0).flatten(),
    ),
    "ends": (lambda: Pool("quantiles", quantiles=(1, 0)), lambda row: torch.cat([row.amax(0), row.amin(0)])),
    "mean_std": (
        lambda: Pool("mean_std"),
        lambda row: torch.cat([row.mean(0), row.std(0, correction=0) if len(row) > 1 else 0 * row[0]]),
    ),
}
"""Poolings with options, each with its loop over one row that is not empty."""


@pytest.mark.parametrize("name", PLAIN)
@given(rows=ragged_rows())
def test_pools_equal_the_loop(name: str, rows: list[Tensor]) -> None:
    """Values and gradients of every pooling without weights equal those of a loop over rows."""
    check_against_oracle(adapt_pool(Pool(name)), lambda row: PLAIN[name](row) if len(row) else row.new_zeros(3), rows)


@pytest.mark.parametrize("case", OPTIONS)
@given(rows=ragged_rows())
def test_pools_with_options_equal_the_loop(case: str, rows: list[Tensor]) -> None:
    """Values and gradients equal those of a loop over rows."""
    make, pool_row = OPTIONS[case]
    size = make().get_part(3).output_size(3)
    check_against_oracle(adapt_pool(make()), lambda row: pool_row(row) if len(row) else row.new_zeros(size), rows)


@pytest.mark.parametrize(
    "case",
    mark_slow(["min", "mean_sqrt", "mean_std", "logsumexp mean", "kmax 3", "quartiles"], quick={"mean_std", "kmax 3"}),
)
def test_pools_obey_the_laws(case: str) -> None:
    """Those of poolings, all of them."""
    make = OPTIONS[case][0] if case in OPTIONS else lambda: Pool(case)
    check_pool(lambda: make().get_part(3))


def test_the_largest_values_keep_their_order() -> None:
    """Of equal ones the earlier are taken, so that the order of others does not change; zeros follow in short rows."""
    values = torch.tensor([[1.0, 5.0, 1.0, 1.0], [2.0, -1.0, 0.0, 0.0], [0.0] * 4]).unsqueeze(2)
    pooled = Pool("kmax", k=3)(States.from_padded(values, torch.tensor([4, 2, 0])))
    assert to_list(pooled.values) == [[1.0, 5.0, 1.0], [2.0, -1.0, 0.0], [0.0, 0.0, 0.0]]


@needs("onnx", "onnxruntime", "onnxscript")
def test_the_largest_values_keep_their_order_in_onnx(tmp_path: Path) -> None:
    """Also of equal values, which relu gives, and of rows with fewer steps than are taken; `export` compares others."""
    (Identity(2) >> Pool("kmax", k=3)).export(tmp_path / "model.onnx", kind=Vectors, batches=8)
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([9, 2, 0, 5, 1])
    values = torch.randint(-1, 2, (5, 9, 2), generator=generator).float().relu()
    (found,) = run_onnx(tmp_path / "model.onnx")([values, lengths])
    rows = [row[:length] for row, length in zip(values, lengths, strict=True)]
    assert to_list(found) == [to_list(take_largest(row, 3)) for row in rows]


def test_the_deviation_of_one_step_is_zero_with_a_gradient_of_zero() -> None:
    """And that of equal steps; the slope of the root at 0 is infinite."""
    values = torch.tensor([[[7.0], [torch.nan]], [[3.0], [3.0]]], requires_grad=True)
    pooled = Pool("mean_std")(States.from_padded(values, torch.tensor([1, 2])))
    assert to_list(pooled.values) == [[7.0, 0.0], [3.0, 0.0]]
    (gradient,) = torch.autograd.grad(pooled.values[:, 1].sum(), values)
    assert to_list(gradient.flatten()) == [0.0] * 4


def test_quantiles_of_rows_with_nan_are_nan() -> None:
    """As in `torch.quantile`; NaN in padding has no effect."""
    values = torch.tensor([[[1.0], [torch.nan], [2.0]], [[1.0], [2.0], [torch.nan]]])
    pooled = Pool("quantiles", quantiles=[0.0, 0.5])(States.from_padded(values, torch.tensor([3, 2])))
    assert pooled.values[0].isnan().all()
    assert to_list(pooled.values[1]) == [1.0, 1.5]


def test_a_smooth_maximum_of_large_values_does_not_overflow() -> None:
    """Not in half precision either."""
    values = torch.full((1, 100, 1), 60_000.0, dtype=torch.half)
    pooled = Pool("logsumexp", mean=True)(States.from_padded(values, torch.tensor([100])))
    assert to_list(pooled.values) == [[60_000.0]]


def test_a_smooth_maximum_of_infinite_values_is_infinite() -> None:
    """As `torch.logsumexp`; a row of -inf alone gives -inf, and a finite row beside it is as before."""
    values = torch.tensor([[[torch.inf], [1.0]], [[-torch.inf], [-torch.inf]], [[-torch.inf], [2.0]]])
    pooled = Pool("logsumexp")(States.from_padded(values, torch.tensor([2, 2, 2])))
    assert to_list(pooled.values.flatten()) == [torch.inf, -torch.inf, 2.0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("kmax", {"k": 0}, "k must be an integer of at least 1, got 0"),
        ("kmax", {"k": True}, "k must be an integer of at least 1, got True"),
        ("logsumexp", {"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        ("logsumexp", {"temperature": True}, "temperature must be a finite number above 0, got True; near 0 it is"),
        ("logsumexp", {"temperature": float("inf")}, "temperature must be a finite number above 0, got inf"),
        ("logsumexp", {"temperature": "1"}, "temperature must be a finite number above 0, got '1'"),
        ("logsumexp", {"mean": 1}, "mean must be True or False, got 1"),
        ("quantiles", {"quantiles": (0.5, 50)}, "quantiles must be a sequence of numbers from 0 to 1, got"),
        ("quantiles", {"quantiles": (True,)}, r"quantiles must be a sequence of numbers from 0 to 1, got \(True,\)"),
        ("quantiles", {"quantiles": "0.5"}, "quantiles must be a sequence of numbers from 0 to 1, got '0.5'"),
        ("quantiles", {"quantiles": (float("nan"),)}, "quantiles must be a sequence of numbers from 0 to 1, got"),
        ("quantiles", {"quantiles": ()}, "quantiles must be a sequence"),
        ("quantiles", {"quantiles": 0.5}, "quantiles must be a sequence"),
    ],
)
def test_wrong_options_raise(name: str, options: dict[str, object], message: str) -> None:
    """Each error names the option and what it may be."""
    with pytest.raises(OptionError, match=message):
        as_any(Pool)(name, **options)


def test_quantiles_are_read_once() -> None:
    """From anything that yields numbers."""
    assert as_any(Pool)("quantiles", quantiles=iter([0.5, 1])).part.quantiles == (0.5, 1)


def test_bags_of_embeddings_are_trained_saved_and_predicted(tmp_path: Path) -> None:
    """A pooling takes vectors that no encoder has read; with every pooling of steps, options and weights are saved."""
    examples = [Example([number, 1 + number % 3][: 1 + number % 2], target=number % 3) for number in range(8)]
    pools = [*(make() for make, _ in OPTIONS.values()), *map(Pool, ("min", "mean_sqrt", "max", "attention"))]
    for number, pool in enumerate(pools):
        pipe = FromIds() >> Bucket(rows=4) >> Pad() >> Embed(9, 4) >> pool >> Classify(3)
        pipe.fit(examples, epochs=1, progress=False)
        pipe.save(tmp_path / str(number))
        loaded = load(tmp_path / str(number))
        found, wanted = (torch.stack(list(each.vectors([[1, 2, 3], [], [4]]))) for each in (loaded, pipe))
        assert torch.equal(found, wanted)
        assert [*loaded.predict([[1, 2], []])] == [*pipe.predict([[1, 2], []])]


def test_vectors_equal_states_of_the_same_steps() -> None:
    """In either layout, and through a chain with dropout."""
    batch = Padded(Vectors, torch.randn(3, 4, 2), torch.tensor([4, 0, 2]))
    for name in ("mean", "max", "kmax"):
        pool = Pool(name, k=2) if name == "kmax" else Pool(name)
        wanted = pool(States.from_padded(batch.values, batch.lengths)).values
        assert torch.equal(pool.forward(batch).values, wanted)
        assert torch.equal((Pack(Vectors) >> Dropout(0.0) >> pool)(batch).values, wanted)


def test_final_states_need_an_encoder() -> None:
    """At `>>`, and in a call."""
    with pytest.raises(CompositionError, match="Embed returns .* but Pool takes States; join Encode between"):
        _ = Embed(9, 4) >> Pool("final")
    with pytest.raises(CompositionError, match="reads the final states, but the batch was not encoded"):
        Pool("final").forward(Padded(Vectors, torch.zeros(1, 2, 3), torch.tensor([2])))


def test_ids_are_not_pooled() -> None:
    """At `>>`, and in a call: they are no vectors."""
    with pytest.raises(CompositionError, match="but Pool takes States; join Embed >> Encode between"):
        join(Pad(), Pool("mean"))
    with pytest.raises(ShapeError, match="must be states or vectors, got Ids; embed ids first"):
        as_any(Pool("mean"))(Padded(Ids, torch.zeros(1, 2, dtype=torch.int64), torch.tensor([2])))


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
