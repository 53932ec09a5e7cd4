"""Products that do not depend on other rows, the order of rows, or threads, and are as accurate as float32."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from pipeline.errors import OptionError
from pipeline.functional.products import ExactLinear, mix, multiply, replace_linear, round_factors

SIZES = ((1, 1), (5, 3), (64, 1), (100, 6), (300, 7), (531, 3), (1024, 50))
ROWS = (1, 2, 3, 5, 13, 64)


def do_nothing(_module: nn.Module, _inputs: tuple[object, ...]) -> None:
    """Be a hook."""


def draw(*shape: int) -> Tensor:
    """Return numbers of very different sizes."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator) * torch.randn(shape, generator=generator).exp()


@pytest.mark.parametrize("size", SIZES)
def test_a_row_has_the_same_bits_alone_and_in_any_batch(size: tuple[int, int]) -> None:
    """In any order, with 1 to 4 threads; and it is close to the product in float64."""
    inner, columns = size
    linear, inputs = nn.Linear(inner, columns), draw(100, inner)
    exact = ExactLinear(linear)
    expected, weights = exact(inputs), draw(inner, columns)
    threads = torch.get_num_threads()
    try:
        for number, rows in enumerate(ROWS):
            torch.set_num_threads(number % 4 + 1)
            chosen = torch.randperm(100)[:rows]
            assert torch.equal(exact(inputs[chosen]), expected[chosen])
            assert torch.equal(multiply(inputs[chosen], weights), multiply(inputs, weights)[chosen])
    finally:
        torch.set_num_threads(threads)
    wide = nn.functional.linear(inputs.double(), linear.weight.double(), linear.bias.double())
    norms = (inputs.double() ** 2).sum(1, keepdim=True).sqrt() * (linear.weight.double() ** 2).sum(1).sqrt() + 1
    assert bool(((expected - wide).abs() < 2**-23 * norms).all())


def test_inner_products_are_exact() -> None:
    """Sums in the order of the features and backwards are equal, as integers are."""
    left, right = round_factors(draw(40, 700)), round_factors(draw(40, 700))
    forwards, backwards = ((left * right).cumsum(1)[:, -1], (left * right).flip(1).cumsum(1)[:, -1])
    assert torch.equal(forwards, backwards)
    assert torch.equal(round_factors(left), left)
    assert torch.equal(round_factors(left[:, :9]), left[:, :9])


def test_vectors_of_zeros_and_of_infinite_numbers() -> None:
    """Zeros stay zeros; infinite numbers give NaN in their own row only."""
    inputs = torch.tensor([[0.0, 0.0], [torch.inf, 1.0], [1.0, 2.0]])
    found = multiply(inputs, torch.eye(2))
    assert torch.equal(found[0], torch.zeros(2))
    assert bool(found[1].isnan().all())
    assert torch.equal(found[2], torch.tensor([1.0, 2.0]))


def test_means_do_not_depend_on_masked_keys() -> None:
    """They are those of the softmax; without keys they are zeros."""
    scores, values = draw(3, 4, 6), draw(3, 6, 5)
    mask = torch.arange(6) < torch.tensor([6, 4, 0]).reshape(3, 1, 1)
    found = mix(scores, mask, values)
    weights = scores.double().masked_fill(~mask, -torch.inf).softmax(-1).nan_to_num(0)
    torch.testing.assert_close(found, (weights @ values.double()).float())
    filled = values.masked_fill(~mask.mT, 0)
    assert torch.equal(mix(scores[1:2, :, :4], mask[1:2, :, :4], filled[1:2, :4]), mix(scores, mask, filled)[1:2])


def test_layers_with_hooks_are_rejected() -> None:
    """A layer that something computes at each pass cannot be replaced; a shared layer stays shared."""
    shared = nn.Linear(2, 2)
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared, nn.Tanh(), shared))
    replace_linear(model)
    assert model.get_submodule("0.0") is model.get_submodule("1.2")
    assert model.get_submodule("0.0") is model.get_submodule("1.0")
    assert isinstance(model.get_submodule("0.0"), ExactLinear)
    for wrong in (parametrizations.weight_norm(nn.Linear(2, 2)), nn.Linear(2, 2)):
        wrong.register_forward_pre_hook(do_nothing)
        with pytest.raises(OptionError, match="deterministic=True needs plain linear layers, but '0' of Sequential is"):
            replace_linear(nn.Sequential(wrong))
