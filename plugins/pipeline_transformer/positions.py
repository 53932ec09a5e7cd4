"""Positions: vectors that are added to steps, rotations of queries and keys, and biases of scores."""

import math
from typing import Literal, TypeAlias, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

Positions: TypeAlias = Literal["sinusoidal", "learned", "rotary", "alibi", "relative"]
"""The kinds of positions."""

_BASE = 10_000.0
"""The ratio of the longest to the shortest period, as in Vaswani et al. 2017 and Su et al. 2021."""


def _compute_angles(times: Int64[Tensor, " time"], periods: int) -> Float[Tensor, "time period"]:
    """Return the angle of each time for each period, in float64: the sines of late times need its digits."""
    wave = torch.arange(periods, dtype=torch.float64, device=times.device)
    return times.unsqueeze(1) * _BASE ** (-wave / periods)


def make_sinusoids(times: Int64[Tensor, " time"], size: int) -> Float[Tensor, "time size"]:
    """Return vectors of sines (even features) and cosines (odd features) of each time, in float64 and on the CPU.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.5.

    Example:
        >>> make_sinusoids(torch.arange(2), 2).round(decimals=2).tolist()
        [[0.0, 1.0], [0.84, 0.54]]
    """
    angles = _compute_angles(times, -(-size // 2))
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :size]


def make_rotations(times: Int64[Tensor, " time"], size: int) -> Float[Tensor, "time size"]:
    """Return the cosines of each time's angles, then their sines, in float64 and on the CPU; for `rotate`."""
    angles = _compute_angles(times, size // 2)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def rotate(
    vectors: Float[Tensor, "*steps heads size"], rotations: Float[Tensor, "*steps size"]
) -> Float[Tensor, "*steps heads size"]:
    """Rotate each pair of features (i, i + size / 2) by an angle, so that products depend on distances only.

    Source: Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding", arXiv:2104.09864. They pair
    neighboring features; this pairing, that of GPT-NeoX and Llama, is a permutation of theirs.

    Example:
        >>> quarter = torch.tensor([0.0, 1.0])
        >>> rotate(torch.tensor([[1.0, 2.0]]), quarter).tolist()
        [[-2.0, 1.0]]
    """
    cos, sin = rotations.to(vectors.dtype).unsqueeze(-2).chunk(2, dim=-1)
    first, second = vectors.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def make_slopes(heads: int) -> Float[Tensor, " heads"]:
    """Return the slope of each head's bias, in float64: powers of 2 from 2^(-8 / heads) to 2^-8.

    For other numbers than powers of two, the slopes of the next smaller one come first, then every second slope of the
    next larger one, as in the authors' code.

    Source: Press et al. 2021, "Train Short, Test Long: Attention with Linear Biases Enables Input Length
    Extrapolation", arXiv:2108.12409.

    Example:
        >>> make_slopes(2).tolist(), len(make_slopes(3))
        ([0.0625, 0.00390625], 3)
    """
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    slopes += [2 ** (-8 * (head + 1) / (2 * power)) for head in range(0, 2 * (heads - power), 2)]
    return torch.tensor(slopes, dtype=torch.float64, device="cpu")


def make_linear_bias(distances: Int64[Tensor, " distance"], heads: int) -> Float[Tensor, "heads distance"]:
    """Return a bias of scores that falls with the distance, at a slope of its own per head (ALiBi), in float64.

    Keys after the query, which Press et al. do not have, are biased by their distance too.

    Source: see `make_slopes`.

    Example:
        >>> make_linear_bias(torch.tensor([-1, 0, 2]), 2).tolist()
        [[-0.0625, -0.0, -0.125], [-0.00390625, -0.0, -0.0078125]]
    """
    return -make_slopes(heads).unsqueeze(1) * distances.abs()


@final
class RelativeBias(nn.Module):
    """A learned bias of scores per head and range of distances.

    Small distances have a number each, larger ones share numbers in ranges that grow exponentially up to
    `max_distance`; beyond it all share one. If attention is not causal, half of the numbers are for later steps.

    Args:
        heads: the number of heads.
        causal: whether all keys are at or before their query.
        buckets: the number of ranges.
        max_distance: the distance from which on all share a number.

    Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
    arXiv:1910.10683, section 2.1; a simpler form of Shaw et al. 2018, arXiv:1803.02155. As there, all layers share it.

    Example:
        >>> RelativeBias(2, causal=True).find_buckets(torch.tensor([0, 3, 16, 40, 1000])).tolist()
        [0, 3, 16, 23, 31]
    """

    def __init__(self, heads: int, *, causal: bool, buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.causal = causal
        self.buckets = buckets
        self.max_distance = max_distance
        self.weight: nn.Parameter = nn.Parameter(torch.empty(heads, buckets))
        nn.init.normal_(self.weight, std=heads**-0.5)

    def find_buckets(self, distances: Int64[Tensor, " distance"]) -> Int64[Tensor, " distance"]:
        """Return the range of each distance, which is positive for a key before its query."""
        buckets = self.buckets if self.causal else self.buckets // 2
        exact = buckets // 2
        size = distances.abs()
        # Of distances below `exact` the logarithm is not used; `clamp` keeps it finite.
        growth = (size.clamp(min=exact) / exact).log() / math.log(self.max_distance / exact)
        large = (exact + growth * (buckets - exact)).long().clamp(max=buckets - 1)
        found = torch.where(size < exact, size, large)
        return found if self.causal else found + buckets * (distances < 0)

    @override
    def forward(self, distances: Int64[Tensor, " distance"]) -> Float[Tensor, "heads distance"]:
        return self.weight.index_select(1, self.find_buckets(distances))


def spread_bias(by_distance: Float[Tensor, "heads distance"], length: int) -> Float[Tensor, "heads query key"]:
    """Return the bias of each pair of steps of a row, from those of the distances 1 - length to length - 1."""
    times = torch.arange(length, device=by_distance.device)
    place = times.unsqueeze(1) - times + (length - 1)
    return by_distance.index_select(1, place.flatten()).reshape(by_distance.shape[0], length, length)
