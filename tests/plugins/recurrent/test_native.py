"""The native engine against a loop over every row and against torch's packed kernels, both in float64."""

import ctypes
import gc
import os
import weakref
from collections.abc import Iterator, Sequence
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from pipeline.data.order import Order, ints
from pipeline.errors import ShapeError
from pipeline_recurrent import native
from pipeline_recurrent.native import recurrence
from pipeline_recurrent.native.compile import SETS
from pipeline_recurrent.native.library import Kernels, UnavailableError, kernels, opened
from pipeline_recurrent.native.plan import CELLS
from support.oracles import gru_step, lstm_step

RAGGED = [2, 0, 5, 3, 1, 5, 0, 4, 2]
LENGTHS = [RAGGED, [1], [3], [4, 4], [1, 1, 0, 1], list(range(1, 20))]


@pytest.fixture(autouse=True)
def compiled() -> None:
    """Skip, with the reason, where there is no library; the session that is made for it must have one."""
    if reason := native.available():
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(reason)


@pytest.fixture
def threads() -> Iterator[None]:
    """Leave torch's number of threads as it was."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Case(NamedTuple):
    """A layer and a batch for it."""

    cell: native.Cell
    order: Order
    x: Tensor
    weights: list[native.Weights]
    initial: list[Tensor]

    def leaves(self) -> list[Tensor]:
        """All that may get a gradient."""
        return [self.x, *self.initial, *(w for each in self.weights for w in each if w is not None)]

    def to(self, dtype: torch.dtype, *, learning: bool = True) -> "Case":
        """The same numbers in tensors of their own."""

        def copy(tensor: Tensor) -> Tensor:
            return tensor.detach().to(dtype, copy=True).requires_grad_(learning)

        weights: list[native.Weights] = [
            (copy(w_ih), copy(w_hh), None if b_ih is None else copy(b_ih), None if b_hh is None else copy(b_hh))
            for w_ih, w_hh, b_ih, b_hh in self.weights
        ]
        return self._replace(x=copy(self.x), weights=weights, initial=[copy(state) for state in self.initial])


def case(
    cell: native.Cell, lengths: Sequence[int], hidden: int = 5, *, both: bool = True, bias: bool = True, size: int = 3
) -> Case:
    """Numbers about as large as a trained layer's."""
    made = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made)

    order, gates, directions = Order(torch.tensor(lengths)), {"lstm": 4, "gru": 3}.get(cell, 1), 1 + both
    scale = hidden**-0.5
    weights: list[native.Weights] = [
        (
            draw(gates * hidden, size) * scale,
            draw(gates * hidden, hidden) * scale,
            draw(gates * hidden) * scale if bias else None,
            draw(gates * hidden) * scale if bias else None,
        )
        for _ in range(directions)
    ]
    initial = [draw(directions, order.occupied, hidden) for _ in range(2 if cell == "lstm" else 1)]
    return Case(cell, order, draw(order.steps, size), weights, initial)


def ours(given: Case, using: str | None = None) -> list[Tensor]:
    """Steps, then the carried states."""
    steps, carried = native.layer(given.cell, given.x, given.order, given.weights, given.initial, using=using)
    return [steps, *carried]


def packed(given: Case) -> list[Tensor]:
    """The same from torch's own kernel."""
    hidden, size = given.weights[0][1].shape[1], given.x.shape[1]
    bias, both = given.weights[0][2] is not None, len(given.weights) == 2
    module: nn.RNNBase
    match given.cell:
        case "lstm":
            module = nn.LSTM(size, hidden, bias=bias, bidirectional=both)
        case "gru":
            module = nn.GRU(size, hidden, bias=bias, bidirectional=both)
        case _:
            module = nn.RNN(size, hidden, nonlinearity=given.cell[4:], bias=bias, bidirectional=both)
    names = [name for name, _ in module.named_parameters()]
    flat = [w for each in given.weights for w in each if w is not None]
    first = given.initial[0] if len(given.initial) == 1 else tuple(given.initial)
    sequence = PackedSequence(given.x, given.order.batch_sizes)
    steps, ended = torch.func.functional_call(module, dict(zip(names, flat, strict=True)), (sequence, first))
    return [steps.data, *(ended if isinstance(ended, tuple) else [ended])]


