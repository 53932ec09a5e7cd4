"""Sums, gradients, probabilities and best paths equal an enumeration of all paths, with both engines."""

import itertools
import os
from collections.abc import Sequence
from types import ModuleType

import pytest
import torch
from torch import Tensor

from pipeline.errors import OptionError
from pipeline.extend import PackingOrder
from pipeline.native import SETS, open_library
from pipeline_heads import chains, native_chains, torch_chains
from pipeline_heads.torch_chains import Chain
from support.untyped import seed, to_list

LENGTHS = (3, 0, 1, 5, 2, 3)


def make(
    classes: int = 3, lengths: Sequence[int] = LENGTHS, *, scale: float = 1.0, forbidden: float = 0.0
) -> tuple[Chain, PackingOrder]:
    """Draw the scores of a batch in float64; a share of the transitions is forbidden."""
    seed(0)
    order = PackingOrder(torch.tensor(lengths))
    shapes = ((order.steps, classes), (classes, classes), (classes,), (classes,))
    emissions, moves, start, end = (torch.randn(shape, dtype=torch.float64) * scale for shape in shapes)
    moves = moves.masked_fill(torch.rand(classes, classes) < forbidden, -torch.inf)
    return to(Chain(emissions, moves, start, end), torch.float64), order


def to(chain: Chain, dtype: torch.dtype) -> Chain:
    """Return leaves with the same numbers."""
    return Chain(*(each.detach().to(dtype, copy=True).requires_grad_() for each in chain))


def list_rows(chain: Chain, order: PackingOrder) -> list[Tensor]:
    """Return the emissions of each row that has steps, the longest first."""
    rows = [chain.emissions[order.row_of_step == row] for row in order.sorted_indices]
    return [row for row in rows if len(row)]


def score_paths(chain: Chain, row: Tensor) -> tuple[list[tuple[int, ...]], Tensor]:
    """Return all paths of a row, and their scores."""
    paths = list(itertools.product(range(row.shape[1]), repeat=len(row)))
    scores: list[Tensor] = []
    for path in paths:
        score = chain.start[path[0]] + chain.end[path[-1]]
        for step, one in enumerate(path):
            score = score + row[step, one]
        for one, other in itertools.pairwise(path):
            score = score + chain.transitions[one, other]
        scores.append(score)
    return paths, torch.stack(scores)


def sum_by_loop(chain: Chain, order: PackingOrder) -> Tensor:
    """Return the log-sum of each row step by step, row after row."""
    totals: list[Tensor] = []
    for row in list_rows(chain, order):
        alpha = chain.start + row[0]
        for step in row[1:]:
            alpha = (alpha.unsqueeze(1) + chain.transitions).logsumexp(0) + step
        totals.append((alpha + chain.end).logsumexp(0))
    return torch.stack(totals)


@pytest.fixture
def kernels() -> ModuleType:
    """Skip, with the reason, where there are no kernels; fail in the nox session that compiles them."""
    if reason := native_chains.explain_unavailable():
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(reason)
    return native_chains


@pytest.mark.parametrize("forbidden", [0.0, 0.3])
@pytest.mark.parametrize("classes", [1, 2, 3])
def test_sums_equal_an_enumeration_of_all_paths(classes: int, forbidden: float) -> None:
    """Empty rows have no sum."""
    chain, order = make(classes, forbidden=forbidden)
    expected = torch.stack([score_paths(chain, row)[1].logsumexp(0) for row in list_rows(chain, order)])
    torch.testing.assert_close(chains.sum_paths(chain, order.batch_size_list), expected)


@pytest.mark.parametrize("classes", [1, 2, 4])
def test_gradients_equal_those_of_a_loop_over_rows(classes: int) -> None:
    """Each row with another weight."""
    chain, order = make(classes)
    weights = torch.linspace(-1, 2, 5, dtype=torch.float64)
    found = torch.autograd.grad(chains.sum_paths(chain, order.batch_size_list) @ weights, chain)
    expected = torch.autograd.grad(sum_by_loop(chain, order) @ weights, chain)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_gradients_equal_differences() -> None:
    """By gradcheck."""
    chain, order = make(2, [2, 0, 3])

    def compute(*scores: Tensor) -> Tensor:
        return chains.sum_paths(Chain(*scores), order.batch_size_list)

    assert torch.autograd.gradcheck(compute, tuple(chain))


