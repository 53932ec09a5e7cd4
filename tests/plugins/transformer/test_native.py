"""Compiled kernels of transformer layers equal torch's operations in float64, with the same random numbers."""

import os
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from pipeline import MaybeCausal
from pipeline.native import SETS, open_library
from pipeline.testing import make_batch
from pipeline_transformer import Transformer, fused, native_attention, native_layers
from pipeline_transformer.attention import attend_rows
from pipeline_transformer.layout import Group
from pipeline_transformer.native_layers import KernelActivation
from pipeline_transformer.spec import AttentionForm
from support.untyped import as_any, seed

Compute = Callable[..., tuple[Tensor, ...]]
GROUPS = [Group(0, 2, 101), Group(202, 3, 17), Group(253, 2, 1)]
"""Of three blocks of queries, of more than a vector, and of one step."""
FORMS = {
    "plain": AttentionForm(2, 2, 16, causal=False, window=None),
    "causal, grouped": AttentionForm(4, 2, 32, causal=True, window=None),
}


@pytest.fixture(autouse=True)
def kernels() -> None:
    """Skip, with the reason, where there are no kernels; fail in the nox session that compiles them."""
    if reason := native_layers.explain_unavailable():
        (pytest.fail if os.environ.get("PIPELINE_TESTS_NATIVE") == "1" else pytest.skip)(reason)