def by_hand(given: Case) -> list[Tensor]:
    """The same from the definitions, a row and a step at a time."""
    order = given.order
    steps = [[given.x.new_empty(0)] * order.steps for _ in given.weights]
    ended: list[list[list[Tensor]]] = [[[] for _ in given.weights] for _ in given.initial]
    for direction, weights in enumerate(given.weights):
        w_ih, w_hh, b_ih, b_hh = (given.x.new_zeros(len(weights[1])) if w is None else w for w in weights)
        for rank, row in enumerate(order.rows[: order.occupied]):
            state = [kind[direction, rank] for kind in given.initial]
            places = ints((order.row == row).nonzero().flatten())
            for place in reversed(places) if direction else places:
                x = given.x[place]
                if given.cell == "lstm":
                    state = list(lstm_step(x, state[0], state[1], (w_ih, w_hh, b_ih, b_hh)))
                elif given.cell == "gru":
                    state = [gru_step(x, state[0], (w_ih, w_hh, b_ih, b_hh))]
                else:
                    bend = torch.tanh if given.cell == "rnn_tanh" else torch.relu
                    state = [bend(w_ih @ x + b_ih + w_hh @ state[0] + b_hh)]
                steps[direction][place] = state[0]
            for kind, end in zip(ended, state, strict=True):
                kind[direction].append(end)
    side_by_side = torch.cat([torch.stack(direction) for direction in steps], dim=1)
    return [side_by_side, *(torch.stack([torch.stack(rows) for rows in kind]) for kind in ended)]


def with_gradients(given: Case, answer: Sequence[Tensor]) -> list[Tensor]:
    """An answer, and the gradient of each leaf through all of it, each number with a weight of its own."""
    weighed = [part * torch.linspace(-1, 1, part.numel()).view_as(part).to(part) for part in answer]
    grads = torch.autograd.grad([part.sum() for part in weighed], given.leaves())
    return [*(part.detach() for part in answer), *grads]


def assert_same(found: Sequence[Tensor], expected: Sequence[Tensor], tolerance: float = 1e-5) -> None:
    """Equal relative to the largest number of each tensor; ours are of order 1, so what cancels is no matter."""
    for one, other in zip(found, expected, strict=True):
        assert one.dtype is torch.float32
        scale = max(1.0, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other, rtol=0.0, atol=tolerance * scale)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_it_gives_what_a_loop_over_rows_gives(cell: native.Cell, both: bool) -> None:
    """States, ends and every gradient; empty rows have no part in it."""
    given = case(cell, RAGGED, both=both)
    one, other = given.to(torch.float32), given.to(torch.float64)
    assert_same(with_gradients(one, ours(one)), with_gradients(other, by_hand(other)))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("hidden", [1, 7, 16, 33, 128])
@pytest.mark.parametrize("cell", CELLS)
def test_it_gives_what_torch_gives(cell: native.Cell, hidden: int, both: bool, bias: bool) -> None:
    """Hidden sizes below, of, and beyond whole vectors, over batches of all kinds."""
    for lengths in LENGTHS:
        given = case(cell, lengths, hidden, both=both, bias=bias)
        one, other = given.to(torch.float32), given.to(torch.float64)
        assert_same(with_gradients(one, ours(one)), with_gradients(other, packed(other)))


@pytest.mark.parametrize("name", [name for sets in SETS.values() for name in sets])
@pytest.mark.parametrize("cell", CELLS)
def test_every_instruction_set_gives_the_same(cell: native.Cell, name: str) -> None:
    """Those that this machine runs, also where they are not worth using."""
    order = [each for sets in SETS.values() for each in sets if kernels().name in sets]
    if name not in order or order.index(name) > order.index(kernels().name):
        pytest.skip(f"this machine does not run {name}")
    for lengths, hidden in product(LENGTHS, (7, 33)):
        given = case(cell, lengths, hidden)
        one, other = given.to(torch.float32), given.to(torch.float64)
        assert_same(with_gradients(one, ours(one, name)), with_gradients(other, packed(other)))


