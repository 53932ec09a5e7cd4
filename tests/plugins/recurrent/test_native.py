"""The native engine equals a loop over every row, and torch's packed kernels, both in float64."""

import ctypes
import gc
import os
import weakref
from collections.abc import Iterator, Sequence
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from pipeline.errors import ShapeError
from pipeline.native import SETS, UnavailableError
from pipeline_recurrent.engines import Cell, LayerInputs, Weights, native
from pipeline_recurrent.engines.native import Native
from pipeline_recurrent.engines.native_layout import CELLS
from pipeline_recurrent.native.library import Kernels, available, load_kernels, open_library
from support.layers import RAGGED, Case, case, run_loop, run_packed, with_gradients

LENGTHS = [RAGGED, [1], [3], [4, 4], [1, 1, 0, 1], list(range(1, 20))]


@pytest.fixture(autouse=True)
def compiled() -> None:
    """Skip, with the reason, where there is no library; fail in the nox session that compiles it."""
    if reason := available():
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(reason)


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore torch's number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def run_ours(given: Case, instruction_set: str | None = None) -> list[Tensor]:
    """Return the output and the final states of the native engine."""
    output, ended = Native(instruction_set).run_layer(given.inputs)
    return [output, *ended]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Compare relative to the largest number of each tensor: sums that cancel lose digits in any order of adding."""
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is torch.float32
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=0.0, atol=tolerance * scale)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_it_equals_a_loop_over_rows(cell: Cell, both: bool) -> None:
    """Hidden vectors, final states and every gradient; with empty rows in the batch."""
    given = case(cell, RAGGED, both=both)
    one, other = given.to(torch.float32), given.to(torch.float64)
    assert_same(with_gradients(one, run_ours(one)), with_gradients(other, run_loop(other)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("hidden", [1, 7, 16, 33, 128])
@pytest.mark.parametrize("cell", CELLS)
def test_it_equals_torch(cell: Cell, hidden: int, both: bool, bias: bool) -> None:
    """Hidden sizes below, equal to, and above whole vectors, over all kinds of batches."""
    for lengths in LENGTHS:
        given = case(cell, lengths, hidden, both=both, bias=bias)
        one, other = given.to(torch.float32), given.to(torch.float64)
        assert_same(with_gradients(one, run_ours(one)), with_gradients(other, run_packed(other)))


@pytest.mark.parametrize("name", [name for sets in SETS.values() for name in sets])
@pytest.mark.parametrize("cell", CELLS)
def test_every_instruction_set_gives_the_same(cell: Cell, name: str) -> None:
    """All that this machine can run, including those that are too slow to be used."""
    order = [each for sets in SETS.values() for each in sets if load_kernels().name in sets]
    if name not in order or order.index(name) > order.index(load_kernels().name):
        pytest.skip(f"this machine does not run {name}")
    for lengths, hidden in product(LENGTHS, (7, 33)):
        given = case(cell, lengths, hidden)
        one, other = given.to(torch.float32), given.to(torch.float64)
        assert_same(with_gradients(one, run_ours(one, name)), with_gradients(other, run_packed(other)))


@pytest.mark.parametrize("cell", CELLS)
def test_the_default_initial_state_is_zero(cell: Cell) -> None:
    """Without an initial state, results equal those with zeros."""
    given = case(cell, RAGGED)
    zeros = given._replace(initial=[torch.zeros_like(state) for state in given.initial])
    steps, ended = Native().run_layer(LayerInputs(cell, given.order, given.x, given.weights))
    assert all(torch.equal(*pair) for pair in zip((steps, *ended), run_ours(zeros), strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_of_empty_rows_has_no_steps(cell: Cell) -> None:
    """And the weights get gradients of zeros."""
    given = case(cell, [0, 0]).to(torch.float32)
    steps, *ended = run_ours(given)
    assert steps.shape == (0, 10)
    assert [tuple(state.shape) for state in ended] == [(2, 0, 5)] * len(ended)
    assert not any(grad.any() for grad in torch.autograd.grad(steps.sum(), given.leaves()))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("cell", CELLS)
def test_nan_and_infinity_stay_in_their_row(cell: Cell, odd: float) -> None:
    """They appear where torch has them, and change no bit of another row."""
    given = case(cell, [4, 6, 5], both=False, size=1)
    shortest = given.order.row_of_step == 0
    x = given.x.masked_fill((shortest & (given.order.time_of_step == 1)).unsqueeze(1), odd)
    usual, one, other = (each.to(torch.float32) for each in (given, given._replace(x=x), given._replace(x=x)))
    found, expected = with_gradients(one, run_ours(one)), with_gradients(other, run_packed(other))
    for mine, theirs in zip(found, expected, strict=True):
        # Zero times infinity is NaN, but a tiny number times infinity is infinity: which one depends on rounding.
        assert torch.equal(mine.isfinite(), theirs.isfinite())
        torch.testing.assert_close(mine.nan_to_num(0, 0, 0), theirs.nan_to_num(0, 0, 0), rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(run_ours(one), run_packed(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4, equal_nan=True)
    before = with_gradients(usual, run_ours(usual))
    for place in (0, 1 + len(given.initial)):  # the steps, and the gradient of x
        assert torch.equal(found[place][~shortest], before[place][~shortest])


@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates_equal_torch(cell: Cell) -> None:
    """Inputs at which an exponential would overflow, and very small ones."""
    given = case(cell, RAGGED)
    for scale in (1e-6, 30.0, 1e4):
        scaled = given._replace(x=given.x * scale, initial=[state * scale for state in given.initial])
        for found, expected in zip(run_ours(scaled), run_packed(scaled), strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6 * max(scale, 1))


def test_small_numbers_are_as_accurate_as_large_ones() -> None:
    """An activation with a small error relative to 1, but not to its value, would fail here."""
    given = case("rnn_tanh", RAGGED, bias=False)
    small = given._replace(x=given.x * 1e-5, initial=[state * 1e-5 for state in given.initial])
    exact = run_loop(small.to(torch.float64, learning=False))
    for found, expected in zip(run_ours(small), exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_number_of_threads_changes_no_bit(cell: Cell, both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are shared out differently, but each is computed the same. Torch's own products stay on one thread."""
    given = case(cell, [*range(1, 30), 0, 29], 72, both=both)
    every: list[list[Tensor]] = []
    for count in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        one = given.to(torch.float32)
        every.append(with_gradients(one, run_ours(one)))
    for other in every[1:]:
        assert all(torch.equal(*pair) for pair in zip(other, every[0], strict=True))


