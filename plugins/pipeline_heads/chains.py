"""Linear chains over packed rows: log-sums of all paths with their gradients, probabilities of classes, best paths.

On a CPU in float32, compiled kernels compute them if they are there; elsewhere torch's operations do.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pipeline.errors import OptionError
from pipeline_heads import native_chains, torch_chains
from pipeline_heads.torch_chains import Chain, Counts

__all__ = ["Chain", "compute_marginals", "find_best_paths", "sum_paths"]


class _Context(Protocol):
    sizes: Sequence[int]
    saved_tensors: Sequence[Tensor]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _SumPaths(torch.autograd.Function):
    """The log-sum of each row's paths. Its gradients are expected counts, by the forward-backward algorithm."""

    @staticmethod
    def forward(
        ctx: _Context, emissions: Tensor, transitions: Tensor, start: Tensor, end: Tensor, sizes: Sequence[int]
    ) -> Tensor:
        """Return the log-sum of each row."""
        chain = _make_contiguous(Chain(emissions, transitions, start, end))
        compute = native_chains.compute_alphas if native_chains.computes(chain) else torch_chains.compute_alphas
        alphas, totals = compute(chain, sizes)
        ctx.save_for_backward(*chain, alphas, totals)
        ctx.sizes = sizes
        return totals

    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the expected counts of classes and of transitions, each row times the gradient of its sum."""
        if torch.is_grad_enabled():
            msg = "the gradients of a CRF's loss are not differentiable; leave create_graph=True out."
            raise OptionError(msg)
        *scores, alphas, totals = ctx.saved_tensors
        chain = Chain(*scores)
        count = native_chains.count_expected if native_chains.computes(chain) else torch_chains.count_expected
        return (*count(chain, alphas, totals, gradients[0].contiguous(), ctx.sizes), None)


_sum_paths: Final[Callable[[Tensor, Tensor, Tensor, Tensor, Sequence[int]], Tensor]] = getattr(_SumPaths, "apply")  # noqa: B009
"""`_SumPaths.apply` with a type."""


def sum_paths(chain: Chain, sizes: Sequence[int]) -> Float[Tensor, " nonempty"]:
    """Return the logarithm of the sum over all paths of each row, the longest row first.

    The gradients are not differentiable: an OptionError says so.

    Args:
        chain: the scores; all of one type of float.
        sizes: the number of rows at each time.
    """
    return _sum_paths(*chain, sizes)


def _make_contiguous(chain: Chain) -> Chain:
    return Chain(*(each.contiguous() for each in chain))


@torch.no_grad()
def compute_marginals(chain: Chain, sizes: Sequence[int]) -> Float[Tensor, "steps classes"]:
    """Return the probability of each class at each step, over all paths of its row."""
    chain = _make_contiguous(chain)
    engine = native_chains if native_chains.computes(chain) else torch_chains
    alphas, totals = engine.compute_alphas(chain, sizes)
    counts: Counts = engine.count_expected(chain, alphas, totals, torch.ones_like(totals), sizes)
    return counts.emissions


@torch.no_grad()
def find_best_paths(chain: Chain, sizes: Sequence[int]) -> Int64[Tensor, " steps"]:
    """Return the class of each step on the best path of its row."""
    chain = _make_contiguous(chain)
    engine = native_chains if native_chains.computes(chain) else torch_chains
    best: Tensor = engine.find_best_paths(chain, sizes)
    return best
