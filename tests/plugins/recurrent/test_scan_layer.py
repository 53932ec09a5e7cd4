"""The kernels of scanned layers equal torch's operations, which equal a loop, in values and gradients."""

import platform
from collections.abc import Callable, Generator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradgradcheck
from typing_extensions import override

from pipeline.data.states import MaybeCausal
from pipeline.extend import PackingOrder
from pipeline.native import SETS
from pipeline_recurrent import LRU, MinGRU, MinLSTM
from pipeline_recurrent.native import instructions, scans, threads
from pipeline_recurrent.scan_layer import ScanLayer
from support.needs import KERNELS
from support.untyped import seed

pytestmark = KERNELS

LENGTHS = [70, 0, 3, 131, 1]

LAYERS: dict[str, Callable[[int], MinGRU[MaybeCausal] | MinLSTM[MaybeCausal] | LRU[MaybeCausal]]] = {
    "min_gru": lambda hidden: MinGRU(3, hidden),
    "min_gru, positive": lambda hidden: MinGRU(3, hidden, candidate="positive"),
    "min_lstm": lambda hidden: MinLSTM(3, hidden),
    "min_lstm, positive": lambda hidden: MinLSTM(3, hidden, candidate="positive"),
    "lru": lambda hidden: LRU(3, hidden),
}
EVERY_LAYER = pytest.mark.parametrize("name", LAYERS)


def make(name: str, hidden: int = 37, dtype: torch.dtype = torch.float64, lengths: list[int] = LENGTHS) -> "Case":
    """Return a layer with an input and initial states, the same at every call."""
    seed(3)
    layer = LAYERS[name](hidden).to(dtype).layers[0]
    assert isinstance(layer, ScanLayer)
    order = PackingOrder(torch.tensor(lengths))
    size = hidden * (2 if layer.is_complex else 1)
    x = 3 * torch.randn(order.steps, 3, dtype=torch.float64)
    start = torch.randn(order.nonempty_count, size, dtype=torch.float64)
    return Case(layer, order, x.to(dtype).requires_grad_(), start.to(dtype).requires_grad_())


