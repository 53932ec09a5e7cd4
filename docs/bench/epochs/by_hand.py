"""The model and its batches as one writes them in torch."""

import random
from collections.abc import Iterator, Sequence
from typing import TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from bench.epochs.corpus import CLASSES, Corpus

Collated: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Ids in a rectangle, lengths, and targets."""


class ByHand(nn.Module):
    """Embed, pack, run, unpack, mask, take the maximum, score."""

    def __init__(self, vocabulary: int, embedded: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedded)
        self.lstm = nn.LSTM(embedded, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, CLASSES)

    def loss(self, batch: Collated) -> Tensor:
        """Cross-entropy over a batch."""
        ids, lengths, targets = batch
        rows = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        packed = cast("tuple[PackedSequence, object]", self.lstm(rows))[0]
        states, _ = pad_packed_sequence(packed, batch_first=True)
        padding = torch.arange(states.shape[1]) >= lengths.unsqueeze(1)
        scores = cast("Tensor", self.linear(states.masked_fill(padding.unsqueeze(2), -torch.inf).amax(1)))
        return cross_entropy(scores, targets)


def tokenized(corpus: Corpus) -> list[tuple[Tensor, int]]:
    """Ids and target of every text."""
    found = corpus.tokenize.tokenizer.encode([example.input for example in corpus.examples], offsets=False)
    targets = (cast("int", example.target) for example in corpus.examples)
    return [(torch.tensor(tokens.ids), target) for tokens, target in zip(found, targets, strict=True)]


def collated(rows: Sequence[tuple[Tensor, int]]) -> Collated:
    """Some rows as a batch."""
    ids = [row for row, _ in rows]
    lengths, targets = torch.tensor([len(row) for row in ids]), torch.tensor([target for _, target in rows])
    return pad_sequence(ids, batch_first=True), lengths, targets


def shuffled(corpus: Corpus, rows: int, order: random.Random) -> Iterator[Collated]:
    """One epoch of batches, as rows come out of a shuffle."""
    every = tokenized(corpus)
    order.shuffle(every)
    for start in range(0, len(every), rows):
        yield collated(every[start : start + rows])
