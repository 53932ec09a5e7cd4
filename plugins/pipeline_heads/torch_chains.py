"""Sums and maxima over all paths of linear chains, by torch's operations: one loop over time for all rows.

Steps are packed: at time t the rows 0 .. sizes[t]-1 have a step. Everything is in logarithms, so that no score is too
large or too small, and a forbidden transition is -inf. Sums are relative to the largest one of their row and step: sums
that grew over a long row would leave no digits for the differences between classes, which are the probabilities.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor


class Chain(NamedTuple):
    """The scores of a chain.

    Attributes:
        emissions: the score of each class at each packed step.
        transitions: the score of each class (column) after each class (row); -inf if it is forbidden.
        start: the score of each class at a row's first step.
        end: the score of each class at a row's last step.
    """

    emissions: Float[Tensor, "steps classes"]
    transitions: Float[Tensor, "classes classes"]
    start: Float[Tensor, " classes"]
    end: Float[Tensor, " classes"]


def _slices(sizes: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """Yield the number of rows at each time, and the place of their steps."""
    begin = 0
    for size in sizes:
        yield size, slice(begin, begin + size)
        begin += size


def _find_last_steps(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Return the packed index of the last step of each row, the longest row first."""
    # Rows that end at time t are those from sizes[t + 1] on.
    places = [place for _, place in _slices(sizes)]
    ends = [range(place.start + after, place.stop) for place, after in zip(places, [*sizes, 0][1:], strict=True)]
    return torch.tensor([index for part in reversed(ends) for index in part], dtype=torch.int64, device=device)


def compute_alphas(chain: Chain, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return the log-sums of all paths up to each step, relative to the largest one, and that of each row's paths."""
    emissions, transitions, start, end = chain
    parts: list[Tensor] = []
    alpha = start.unsqueeze(0)
    wide = emissions.dtype if emissions.device.type == "mps" else torch.float64
    offsets = emissions.new_zeros(sizes[0] if sizes else 0, dtype=wide)
    for time, (size, place) in enumerate(_slices(sizes)):
        if time:
            alpha = (alpha[:size].unsqueeze(2) + transitions).logsumexp(1)
        alpha, top = _subtract_largest(alpha + emissions[place])
        offsets = torch.cat([offsets[:size] + top, offsets[size:]])
        parts.append(alpha)
    alphas = torch.cat(parts) if parts else emissions
    last = alphas.index_select(0, _find_last_steps(sizes, emissions.device))
    return alphas, (offsets + (last + end).logsumexp(1)).to(emissions)


def _subtract_largest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return scores relative to the largest one of their row, and this one; 0 if it is infinite."""
    top = scores.amax(1)
    top = top.masked_fill(top.isinf(), 0)
    return scores - top.unsqueeze(1), top


class Counts(NamedTuple):
    """The gradients of the log-sums of rows, which are expected counts of classes and of transitions."""

    emissions: Tensor
    transitions: Tensor
    start: Tensor
    end: Tensor


def count_expected(chain: Chain, alphas: Tensor, totals: Tensor, weights: Tensor, sizes: Sequence[int]) -> Counts:
    """Return the expected counts, each row times its weight.

    Args:
        chain: the scores.
        alphas: as `compute_alphas` returned them.
        totals: the log-sum of each row.
        weights: the weight of each row.
        sizes: the number of rows at each time.
    """
    emissions, transitions, _, end = chain
    classes = transitions.shape[0]
    found = torch.empty_like(emissions)
    moves = torch.zeros_like(transitions)
    # A row without any allowed path has no gradient.
    is_impossible = totals.isinf().unsqueeze(1)
    beta = end.unsqueeze(0)[:0]
    following: Tensor | None = None
    for size, place in reversed([*_slices(sizes)]):
        alpha = alphas[place]
        if following is not None:
            later = len(following)
            paths = transitions + following.unsqueeze(1)
            beta = paths.logsumexp(2)
            shares = (alpha[:later].unsqueeze(2) + paths).flatten(1).softmax(1).masked_fill(is_impossible[:later], 0)
            moves += (weights[:later] @ shares).reshape(classes, classes)
        beta = torch.cat([beta, end.expand(size - len(beta), -1)])
        shares = (alpha + beta).softmax(1).masked_fill(is_impossible[:size], 0)
        found[place] = weights[:size].unsqueeze(1) * shares
        following, _ = _subtract_largest(beta + emissions[place])
    first = found[: sizes[0] if sizes else 0].sum(0)
    last = found.index_select(0, _find_last_steps(sizes, emissions.device)).sum(0)
    return Counts(found, moves, first, last)


def compute_marginals(chain: Chain, sizes: Sequence[int]) -> Float[Tensor, "steps classes"]:
    """Return the probability of each class at each step, over all paths of its row."""
    alphas, totals = compute_alphas(chain, sizes)
    return count_expected(chain, alphas, totals, torch.ones_like(totals), sizes).emissions


def find_best_paths(chain: Chain, sizes: Sequence[int]) -> Int64[Tensor, " steps"]:
    """Return the class of each step on the best path of its row.

    Source: Viterbi 1967, "Error bounds for convolutional codes and an asymptotically optimum decoding algorithm",
    doi:10.1109/TIT.1967.1054010.
    """
    emissions, transitions, start, end = chain
    best = emissions.new_zeros(len(emissions), dtype=torch.int64)
    if not sizes:
        return best
    scores, origins = start + emissions[: sizes[0]], [best.new_zeros(0)]
    places = [place for _, place in _slices(sizes)]
    ended: list[Tensor] = []
    for size, place in zip(sizes[1:], places[1:], strict=True):
        ended.append((scores[size:] + end).argmax(1))
        scores, origin = (scores[:size].unsqueeze(2) + transitions).max(1)
        scores = scores + emissions[place]
        origins.append(origin)
    ended.append((scores + end).argmax(1))
    found = best.new_zeros(0)
    for time in reversed(range(len(sizes))):
        if len(found):
            found = origins[time + 1].gather(1, found.unsqueeze(1)).squeeze(1)
        found = torch.cat([found, ended[time]])
        best[places[time]] = found
    return best