class Case:
    """A layer, and what it reads."""

    def __init__(self, layer: ScanLayer, order: PackingOrder, x: Tensor, start: Tensor) -> None:
        self.layer, self.order, self.x, self.start = layer, order, x, start

    @property
    def leaves(self) -> list[Tensor]:
        """All that gets a gradient."""
        unread = ("out", "skip", "mixer")
        return [self.x, self.start, *(each for at, each in self.layer.named_parameters() if not at.startswith(unread))]

    def run(self, *, reverse: bool = False) -> Tensor:
        """Return the states."""
        return self.layer.run(self.x, self.order, self.start, reverse=reverse)

    def differentiate(self, states: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of a sum in which each state has a weight of its own."""
        weights = torch.linspace(-1, 1, states.numel(), dtype=states.dtype).view(states.shape)
        return torch.autograd.grad((states * weights).sum(), self.leaves)


@contextmanager
def without_kernels() -> Generator[None]:
    """Compute in torch's operations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIPELINE_NATIVE", "0")
        yield


@EVERY_LAYER
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("instruction_set", SETS.get(platform.machine().lower(), ()))
def test_each_instruction_set_equals_torch(
    name: str, reverse: bool, instruction_set: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 nearly to the last bit, and in float32 too, beside torch in float64."""
    names = list(SETS[platform.machine().lower()])
    if names.index(instruction_set) > names.index(instructions()):
        pytest.skip(f"this machine does not run {instruction_set}")
    kernels = scans.load_scan_kernels(instruction_set)
    monkeypatch.setattr(scans, "load_scan_kernels", lambda: kernels)
    wide = make(name)
    with without_kernels():
        wanted = wide.run(reverse=reverse)
        wanted_gradients = wide.differentiate(wanted)
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
        case = make(name, dtype=dtype)
        found = case.run(reverse=reverse)
        for one, other in zip((found, *case.differentiate(found)), (wanted, *wanted_gradients), strict=True):
            scale = float(other.detach().abs().max())
            torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("name", ["min_gru", "min_lstm", "min_lstm, positive"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gates_that_are_open_or_closed_equal_torch(name: str, dtype: torch.dtype) -> None:
    """Sigmoids that round to 0 or 1, of which one may be divided by the other."""
    layer = make(name, dtype=dtype).layer
    edges = torch.tensor([-1e4, -200.0, -90.0, -1.0, 0.0, 1e-3, 30.0, 90.0, 1e4], dtype=dtype)
    product = torch.cartesian_prod(*[edges] * 3)[:, : 2 if name == "min_gru" else 3].contiguous().requires_grad_()
    order = PackingOrder(torch.ones(len(product), dtype=torch.int64))
    start = torch.full((len(product), 1), 2.0, dtype=dtype)
    job = scans.ScanJob(layer.recurrence, order, reverse=False, positive=layer.is_positive)
    states = scans.scan_product(job, product.detach(), start, ())
    keep, add = layer.make_terms(product)
    wanted = keep * start + add
    torch.testing.assert_close(states, wanted)
    (by_product,) = torch.autograd.grad(wanted.sum(), product)
    found = scans.differentiate_product(job, product.detach(), start, (), states, torch.ones_like(states))
    torch.testing.assert_close(found[0], by_product)
    torch.testing.assert_close(found[1], keep.detach())


@EVERY_LAYER
@pytest.mark.parametrize("reverse", [False, True])
def test_a_row_has_the_same_bits_in_every_batch(name: str, reverse: bool) -> None:
    """As its product and its initial state have: alone, and beside longer and shorter rows."""
    case = make(name)
    product, constants = case.layer.project(case.x).detach(), [each.detach() for each in case.layer.make_constants()]
    job = scans.ScanJob(case.layer.recurrence, case.order, reverse, case.layer.is_positive)
    states = scans.scan_product(job, product, case.start.detach(), constants)
    for rank, row in enumerate(case.order.sorted_indices[: case.order.nonempty_count]):
        own = case.order.row_of_step == row
        alone = job._replace(order=PackingOrder(case.order.lengths[row : row + 1]))
        found = scans.scan_product(alone, product[own], case.start.detach()[rank : rank + 1], constants)
        assert torch.equal(found, states[own])


@EVERY_LAYER
def test_threads_change_no_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each computes some of the features."""
    case = make(name, hidden=101)
    monkeypatch.setattr(threads, "MIN_NUMBERS_FOR_THREADS", 0)
    results: list[tuple[Tensor, ...]] = []
    before = torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        try:
            assert threads.share_out_columns(1, 101) == count
            product, constants = case.layer.project(case.x).detach(), case.layer.make_constants()
            job = scans.ScanJob(case.layer.recurrence, case.order, reverse=True, positive=case.layer.is_positive)
            tensors = (product, case.start.detach(), [each.detach() for each in constants])
            states = scans.scan_product(job, *tensors)
            results.append((states, *scans.differentiate_product(job, *tensors, states, states.sin())))
        finally:
            torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@EVERY_LAYER
@pytest.mark.parametrize("reverse", [False, True])
def test_steps_are_computed_in_parts(name: str, reverse: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With products of several steps, of one step and of all, in training and inference."""
    results: list[tuple[Tensor, ...]] = []
    for cache in (0, 8_000, 1_000_000_000):
        monkeypatch.setattr(scans, "CACHE", cache)
        case = make(name)
        states = case.run(reverse=reverse)
        with torch.no_grad():
            torch.testing.assert_close(case.run(reverse=reverse), states.detach())
        results.append((states, *case.differentiate(states)))
    for found in results[:2]:
        torch.testing.assert_close(found, results[2], rtol=1e-10, atol=1e-10)


@EVERY_LAYER
@pytest.mark.parametrize("change", ["forward hook", "backward hook", "subclass"])
def test_a_projection_with_more_than_a_product_is_called(name: str, change: str) -> None:
    """A hook sees its output, and a module in its place computes it."""
    case = make(name)
    usual = case.run().detach()
    projection, seen = case.layer.projection, list[str]()

    def see(*_: object) -> None:
        seen.append("call")

    class Double(nn.Linear):
        @override
        def forward(self, input: Tensor) -> Tensor:
            see()
            return 2 * super().forward(input)

    if change == "forward hook":
        projection.register_forward_hook(see)
    elif change == "backward hook":
        projection.register_full_backward_hook(see)
    else:
        projection.__class__ = Double
    states = case.run()
    torch.autograd.grad(states.sum(), case.x)
    assert len(seen) == 1
    assert torch.allclose(states.detach(), usual) == (change != "subclass")


def test_autocast_rounds_the_product() -> None:
    """As it does without the kernels; the states are in float32."""
    case = make("min_gru", dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = case.run()
        with without_kernels():
            wanted = case.run()
    assert found.dtype is torch.float32
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, case.run(), rtol=1e-5, atol=1e-5)


@EVERY_LAYER
def test_gradients_of_gradients_are_right(name: str) -> None:
    """Of the input, the initial states and all weights."""
    case = make(name, hidden=2, lengths=[3, 1, 0, 2])

    def run(*_: Tensor) -> Tensor:
        return case.run()

    assert gradgradcheck(run, tuple(case.leaves))


def test_each_gradient_can_be_asked_for_alone() -> None:
    """Those of the others are not returned."""
    case = make("lru")
    wanted = case.differentiate(case.run())
    case.start = case.start.detach()
    for at, leaf in enumerate(case.leaves):
        if at != 1:
            weights = torch.linspace(-1, 1, case.run().numel(), dtype=torch.float64).view(case.run().shape)
            (found,) = torch.autograd.grad((case.run() * weights).sum(), leaf)
            assert torch.equal(found, wanted[at])


@EVERY_LAYER
def test_gradients_may_lie_in_a_wider_tensor(name: str) -> None:
    """In the columns of one direction, transposed, expanded, or negated without a copy."""
    case = make(name)
    states = case.run()
    for gradient in (
        torch.randn(len(states), 3 * states.shape[1], dtype=torch.float64)[:, states.shape[1] : 2 * states.shape[1]],
        torch.randn(states.shape[1], len(states), dtype=torch.float64).t(),
        torch.ones((), dtype=torch.float64).expand(states.shape),
        torch.randn(states.shape, dtype=torch.complex128).conj().imag,
    ):
        found = torch.autograd.grad(states, case.leaves, gradient, retain_graph=True)
        wanted = torch.autograd.grad(states, case.leaves, gradient.clone().contiguous(), retain_graph=True)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def test_nan_stays_in_its_row() -> None:
    """Other rows keep their bits, in both passes."""
    case = make("min_lstm, positive")
    product = case.layer.project(case.x).detach()
    job = scans.ScanJob("min_lstm", case.order, reverse=False, positive=True)
    own = case.order.row_of_step == 3
    odd = torch.where(own.unsqueeze(1), torch.nan, product)
    results: list[tuple[Tensor, Tensor]] = []
    for each in (product, odd):
        states = scans.scan_product(job, each, case.start.detach(), ())
        by_product = scans.differentiate_product(job, each, case.start.detach(), (), states, states.cos())[0]
        results.append((states, by_product))
    for usual, found in zip(*results, strict=True):
        assert bool(found[own].isnan().all())
        assert torch.equal(found[~own], usual[~own])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_states_in_half_precision_are_summed_in_float32(dtype: torch.dtype) -> None:
    """The kernels compute the same recurrence as torch's operations do."""
    case = make("min_gru", dtype=dtype)
    found = case.run()
    assert found.dtype is torch.float32
    with without_kernels():
        wanted = case.run()
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_the_environment_switches_the_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time."""
    monkeypatch.delenv("PIPELINE_NATIVE", raising=False)
    assert scans.computes(torch.zeros(1))
    assert not scans.computes(torch.zeros(1, dtype=torch.float16))
    assert not scans.computes(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert not scans.computes(torch.zeros(1))