def test_forbidden_transitions_have_finite_gradients() -> None:
    """They are 0 at forbidden ones."""
    chain, order = make(4, forbidden=0.4)
    grads = torch.autograd.grad(chains.sum_paths(chain, order.batch_size_list).sum(), chain)
    assert all(bool(each.isfinite().all()) for each in grads)
    assert not grads[1][chain.transitions.isinf()].any()
    assert grads[1].any()


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_operations_of_torch_are_exact_for_long_rows(scale: float) -> None:
    """In float32, sums over 500 steps leave enough digits for the probabilities of each."""
    chain, order = make(5, [500, 3], scale=scale)
    low, sizes = to(chain, torch.float32), order.batch_size_list
    alphas, totals = torch_chains.compute_alphas(low, sizes)
    counts = torch_chains.count_expected(low, alphas, totals, torch.ones(2), sizes)
    exact = Chain(*(each.detach().double() for each in low))
    expected = torch_chains.count_expected(
        exact, *torch_chains.compute_alphas(exact, sizes), torch.ones(2, dtype=torch.float64), sizes
    )
    for one, other in zip(counts, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(counts.emissions.sum(1), torch.ones(503))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_without_an_allowed_path_have_zero_gradients(dtype: torch.dtype) -> None:
    """Other rows have theirs."""
    chain, order = make(2, [2, 1])
    chain = to(chain._replace(transitions=torch.full((2, 2), -torch.inf)), dtype)
    totals = chains.sum_paths(chain, order.batch_size_list)
    assert to_list(totals.isinf()) == [True, False]
    emissions, moves, *_ = torch.autograd.grad(totals, chain, torch.ones(2, dtype=dtype))
    assert not moves.any()
    assert to_list(emissions.any(1)) == [False, True, False]


def test_probabilities_equal_an_enumeration() -> None:
    """Of each class at each step."""
    chain, order = make(3, forbidden=0.2)
    found = chains.compute_marginals(chain, order.batch_size_list)
    rank = torch.argsort(order.sorted_indices)[order.row_of_step]
    for place, row in enumerate(list_rows(chain, order)):
        paths, scores = score_paths(chain, row)
        shares = scores.softmax(0)
        expected = torch.zeros_like(row)
        for path, share in zip(paths, shares, strict=True):
            for step, one in enumerate(path):
                expected[step, one] += share
        torch.testing.assert_close(found[rank == place], expected)


@pytest.mark.parametrize("classes", [1, 3])
def test_best_paths_equal_an_enumeration(classes: int) -> None:
    """Of each row."""
    chain, order = make(classes, forbidden=0.2)
    found = chains.find_best_paths(chain, order.batch_size_list)
    rank = torch.argsort(order.sorted_indices)[order.row_of_step]
    for place, row in enumerate(list_rows(chain, order)):
        paths, scores = score_paths(chain, row)
        assert tuple(to_list(found[rank == place])) == paths[int(scores.argmax())]


@pytest.mark.parametrize("lengths", [[0], [0, 0]])
def test_batches_without_steps_have_no_paths(lengths: list[int]) -> None:
    """And gradients of zeros."""
    chain, order = make(3, lengths)
    for dtype in (torch.float32, torch.float64):
        chain = to(chain, dtype)
        totals = chains.sum_paths(chain, order.batch_size_list)
        assert totals.shape == (0,)
        assert not any(bool(each.any()) for each in torch.autograd.grad(totals.sum(), chain))
        assert chains.find_best_paths(chain, order.batch_size_list).shape == (0,)


def test_meta_tensors_have_shapes() -> None:
    """As for sizes before training."""
    chain, order = make()
    chain = Chain(*(each.to("meta") for each in chain))
    assert chains.sum_paths(chain, order.batch_size_list).shape == (5,)
    assert chains.find_best_paths(chain, order.batch_size_list).shape == (order.steps,)


def test_second_derivatives_are_an_error() -> None:
    """Instead of silently wrong."""
    chain, order = make()
    with pytest.raises(OptionError, match="create_graph"):
        torch.autograd.grad(chains.sum_paths(chain, order.batch_size_list).sum(), chain, create_graph=True)


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0, 300.0])
@pytest.mark.parametrize("forbidden", [0.0, 0.3])
@pytest.mark.parametrize("classes", [1, 2, 17, 40])
def test_kernels_equal_torch_in_float64(kernels: ModuleType, classes: int, forbidden: float, scale: float) -> None:
    """Below, at and above whole vectors; with scores that are further apart than floats reach."""
    chain, order = make(classes, [5, 0, 3, 1, 9], scale=scale, forbidden=forbidden)
    low = to(chain, torch.float32)
    chain = to(low, torch.float64)
    assert kernels.computes(low)
    assert not kernels.computes(chain)
    sizes = order.batch_size_list
    found, expected = chains.sum_paths(low, sizes), chains.sum_paths(chain, sizes)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    weights = torch.linspace(-1, 2, 4, dtype=torch.float64).masked_fill(expected.isinf(), 0)
    grads = torch.autograd.grad(found, low, weights.float()), torch.autograd.grad(expected, chain, weights)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("name", [name for sets in SETS.values() for name in sets])