@pytest.mark.parametrize("cell", CELLS)
def test_no_initial_state_is_zeros(cell: native.Cell) -> None:
    """Where none is given."""
    given = case(cell, RAGGED)
    zeros = given._replace(initial=[torch.zeros_like(state) for state in given.initial])
    steps, carried = native.layer(cell, given.x, given.order, given.weights)
    assert all(torch.equal(*pair) for pair in zip((steps, *carried), ours(zeros), strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_of_empty_rows_has_no_steps(cell: native.Cell) -> None:
    """And gradients of zeros for the weights, none missing."""
    given = case(cell, [0, 0]).to(torch.float32)
    steps, *carried = ours(given)
    assert steps.shape == (0, 10)
    assert [tuple(state.shape) for state in carried] == [(2, 0, 5)] * len(carried)
    assert not any(grad.any() for grad in torch.autograd.grad(steps.sum(), given.leaves()))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("cell", CELLS)
def test_what_is_not_finite_survives_in_its_row(cell: native.Cell, odd: float) -> None:
    """It stays what it is where torch's does, and reaches no bit of another row."""
    given = case(cell, [4, 6, 5], both=False, size=1)
    shortest = given.order.row == 0
    x = given.x.masked_fill((shortest & (given.order.time == 1)).unsqueeze(1), odd)
    usual, one, other = (each.to(torch.float32) for each in (given, given._replace(x=x), given._replace(x=x)))
    found, expected = with_gradients(one, ours(one)), with_gradients(other, packed(other))
    for mine, theirs in zip(found, expected, strict=True):
        # Nothing times infinity is no number, next to nothing times infinity is infinity.
        assert torch.equal(mine.isfinite(), theirs.isfinite())
        torch.testing.assert_close(mine.nan_to_num(0, 0, 0), theirs.nan_to_num(0, 0, 0), rtol=1e-5, atol=1e-4)
    for mine, theirs in zip(ours(one), packed(other), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-4, equal_nan=True)
    before = with_gradients(usual, ours(usual))
    for place in (0, 1 + len(given.initial)):  # the steps, and the gradient of x
        assert torch.equal(found[place][~shortest], before[place][~shortest])


@pytest.mark.parametrize("cell", CELLS)
def test_saturated_gates_are_as_torch_has_them(cell: native.Cell) -> None:
    """Inputs at which an exponential would overflow, and some that are hardly there."""
    given = case(cell, RAGGED)
    for scale in (1e-6, 30.0, 1e4):
        scaled = given._replace(x=given.x * scale, initial=[state * scale for state in given.initial])
        for found, expected in zip(ours(scaled), packed(scaled), strict=True):
            torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-6 * max(scale, 1))


def test_small_numbers_are_as_exact_as_large_ones() -> None:
    """An activation that is exact to one part in ten million of 1 alone would be seen here."""
    given = case("rnn_tanh", RAGGED, bias=False)
    small = given._replace(x=given.x * 1e-5, initial=[state * 1e-5 for state in given.initial])
    exact = by_hand(small.to(torch.float64, learning=False))
    for found, expected in zip(ours(small), exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=2e-5, atol=1e-12)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_the_number_of_threads_changes_no_bit(cell: native.Cell, both: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are shared out differently, each is computed the same. Torch's own products stay on one thread."""
    given = case(cell, [*range(1, 30), 0, 29], 72, both=both)
    answers: list[list[Tensor]] = []
    for count in (1, 2, 3, 8):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=count: count)
        one = given.to(torch.float32)
        answers.append(with_gradients(one, ours(one)))
    for answer in answers[1:]:
        assert all(torch.equal(*pair) for pair in zip(answer, answers[0], strict=True))


def test_our_own_team_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch brings no OpenMP that could be called."""
    given = case("lstm", [*range(1, 30), 0, 29], 72)
    expected = ours(given)
    team = ctypes.cast(opened().pipeline_team, ctypes.c_void_p).value

    def teamed(_: str | None) -> Kernels:
        return kernels()._replace(team=team)

    monkeypatch.setattr(recurrence, "kernels", teamed)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert all(torch.equal(*pair) for pair in zip(ours(given), expected, strict=True))


class _Encoded(Dataset[Tensor]):
    """What a worker process gets from the kernels."""

    def __len__(self) -> int:
        return 4

    @override
    def __getitem__(self, index: int) -> Tensor:
        return ours(case("lstm", [20] * 20, 64))[0].detach()


@pytest.mark.usefixtures("threads")
def test_forked_workers_can_use_it() -> None:
    """After the parent's threads have been at work: a child has none of them."""
    torch.set_num_threads(2)
    expected = _Encoded()[0]
    loader = DataLoader(_Encoded(), batch_size=None, num_workers=2, multiprocessing_context="fork", timeout=60)
    found = list(loader)
    assert len(found) == 4
    assert all(torch.equal(each, expected) for each in found)


@pytest.mark.parametrize("cell", CELLS)
def test_without_gradients_nothing_is_kept(cell: native.Cell) -> None:
    """And the numbers are those of training."""
    given = case(cell, RAGGED).to(torch.float32)
    learning = ours(given)
    with torch.inference_mode():
        assert all(torch.equal(*pair) for pair in zip(ours(given), learning, strict=True))
    with torch.no_grad():
        assert not any(part.requires_grad for part in ours(given))
    assert all(part.requires_grad for part in learning)


@pytest.mark.parametrize("cell", CELLS)
def test_tensors_may_lie_anyhow_in_memory(cell: native.Cell) -> None:
    """Transposed, with gaps, or one number many times."""

    def gaps(tensor: Tensor) -> Tensor:
        return torch.stack([tensor, tensor + 1], dim=-1)[..., 0]

    given = case(cell, RAGGED, hidden=16)
    weights: list[native.Weights] = [
        (gaps(w_ih), w_hh.t().contiguous().t(), None if b_ih is None else gaps(b_ih), b_hh)
        for w_ih, w_hh, b_ih, b_hh in given.weights
    ]
    odd = given._replace(x=gaps(given.x), weights=weights, initial=[gaps(state) for state in given.initial])
    for leaf in (*odd.leaves(), *given.leaves()):
        leaf.requires_grad_()
    found, expected = ours(odd), ours(given)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))
    # The gradient of a sum is one number, expanded.
    grads = torch.autograd.grad([part.sum() for part in found], odd.leaves())
    usual = torch.autograd.grad([part.sum() for part in expected], given.leaves())
    assert all(torch.equal(*pair) for pair in zip(grads, usual, strict=True))


