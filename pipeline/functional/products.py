"""Products whose results do not depend on the other rows of a batch, on the order of rows, or on threads.

Libraries of matrix products choose the order of a sum by the sizes of the matrices and by the number of threads. So a
row has other last bits alone than in a batch. Here factors are rounded such that every sum is exact in float64. Then
its order does not matter.
"""

from collections.abc import Callable, Mapping
from typing import Final, cast, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.checks.module_hooks import has_hooks
from pipeline.errors import OptionError

_BITS: Final = 25
"""The bits of a factor, relative to the Euclidean norm of the vector that it is part of.

Vectors of norm below 2^(p + 1) are rounded to multiples of 2^(p - 25). Counted in these units, their norms are at most
2^26. By the inequality of Cauchy and Schwarz no partial sum of an inner product exceeds 2^52, and float64 represents
all integers up to 2^53. The error relative to both norms is about 2^-26, less than that of float32.
"""

_SHIFT: Final = 1.5 * 2.0 ** (52 - _BITS)
_compute_norm: Final[Callable[..., Tensor]] = getattr(torch.linalg, "vector_norm")  # noqa: B009
"""Typed by hand: torch leaves its type open."""

_EXPONENT: Final = 0x7FF0_0000_0000_0000
"""The bits of the exponent in a float64."""


def round_factors(values: Float[Tensor, "*axes"], dim: int = -1) -> Float[Tensor, "*axes"]:
    """Return vectors in float64, rounded such that their inner products are exact; the vectors lie along `dim`."""
    wide = values.double()
    norm: Tensor = _compute_norm(wide, 2, dim, keepdim=True)
    power = norm.view(torch.int64).bitwise_and_(_EXPONENT).view(torch.float64)
    # Of a sum of this size, the unit of the last place is that of the rounded factors.
    shift = power.mul_(_SHIFT)
    return wide.add(shift).sub_(shift)


def multiply(
    left: Float[Tensor, "*batch row inner"], right: Float[Tensor, "*batch inner column"]
) -> Float[Tensor, "*batch row column"]:
    """Return the product of matrices, each number of which depends on its own row and column only.

    Source: Ozaki et al. 2012, "Error-free transformations of matrix multiplication by using fast routines of matrix
    multiplication and its applications", Numerical Algorithms 59; here with a single slice, in units by norm.

    Example:
        >>> left, right = torch.rand(5, 300), torch.rand(300, 4)
        >>> torch.equal(multiply(left, right)[2:3], multiply(left[2:3], right))
        True
    """
    return torch.matmul(round_factors(left), round_factors(right, -2)).to(left.dtype)


def mix(
    scores: Float[Tensor, "batch query key"],
    mask: Bool[Tensor, "#batch #query key"],
    values: Float[Tensor, "batch key hidden"],
) -> Float[Tensor, "batch query hidden"]:
    """Return the mean of the values, weighted by the softmax of scores where the mask is True; zeros without any.

    Each mean depends on its own scores and values only, and not on the number of masked keys. If the keys of a row are
    passed in parts, round their values together before, with `round_factors(values, -2)`. Once more it has no effect.
    """
    if not scores.shape[-1]:
        return scores.new_zeros(*scores.shape[:-1], values.shape[-1])
    lowest = torch.finfo(scores.dtype).min
    filled = scores.masked_fill(~mask, lowest)
    powers = round_factors((filled - filled.amax(-1, keepdim=True)).exp().masked_fill(~mask, 0))
    # The sum of powers is exact too, in the same units.
    means = torch.matmul(powers, round_factors(values, -2)) / powers.sum(-1, keepdim=True)
    return means.masked_fill(~mask.any(-1, keepdim=True), 0).to(scores.dtype)


@final
class ExactLinear(nn.Module):
    """A linear layer with the weights of another one, whose outputs depend on their own input only.

    It takes two to four times the time of the other layer.

    Args:
        linear: the layer, whose weights must not change any more.

    Example:
        >>> linear, inputs = nn.Linear(300, 4), torch.rand(5, 300)
        >>> exact = ExactLinear(linear)
        >>> torch.equal(exact(inputs)[2:3], exact(inputs[2:3]))
        True
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features: int = linear.in_features
        self.out_features: int = linear.out_features
        self.weight: Tensor = linear.weight
        self.bias: nn.Parameter | None = (bias := cast("nn.Parameter | None", linear.bias))
        with torch.no_grad():
            self._columns: Tensor = round_factors(linear.weight.detach()).t().contiguous()
            self._shift: Tensor | None = None if bias is None else bias.detach().double()
        self.eval()

    @override
    def forward(self, values: Float[Tensor, "*axes inner"]) -> Float[Tensor, "*axes column"]:
        found = torch.matmul(round_factors(values), self._columns)
        # Not within the product: it would add the bias at a place that it chooses.
        return (found if self._shift is None else found.add_(self._shift)).to(values.dtype)


def replace_linear(module: nn.Module) -> None:
    """Replace each linear layer in a module by an `ExactLinear`; one in several places stays one.

    Raises:
        OptionError: if a layer has hooks or parametrizations, or is of a class derived from torch's.
    """
    made: dict[nn.Module, ExactLinear] = {}
    for parent in list(module.modules()):
        # Not `named_children`, which leaves out the second name of a layer.
        children: Mapping[str, nn.Module | None] = vars(parent)["_modules"]
        for name, child in list(children.items()):
            if not isinstance(child, nn.Linear):
                continue
            if type(child) is not nn.Linear or has_hooks(child):
                msg = (
                    f"deterministic=True needs plain linear layers, but {name!r} of {type(parent).__name__} is a "
                    f"{type(child).__name__}, or has hooks (pruning, weight norm); remove parametrizations and hooks."
                )
                raise OptionError(msg, layer=name)
            if child not in made:
                made[child] = ExactLinear(child)
            setattr(parent, name, made[child])