def test_every_instruction_set_gives_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that this machine can run, including those that are too slow to be used."""
    order_of_sets = next(list(sets) for sets in SETS.values() if name in sets)
    library = open_library(native_chains.SOURCES, native_chains.COMMAND)
    best = str(library.pipeline_set(), "ascii")
    if best not in order_of_sets or order_of_sets.index(name) > order_of_sets.index(best):
        pytest.skip(f"this machine does not run {name}")
    functions = native_chains.load_functions(name)
    monkeypatch.setattr(native_chains, "load_functions", lambda: functions)
    chain, order = make(19, scale=3.0, forbidden=0.2)
    low, sizes = to(chain, torch.float32), order.batch_size_list
    found, expected = chains.sum_paths(low, sizes), chains.sum_paths(chain, sizes)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=1e-6)
    grads = torch.autograd.grad(found.sum(), low), torch.autograd.grad(expected.sum(), chain)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-6)
    assert torch.equal(
        native_chains.find_best_paths(low, sizes),
        torch_chains.find_best_paths(Chain(*(each.detach() for each in low)), sizes),
    )


@pytest.mark.usefixtures("kernels")
def test_the_kernels_best_paths_equal_torchs() -> None:
    """The same sums in the same order."""
    chain, order = make(17, [30, 0, 7, 7, 1])
    low, sizes = Chain(*(each.detach() for each in to(chain, torch.float32))), order.batch_size_list
    assert torch.equal(native_chains.find_best_paths(low, sizes), torch_chains.find_best_paths(low, sizes))


@pytest.mark.usefixtures("kernels")
def test_nan_stays_in_its_row() -> None:
    """Other rows keep their bits."""
    chain, order = make(5)
    low, sizes = to(chain, torch.float32), order.batch_size_list
    emissions = low.emissions.detach().clone()
    emissions[0, 2] = torch.nan  # of the longest row
    usual, odd = (
        chains.sum_paths(low, sizes),
        chains.sum_paths(to(low._replace(emissions=emissions), torch.float32), sizes),
    )
    assert odd[0].isnan()
    assert torch.equal(odd[1:], usual[1:])


@pytest.mark.usefixtures("kernels")
def test_the_environment_switches_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time."""
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert not native_chains.computes(to(make()[0], torch.float32))
    assert "PIPELINE_NATIVE=0" in native_chains.describe()