@pytest.mark.parametrize("cell", CELLS)
def test_any_part_may_learn_alone(cell: native.Cell) -> None:
    """Through the carried states alone, and each leaf by itself: the gradient is that of all together."""
    given = case(cell, RAGGED)
    whole = given.to(torch.float32)
    expected = torch.autograd.grad(ours(whole)[1].square().sum(), whole.leaves())
    for place, gradient in enumerate(expected):
        alone = given.to(torch.float32, learning=False)
        leaf = alone.leaves()[place].requires_grad_()
        (found,) = torch.autograd.grad(ours(alone)[1].square().sum(), leaf)
        assert torch.equal(found, gradient)


def test_a_graph_may_be_walked_twice() -> None:
    """The second walk finds what the first one found."""
    given = case("gru", RAGGED).to(torch.float32)
    steps = ours(given)[0].sum()
    one = torch.autograd.grad(steps, given.leaves(), retain_graph=True)
    other = torch.autograd.grad(steps, given.leaves())
    assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_a_gradient_of_a_gradient_raises() -> None:
    """Rather than doing nothing: a penalty on a gradient would go unheeded."""
    given = case("lstm", RAGGED).to(torch.float32)
    (grad,) = torch.autograd.grad(ours(given)[0].sum(), given.x, create_graph=True)
    for source in given.x, *given.weights[1][:2]:
        with pytest.raises(RuntimeError, match=r"no gradients of gradients.*choose another engine"):
            torch.autograd.grad(grad.square().sum(), source, retain_graph=True)


def test_autocast_changes_nothing() -> None:
    """The kernels know float32 alone."""
    given = case("gru", RAGGED).to(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = with_gradients(given, ours(given))
    again = given.to(torch.float32)
    assert all(torch.equal(*pair) for pair in zip(found, with_gradients(again, ours(again)), strict=True))


def test_what_is_not_used_any_more_is_freed_at_once() -> None:
    """With no cycle for the collector to find: an answer is as large as a batch."""
    given = case("lstm", RAGGED, hidden=16).to(torch.float32)
    gc.disable()
    try:
        answer = ours(given)
        gone = [weakref.ref(part.grad_fn) for part in answer] + [weakref.ref(part) for part in answer]
        del answer
        assert not any(ref() for ref in gone)
    finally:
        gc.enable()


def test_what_does_not_fit_is_refused() -> None:
    """Before an address of it is read."""
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
    for said, each in wrong:
        with pytest.raises(ShapeError, match=said):
            ours(each)


def test_an_instruction_set_that_is_not_there_is_named() -> None:
    """With the library that was asked."""
    given = case("lstm", RAGGED)
    with pytest.raises(UnavailableError, match=r"kernels\.\w+ holds nothing for mmx"):
        ours(given, "mmx")