def test_our_own_threads_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are used where torch contains no OpenMP that could be called."""
    given = case("lstm", [*range(1, 30), 0, 29], 72)
    expected = run_ours(given)
    team = ctypes.cast(open_library().pipeline_team, ctypes.c_void_p).value

    def load_with_team(_: str | None) -> Kernels:
        return load_kernels()._replace(team=team)

    monkeypatch.setattr(native, "load_kernels", load_with_team)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert all(torch.equal(*pair) for pair in zip(run_ours(given), expected, strict=True))


class _Encoded(Dataset[Tensor]):
    """Results of the kernels, computed in a worker process."""

    def __len__(self) -> int:
        return 4

    @override
    def __getitem__(self, index: int) -> Tensor:
        return run_ours(case("lstm", [20] * 20, 64))[0].detach()


@pytest.mark.usefixtures("threads")
def test_forked_workers_can_use_it() -> None:
    """After the parent has used threads, of which a child has none."""
    torch.set_num_threads(2)
    expected = _Encoded()[0]
    loader = DataLoader(_Encoded(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    found = list(loader)
    assert len(found) == 4
    assert all(torch.equal(each, expected) for each in found)


@pytest.mark.parametrize("cell", CELLS)
def test_inference_gives_the_bits_of_training(cell: Cell) -> None:
    """And its results need no gradients."""
    given = case(cell, RAGGED).to(torch.float32)
    trained = run_ours(given)
    with torch.inference_mode():
        assert all(torch.equal(*pair) for pair in zip(run_ours(given), trained, strict=True))
    with torch.no_grad():
        assert not any(part.requires_grad for part in run_ours(given))
    assert all(part.requires_grad for part in trained)


@pytest.mark.parametrize("cell", CELLS)
def test_strided_tensors_give_the_same(cell: Cell) -> None:
    """Transposed, with gaps, or expanded."""

    def add_gaps(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]

    given = case(cell, RAGGED, hidden=16)
    weights: list[Weights] = [
        (add_gaps(w_ih), w_hh.t().contiguous().t(), None if b_ih is None else add_gaps(b_ih), b_hh)
        for w_ih, w_hh, b_ih, b_hh in given.weights
    ]
    odd = given._replace(x=add_gaps(given.x), weights=weights, initial=[add_gaps(state) for state in given.initial])
    for leaf in (*odd.leaves(), *given.leaves()):
        leaf.requires_grad_()
    found, expected = run_ours(odd), run_ours(given)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    # The gradient of a sum is one number, expanded.
    grads = torch.autograd.grad([part.sum() for part in found], odd.leaves())
    usual = torch.autograd.grad([part.sum() for part in expected], given.leaves())
    assert all(torch.equal(*pair) for pair in zip(grads, usual, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_each_tensor_may_require_gradients_alone(cell: Cell) -> None:
    """Also if only final states are used: the gradient is the same as with all others."""
    given = case(cell, RAGGED)
    whole = given.to(torch.float32)
    expected = torch.autograd.grad(run_ours(whole)[1].square().sum(), whole.leaves())
    for place, gradient in enumerate(expected):
        alone = given.to(torch.float32, learning=False)
        leaf = alone.leaves()[place].requires_grad_()
        (found,) = torch.autograd.grad(run_ours(alone)[1].square().sum(), leaf)
        assert torch.equal(found, gradient)


def test_a_retained_graph_gives_the_same_gradients_twice() -> None:
    """Saved buffers are overwritten only in the last backward pass."""
    given = case("gru", RAGGED).to(torch.float32)
    steps = run_ours(given)[0].sum()
    one = torch.autograd.grad(steps, given.leaves(), retain_graph=True)
    other = torch.autograd.grad(steps, given.leaves())
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_gradients_of_gradients_equal_torch(cell: Cell) -> None:
    """A penalty on a gradient reaches the input, the initial states and every weight."""
    given = case(cell, RAGGED)
    both: list[list[Tensor]] = []
    for one, run in ((given.to(torch.float32), run_ours), (given.to(torch.float64), run_packed)):
        first = torch.autograd.grad([part.square().sum() for part in run(one)], one.leaves(), create_graph=True)
        both.append(list(torch.autograd.grad([part.square().sum() for part in first], one.leaves())))
    assert_same(both[0], both[1], tolerance=1e-4)


def test_autocast_changes_nothing() -> None:
    """The kernels compute in float32 only."""
    given = case("gru", RAGGED).to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(given, run_ours(given))
    again = given.to(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(found, with_gradients(again, run_ours(again)), strict=True))


def test_results_are_freed_at_once() -> None:
    """There is no cycle that only the garbage collector would find: results are as large as a batch."""
    given = case("lstm", RAGGED, hidden=16).to(torch.float32)
    gc.disable()
    try:
        results = run_ours(given)
        gone = [weakref.ref(part.grad_fn) for part in results] + [weakref.ref(part) for part in results]
        del results
        assert not any(ref() for ref in gone)
    finally:
        gc.enable()


def test_tensors_that_do_not_fit_are_rejected() -> None:
    """Before the kernels read their memory."""
    given = case("lstm", RAGGED)
    w_ih, w_hh, b_ih, b_hh = given.weights[1]
    wrong = [
        ("x must be", given._replace(x=given.x.double())),
        ("x must be", given._replace(x=given.x[1:])),
        ("initial must be", given._replace(initial=[state[:, 1:] for state in given.initial])),
        ("initial must be 2 tensor", given._replace(initial=given.initial[:1])),
        ("weight_ih must be", given._replace(weights=[given.weights[0], (w_ih[:, 1:], w_hh, b_ih, b_hh)])),
        ("weight_hh must be", given._replace(weights=[given.weights[0], (w_ih, w_hh[1:], b_ih, b_hh)])),
        ("bias must be", given._replace(weights=[given.weights[0], (w_ih, w_hh, w_hh[0], b_hh)])),
    ]
    for message, each in wrong:
        with pytest.raises(ShapeError, match=message):
            run_ours(each)


def test_a_missing_instruction_set_is_named() -> None:
    """With the path of the library."""
    given = case("lstm", RAGGED)
    with pytest.raises(UnavailableError, match=r"kernels\.\w+ has no kernels for mmx"):
        run_ours(given, "mmx")
