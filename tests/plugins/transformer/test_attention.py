"""Attention within rows equals a loop over rows, heads and queries, for values and for all gradients."""

import attrs
import pytest
import torch
from torch import Tensor

from pipeline_transformer import attention
from pipeline_transformer.attention import attend_padded, attend_rows, draw_mask
from pipeline_transformer.layout import Group
from pipeline_transformer.spec import AttentionForm
from support.attention_loop import attend_one
from support.untyped import seed, to_list

GROUPS = [Group(0, 2, 5), Group(10, 3, 2), Group(16, 1, 1)]
STEPS = 17
FORMS = {
    "plain": AttentionForm(4, 4, 3, causal=False, window=None),
    "causal": AttentionForm(2, 2, 3, causal=True, window=None),
    "grouped": AttentionForm(4, 2, 2, causal=True, window=None),
    "window": AttentionForm(2, 1, 3, causal=False, window=1),
    "causal window": AttentionForm(2, 2, 3, causal=True, window=2),
}


def attend_each(projected: Tensor, form: AttentionForm, bias: Tensor | None) -> Tensor:
    """Return the contexts of all rows of `GROUPS`."""
    parts: list[Tensor] = []
    for group in GROUPS:
        for row in range(group.rows):
            start = group.start + row * group.length
            parts.append(attend_one(projected[start : start + group.length], form, bias))
    return torch.cat(parts)


def draw(form: AttentionForm, *, biased: bool) -> tuple[Tensor, Tensor | None]:
    """Draw projected steps, and a bias."""
    generator = torch.Generator().manual_seed(3)
    projected = torch.randn(STEPS, form.features, dtype=torch.float64, generator=generator).requires_grad_()
    if not biased:
        return projected, None
    return projected, torch.randn(form.heads, 5, 5, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("learned", [None, False, True])
@pytest.mark.parametrize("name", FORMS)
def test_contexts_and_gradients_equal_the_loop(name: str, learned: bool | None) -> None:
    """By torch's kernels, and by products: for windows and for biases with gradients."""
    form = FORMS[name]
    projected, bias = draw(form, biased=learned is not None)
    inputs = [projected]
    if bias is not None and learned:
        inputs.append(bias.requires_grad_())
    found, wanted = attend_rows(projected, GROUPS, form, bias), attend_each(projected, form, bias)
    torch.testing.assert_close(found, wanted)
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, weights), torch.autograd.grad(wanted, inputs, weights)
    )


@pytest.mark.parametrize("name", FORMS)
def test_a_rectangle_gives_the_same(name: str) -> None:
    """The operation of graphs, with large numbers in the padding."""
    form = FORMS[name]
    projected, bias = draw(form, biased=True)
    found = attend_padded(
        torch.nn.functional.pad(projected[10:16].reshape(3, 2, -1), (0, 0, 0, 3), value=1e30),
        torch.tensor([[True, True, False, False, False]] * 3),
        form,
        bias,
    )
    torch.testing.assert_close(found[:, :2].flatten(0, 1), attend_each(projected, form, bias)[10:16])
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("form", [FORMS["causal"], FORMS["causal window"], FORMS["plain"]])
def test_long_rows_in_blocks_equal_one_product(form: AttentionForm) -> None:
    """A row of several blocks of queries, with and without saved weights."""
    generator = torch.Generator().manual_seed(1)
    projected = torch.randn(600, form.features, dtype=torch.float64, generator=generator).requires_grad_()
    bias = torch.randn(form.heads, 300, 300, dtype=torch.float64, generator=generator).requires_grad_()
    found = attend_rows(projected, [Group(0, 2, 300)], form, bias)
    wanted = attend_padded(projected.reshape(2, 300, -1), torch.ones(2, 300, dtype=torch.bool), form, bias).flatten(
        0, 1
    )
    torch.testing.assert_close(found, wanted)
    inputs = [projected, bias]
    weights = torch.linspace(-1, 1, found.numel(), dtype=torch.float64).view_as(found)
    torch.testing.assert_close(
        torch.autograd.grad(found, inputs, weights), torch.autograd.grad(wanted, inputs, weights)
    )


def test_weights_that_take_too_much_memory_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same gradients, and the same dropout."""
    form = FORMS["grouped"]
    projected, bias = draw(form, biased=True)
    found: list[tuple[Tensor, ...]] = []
    for limit in (0, 2**20):
        monkeypatch.setattr(attention, "_SAVED_BYTES", limit)
        seed(0)
        contexts = attend_rows(projected, GROUPS, form, bias, dropout=0.5)
        found.append((contexts, *torch.autograd.grad(contexts.sum(), [projected])))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


def test_dropout_keeps_the_mean_and_its_share() -> None:
    """Weights are dropped with the probability, and the others are divided by the rest."""
    mask = draw_mask((50, 40, 50), 0.3, torch.float64)
    assert abs(float((mask != 0).double().mean()) - 0.7) < 0.01
    form = AttentionForm(1, 1, 1, causal=False, window=None)
    steps = torch.zeros(20_000, 3)
    steps[:, 2] = 1
    contexts = attend_rows(steps, [Group(0, 10_000, 2)], form, dropout=0.25)
    assert sorted({round(number, 4) for number in to_list(contexts.flatten())}) == [0, 0.6667, 1.3333]
    assert abs(float(contexts.mean()) - 1) < 0.02


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("name", ["plain", "grouped", "causal window"])
def test_derivatives_equal_differences(name: str, dropout: float) -> None:
    """First and second ones, also with dropped weights."""
    form = attrs.evolve(FORMS[name], size=1)
    groups = [Group(0, 1, 2), Group(2, 1, 1)]
    projected = torch.randn(3, form.features, dtype=torch.float64).requires_grad_()
    bias = torch.randn(form.heads, 2, 2, dtype=torch.float64).requires_grad_()

    def compute(steps: Tensor, own: Tensor) -> Tensor:
        seed(1)
        return attend_rows(steps, groups, form, own, dropout=dropout)

    assert torch.autograd.gradcheck(compute, (projected, bias), fast_mode=True)
    assert torch.autograd.gradgradcheck(compute, (projected, bias), fast_mode=True)


def test_second_derivatives_without_bias_exist() -> None:
    """Torch's kernels have none, so the products give them."""
    form = attrs.evolve(FORMS["plain"], heads=2, kv_heads=2, size=2)
    projected = torch.randn(3, form.features, dtype=torch.float64).requires_grad_()

    def compute(steps: Tensor) -> Tensor:
        return attend_rows(steps, [Group(0, 1, 3)], form)

    assert torch.autograd.gradgradcheck(compute, (projected,), fast_mode=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMS)
def test_half_precision_is_close(name: str, dtype: torch.dtype) -> None:
    """The result has the dtype of the steps."""
    projected, bias = draw(FORMS[name], biased=True)
    found = attend_rows(projected.to(dtype), GROUPS, FORMS[name], bias)
    assert found.dtype is dtype
    torch.testing.assert_close(found.double(), attend_each(projected, FORMS[name], bias), rtol=0.1, atol=0.1)