def use_set(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the kernels of an instruction set; skip if this machine does not run it."""
    order_of_sets = next(list(sets) for sets in SETS.values() if name in sets)
    best = str(open_library(native_layers.SOURCES, native_layers.COMMAND).pipeline_set(), "ascii")
    if best not in order_of_sets or order_of_sets.index(name) > order_of_sets.index(best):
        pytest.skip(f"this machine does not run {name}")
    layers, attention = native_layers.load_kernels(name), native_attention.load_kernels(name)
    monkeypatch.setattr(native_layers, "load_kernels", lambda: layers)
    monkeypatch.setattr(native_attention, "load_kernels", lambda: attention)


def run(compute: Compute, inputs: Sequence[Tensor], dtype: torch.dtype, *, twice: bool = False) -> list[Tensor]:
    """Return results and gradients; with `twice`, the gradients of the gradients too."""
    own = [each.to(dtype, copy=True).requires_grad_() for each in inputs]
    seed(5)
    results = compute(*own)
    total = torch.stack([(each * torch.linspace(-1, 2, each.numel()).view_as(each)).sum() for each in results]).sum()
    first = torch.autograd.grad(total, own, create_graph=twice)
    found = [*results, *first]
    if twice:
        found += torch.autograd.grad(torch.stack([each.square().sum() for each in first]).sum(), own)
    return [each.detach().double() for each in found]


def check(compute: Compute, inputs: Sequence[Tensor], *, twice: bool = False) -> None:
    """Compare float32, in which the kernels compute, with float64, in which torch does."""
    found, wanted = (run(compute, inputs, dtype, twice=twice) for dtype in (torch.float32, torch.float64))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5 * max(1.0, float(other.abs().max())))


def draw(*shapes: Sequence[int]) -> list[Tensor]:
    """Draw tensors."""
    seed(2)
    return [torch.randn(*shape) * 2 for shape in shapes]


def make_norm(weight: Tensor, shift: Tensor) -> nn.LayerNorm:
    """Return a norm with the weights as they are, with their gradients."""
    norm = nn.LayerNorm(len(weight))
    for name, given in (("weight", weight), ("bias", shift)):
        delattr(norm, name)
        setattr(norm, name, given)
    return norm


EVERY_SET = pytest.mark.parametrize("name", [name for sets in SETS.values() for name in sets])


@EVERY_SET
@pytest.mark.parametrize("dropout", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_activations_and_their_gradients(
    activation: KernelActivation, dropout: float, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two chunks of rows, with features that fill no vector."""
    use_set(name, monkeypatch)
    values, bias = draw((70, 37), (37,))
    assert native_layers.computes(values)
    assert not native_layers.computes(values.double())

    def compute(values: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        return (fused.activate(values, bias, activation, dropout),)

    check(compute, [values, bias])
    check(compute, [values])


@EVERY_SET
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_sums_and_norms_and_their_gradients(dropout: float, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both, and each one alone, with and without a bias."""
    use_set(name, monkeypatch)
    inputs = draw((70, 37), (70, 37), (37,), (37,), (37,))

    def compute(
        residual: Tensor, values: Tensor, weight: Tensor, shift: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        return fused.add_and_normalize(residual, values, make_norm(weight, shift), dropout, bias=bias)

    def normalize(*inputs: Tensor) -> tuple[Tensor, ...]:
        return compute(*inputs)[1:]

    def add(residual: Tensor, values: Tensor, bias: Tensor | None = None) -> tuple[Tensor, ...]:
        return (fused.add(residual, values, dropout, bias=bias),)

    for count in (4, 5):
        check(compute, inputs[:count])
        check(normalize, inputs[:count])
        check(add, inputs[: count - 2])


@EVERY_SET
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("form", FORMS)
def test_attention_and_its_gradients(form: str, dropout: float, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows of several lengths."""
    use_set(name, monkeypatch)
    (projected,) = draw((255, FORMS[form].features))
    assert native_attention.computes(projected, FORMS[form], 101)

    def compute(steps: Tensor) -> tuple[Tensor, ...]:
        return (attend_rows(steps, GROUPS, FORMS[form], dropout=dropout),)

    check(compute, [projected / 2])


@pytest.mark.parametrize("dropout", [0.0, 1e-6, 0.3])
def test_second_derivatives(dropout: float) -> None:
    """Torch's operations compute them, with the numbers that the kernels dropped."""
    steps, weight, shift = draw((6, 48), (48,), (48,))
    form = AttentionForm(1, 1, 16, causal=False, window=None)

    def compute(steps: Tensor, weight: Tensor, shift: Tensor) -> tuple[Tensor, ...]:
        active = fused.activate(steps, shift, "gelu", dropout)
        _, normalized = fused.add_and_normalize(steps, active, make_norm(weight, shift), dropout, bias=weight)
        return (attend_rows(normalized, [Group(0, 2, 3)], form, dropout=dropout),)

    check(compute, [steps, weight, shift], twice=True)


def test_gradients_in_a_batch() -> None:
    """As those one by one."""
    steps, norms = draw((4, 16), (16,))
    steps.requires_grad_()
    active = fused.activate(steps, norms, "gelu", 0.3)
    sums, _ = fused.add_and_normalize(steps, active, nn.LayerNorm(16), 0.3)
    weights = torch.randn(3, *sums.shape)
    (found,) = torch.autograd.grad(sums, steps, weights, is_grads_batched=True, retain_graph=True)
    wanted = [torch.autograd.grad(sums, steps, each, retain_graph=True)[0] for each in weights]
    torch.testing.assert_close(found, torch.stack(wanted))


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_encoders_with_dropout_equal_those_in_float64(
    norm: str, activation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """States and gradients of all weights, with and without kernels: the same random numbers are drawn."""
    seed(1)
    encoder: Transformer[MaybeCausal] = as_any(Transformer)(
        8, 32, num_heads=2, feedforward_size=24, dropout=0.2, norm=norm, activation=activation
    )
    rows = [torch.randn(length, 8) for length in (5, 0, 3, 5)]
    found: list[list[Tensor]] = []
    for dtype, switch in ((torch.float64, "1"), (torch.float32, "1"), (torch.float32, "0")):
        monkeypatch.setenv("PIPELINE_NATIVE", switch)
        encoder.to(dtype)
        seed(3)
        states = encoder(make_batch([row.to(dtype) for row in rows])).packed().values
        grads = torch.autograd.grad(states.square().sum(), list(encoder.parameters()))
        found.append([each.detach().double() for each in (states, *grads)])
    for other in found[1:]:
        for one, wanted in zip(other, found[0], strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-4 * max(1.0, float(wanted.abs().max())))


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums over all rows are added in one order."""
    monkeypatch.setattr(native_layers, "_MIN_NUMBERS_FOR_THREADS", 0)
    monkeypatch.setattr(native_attention, "_MIN_OPERATIONS_FOR_THREADS", 0)
    values, bias, projected = draw((300, 48), (48,), (255, FORMS["plain"].features))

    def compute(values: Tensor, bias: Tensor, projected: Tensor) -> tuple[Tensor, ...]:
        _, normalized = fused.add_and_normalize(values, values, make_norm(bias, bias), 0.1)
        return fused.activate(normalized, bias, "gelu", 0.1), attend_rows(projected, GROUPS, FORMS["plain"])

    before = torch.get_num_threads()
    try:
        found: list[list[Tensor]] = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(run(compute, [values, bias, projected], torch.float32))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_nan_stays_in_its_row() -> None:
    """Other rows keep their bits."""
    (values,) = draw((255, FORMS["plain"].features))
    odd = values.clone()
    odd[230, 3] = torch.nan
    norm = nn.LayerNorm(values.shape[1])
    for usual, other in (
        (fused.activate(values, None, "gelu", 0.0), fused.activate(odd, None, "gelu", 0.0)),
        (fused.add_and_normalize(values, values, norm, 0.0)[1], fused.add_and_normalize(values, odd, norm, 0.0)[1]),
        (attend_rows(values, GROUPS, FORMS["plain"]), attend_rows(odd, GROUPS, FORMS["plain"])),
    ):
        changed = (usual != other).any(1).nonzero().flatten()
        assert other[230].isnan().any()
        assert bool(((changed >= 219) & (changed < 236)).all())


def test_large_numbers_give_what_torch_gives() -> None:
    """In the tails of the GELU, and with scores that are far apart."""
    values = torch.tensor([[-1e30, -30.0, -13.0, -6.0, -0.0, 1e-40, 6.0, 30.0, 1e30]])

    def activate(values: Tensor) -> tuple[Tensor, ...]:
        return (fused.activate(values, None, "gelu", 0.0),)

    def attend(steps: Tensor) -> tuple[Tensor, ...]:
        return (attend_rows(steps * 3, GROUPS, FORMS["plain"]),)

    check(activate, [values])
    check(attend, draw((255, FORMS["plain"].features)))


def test_the_environment_switches_kernels_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """At any time."""
    values = torch.zeros(2, 16)
    assert native_layers.computes(values)
    monkeypatch.setenv("PIPELINE_NATIVE", "0")
    assert not native_layers.computes(values)
    assert "PIPELINE_NATIVE=0" in native_layers.describe()
