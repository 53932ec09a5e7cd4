"""Choose the next token from scores: temperature, the k best tokens, the nucleus, and draws that a seed fixes."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from numpy.typing import NDArray
from torch import Tensor

LOWEST: Final = -torch.inf
"""The score of a token that must not be chosen."""


def restrict_scores(
    scores: Float[Tensor, "row token"],
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Tensor, "row token"]:
    """Return scores divided by the temperature, with minus infinity for tokens that must not be drawn.

    Of equal scores, the token with the lower id counts as the better one.

    Args:
        scores: the scores before softmax.
        temperature: below 1 prefers likely tokens more than the model does, above 1 less.
        top_k: the number of best tokens to keep.
        top_p: keep the fewest best tokens whose probabilities sum up to this, after `top_k`.

    Source: Fan, Lewis and Dauphin 2018, "Hierarchical Neural Story Generation", arXiv:1805.04833 (`top_k`); Holtzman et
    al. 2019, "The Curious Case of Neural Text Degeneration", arXiv:1904.09751 (`top_p`).

    Example:
        >>> probabilities = torch.tensor([[0.1, 0.6, 0.3]])
        >>> restrict_scores(probabilities.log(), top_p=0.8).softmax(-1)
        tensor([[0.0000, 0.6667, 0.3333]])
    """
    scores = scores if temperature == 1 else scores / temperature
    if top_k is not None and top_k < scores.shape[-1]:
        scores = scores.masked_fill(~_find_best(scores, top_k), LOWEST)
    if top_p is not None and top_p < 1:
        best, tokens = scores.sort(dim=-1, descending=True, stable=True)
        shares = widen(best).softmax(-1)
        # A token belongs to the nucleus if those before it do not reach `top_p`: the first one always does.
        dropped = shares.cumsum(-1) - shares >= top_p
        dropped[:, 0] = False
        scores = scores.masked_fill(torch.zeros_like(dropped).scatter(-1, tokens, dropped), LOWEST)
    return scores


def _find_best(scores: Float[Tensor, "row token"], count: int) -> Bool[Tensor, "row token"]:
    """Return a mask of the best tokens: exactly this many per row."""
    # `topk` chooses among equal scores as it likes. So it only finds the lowest score to keep: all better ones are
    # kept, and of equal ones the first. Sorting all scores takes ten times as long.
    least = scores.topk(count, -1).values[:, -1:]
    better, equal = scores > least, scores == least
    room = count - better.sum(-1, keepdim=True)
    return better | (equal & (equal.cumsum(-1) <= room))


def draw_tokens(scores: Float[Tensor, "row token"], numbers: Float[Tensor, " row"]) -> Int64[Tensor, " row"]:
    """Return the token of each row at which the sum of the probabilities exceeds the row's number.

    The token depends on the row's own scores and number only, not on the other rows, unlike a draw of
    `torch.multinomial`.

    Args:
        scores: the scores before softmax; minus infinity for a token that must not be drawn.
        numbers: a number for each row, 0 <= number < 1.

    Example:
        >>> half = torch.tensor([[0.5, 0.5]]).log()
        >>> [draw_tokens(half, torch.tensor([number])).item() for number in (0.0, 0.49, 0.51)]
        [0, 0, 1]
    """
    sums = widen(scores).softmax(-1).cumsum(-1)
    total = sums[:, -1:]
    # `right`: the first token whose sum is above the number, so a token of probability 0 is never drawn. Rounding may
    # lift the product up to the total: then it is the last token with a probability, at which the sum reaches it.
    drawn = torch.searchsorted(sums, numbers.to(sums).unsqueeze(1) * total, right=True)
    last = (sums < total).sum(-1, keepdim=True)
    return torch.minimum(drawn, last).squeeze(1)


def draw_numbers(seed: int, rows: Sequence[tuple[int, int]], count: int) -> Float[Tensor, "row count"]:
    """Return random numbers, 0 <= number < 1, for some rows; those of a row depend on the seed and its name only.

    Args:
        seed: the seed.
        rows: two numbers that name each row.
        count: the number of numbers per row; a smaller one gives the first of them.

    Example:
        >>> torch.equal(draw_numbers(3, [(5, 0), (6, 0)], 2)[1], draw_numbers(3, [(6, 0)], 9)[0, :2])
        True
    """
    numbers: NDArray[np.float64] = np.empty((len(rows), count))
    for index, name in enumerate(rows):
        numbers[index] = np.random.default_rng([seed, *name]).random(count)
    return torch.tensor(numbers, device="cpu")


def widen(scores: Float[Tensor, "row token"]) -> Float[Tensor, "row token"]:
    """Return scores in float64, or float32 on a device that does not have it: sums over a vocabulary are long."""
    return scores.float() if scores.device.type == "mps" else scores.double()
