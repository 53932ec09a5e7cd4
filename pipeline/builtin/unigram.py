"""Train a unigram language model of pieces of words."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, TypeAlias, final

import attrs
import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from pipeline.data.tensors import to_floats, to_ints

Scores: TypeAlias = Float[Tensor, " piece"]

_LONGEST_PIECE: Final = 16
_LONGEST_WORD: Final = 256
"""Longer words are cut for the training."""
_SEEDS: Final = 1_000_000
_KEPT: Final = 0.75
"""The share of pieces that each pruning keeps."""
_SPARE: Final = 1.1
"""Pruning stops at this multiple of the wanted size; the least probable pieces are left out at the end."""
_LEAST: Final = 0.5
"""A piece is left out if it is expected to occur less often. The constants are those of SentencePiece."""
_IMPOSSIBLE: Final = -1e30
"""Instead of minus infinity, whose gradients are NaN."""


def train_unigram(counts: Mapping[str, int], size: int) -> list[tuple[str, float]]:
    """Return pieces of words with their log-probabilities, the most probable first.

    Equal words give equal pieces: ties are broken by the alphabet. Every character of the words is a piece, so that
    there may be more pieces than `size`.

    Args:
        counts: how often each word occurs.
        size: the number of pieces.

    Source: Kudo 2018, "Subword Regularization: Improving Neural Network Translation Models with Multiple Subword
    Candidates", arXiv:1804.10959, section 3.2. The `tokenizers` library has such a trainer, but it visits words in the
    order of a hash map, so that two trainings give two vocabularies. Where Kudo prunes by the exact change of the
    likelihood, here each expected occurrence of a piece is replaced by the best division of the piece.

    Example:
        >>> pieces = train_unigram({"low": 8, "lower": 3, "lowest": 4, "newest": 6}, 9)
        >>> sorted(piece for piece, _ in pieces)
        ['e', 'l', 'n', 'newest', 'o', 'r', 's', 't', 'w']
    """
    words = _cut_words(counts)
    pieces = _list_seeds(words)
    if not pieces:
        return []
    lattices = list(_make_lattices(words, pieces))
    singles = torch.tensor([len(piece) == 1 for piece in pieces])
    frequencies = torch.tensor(list(pieces.values()), dtype=torch.float64)
    names, scores = list(pieces), frequencies.log() - frequencies.sum().log()
    while True:
        for _ in range(2):
            expected = _expect_counts(lattices, scores)
            kept = singles | (expected >= _LEAST)
            names, scores, singles = _select(kept, lattices, names, _maximize(expected[kept]), singles)
        if len(names) <= max(_SPARE * size, int(singles.sum())):
            break
        losses = _compute_losses(names, scores, _expect_counts(lattices, scores))
        left = max(int(_SPARE * size), int(_KEPT * len(names)))
        names, scores, singles = _select(
            _find_best(losses.masked_fill(singles, torch.inf), names, left), lattices, names, scores, singles
        )
    names, scores, _ = _select(
        _find_best(scores.masked_fill(singles, torch.inf), names, max(size, int(singles.sum()))),
        lattices,
        names,
        scores,
        singles,
    )
    found = zip(names, (round(score, 6) for score in to_floats(scores)), strict=True)
    return sorted(found, key=lambda piece: (-piece[1], piece[0]))


@final
@attrs.define
class _Lattice:
    """All divisions of words of similar lengths into pieces.

    Attributes:
        ids: the piece of each length that ends at each character; one past the last piece where there is none.
        lengths: the lengths of the words.
        counts: how often each word occurs.
    """

    ids: Int32[Tensor, "word end length"]
    lengths: Int64[Tensor, " word"]
    counts: Float[Tensor, " word"]

    def sum_scores(self, scores: Scores, *, best: bool = False) -> Float[Tensor, " word"]:
        """Return the log-probability of each word: over all divisions, or of the best one."""
        padded = torch.cat([scores, scores.new_full((1,), _IMPOSSIBLE)])
        words, ends, longest = self.ids.shape
        totals = [scores.new_zeros(words)]
        for end in range(ends):
            lengths = min(longest, end + 1)
            before = torch.stack(totals[end + 1 - lengths : end + 1][::-1], dim=1)
            paths = before + padded[self.ids[:, end, :lengths].long()]
            totals.append(paths.amax(1) if best else paths.logsumexp(1))
        return torch.stack(totals, dim=1).gather(1, self.lengths.unsqueeze(1)).squeeze(1)


def _cut_words(counts: Mapping[str, int]) -> dict[str, int]:
    words: dict[str, int] = {}
    for word in sorted(counts):
        for start in range(0, len(word), _LONGEST_WORD):
            part = word[start : start + _LONGEST_WORD]
            words[part] = words.get(part, 0) + counts[word]
    return words


def _list_seeds(words: Mapping[str, int]) -> dict[str, int]:
    """Return all characters, and the other parts of words that occur more than once, with their frequencies."""
    found: dict[str, int] = {}
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + _LONGEST_PIECE, len(word)) + 1):
                piece = word[start:end]
                found[piece] = found.get(piece, 0) + count
    singles = {piece: count for piece, count in found.items() if len(piece) == 1}
    longer = sorted(
        (piece for piece, count in found.items() if len(piece) > 1 and count > 1),
        key=lambda piece: (-found[piece] * len(piece), piece),
    )
    return singles | {piece: found[piece] for piece in longer[:_SEEDS]}


def _make_lattices(words: Mapping[str, int], pieces: Mapping[str, object]) -> Iterator[_Lattice]:
    """Yield the lattices of words of up to 4, 8, 16, ... characters: few loops over characters, and little padding."""
    ids = {piece: number for number, piece in enumerate(pieces)}
    for width, group in groupby(sorted(words, key=_get_width), _get_width):
        members = list(group)
        longest = min(_LONGEST_PIECE, width)
        table = torch.full((len(members), width, longest), len(ids), dtype=torch.int32)
        places: list[tuple[int, int, int, int]] = [
            (row, end - 1, end - start - 1, number)
            for row, word in enumerate(members)
            for end in range(1, len(word) + 1)
            for start in range(max(0, end - longest), end)
            if (number := ids.get(word[start:end])) is not None
        ]
        rows, ends, lengths, numbers = torch.tensor(places).unbind(1)
        table[rows, ends, lengths] = numbers.int()
        counts = torch.tensor([words[word] for word in members], dtype=torch.float64)
        yield _Lattice(table, torch.tensor(list(map(len, members))), counts)


def _get_width(word: str) -> int:
    return max(4, 1 << (len(word) - 1).bit_length())


def _expect_counts(lattices: Sequence[_Lattice], scores: Scores) -> Scores:
    """Return how often each piece is expected to occur: the derivative of the log-likelihood by its score."""
    with torch.enable_grad():
        leaf = scores.detach().requires_grad_()
        likelihood = torch.stack([(each.sum_scores(leaf) * each.counts).sum() for each in lattices]).sum()
        return torch.autograd.grad(likelihood, leaf)[0]


def _maximize(expected: Scores) -> Scores:
    """Return the scores for expected counts, with the digamma function of variational Bayes, as in SentencePiece."""
    expected = expected.clamp(min=_LEAST)
    return expected.digamma() - expected.sum().digamma()


def _compute_losses(names: Sequence[str], scores: Scores, expected: Scores) -> Scores:
    """Return how much the log-likelihood decreases without each piece, if its best division takes its place."""
    losses = torch.full_like(scores, torch.inf)
    numbers = {name: number for number, name in enumerate(names)}
    # In the order of the lattices.
    longer = {name: 1 for name in sorted(names, key=_get_width) if len(name) > 1}
    places = torch.tensor([numbers[name] for name in longer])
    first = 0
    for lattice in _make_lattices(longer, numbers):
        rows = torch.arange(lattice.lengths.shape[0])
        lattice.ids[rows, lattice.lengths - 1, lattice.lengths - 1] = len(names)
        found = places[first : first + len(rows)]
        losses[found] = expected[found] * (scores[found] - lattice.sum_scores(scores, best=True))
        first += len(rows)
    return losses


def _find_best(values: Scores, names: Sequence[str], count: int) -> Tensor:
    """Return a mask of the largest values; among equal ones, those that come first in the alphabet."""
    ranked = to_floats(values)
    order = sorted(range(len(names)), key=lambda number: (-ranked[number], names[number]))
    kept = torch.zeros(len(names), dtype=torch.bool)
    kept[order[:count]] = True
    return kept


def _select(
    kept: Tensor, lattices: Sequence[_Lattice], names: Sequence[str], scores: Scores, singles: Tensor
) -> tuple[list[str], Scores, Tensor]:
    """Leave out the other pieces everywhere; `scores` may be those of the kept pieces already."""
    count = int(kept.sum())
    numbers = torch.where(kept, kept.cumsum(0) - 1, count).int()
    for lattice in lattices:
        lattice.ids = torch.cat([numbers, numbers.new_tensor([count])])[lattice.ids.long()]
    left = [names[number] for number in to_ints(kept.nonzero().squeeze(1))]
    return left, scores if scores.shape[0] == count else scores[kept], singles[kept]
