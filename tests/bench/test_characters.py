"""The benchmark of words with characters: both models are the same, and the table has its figures."""

from typing import cast

import torch
from torch.nn.utils.rnn import pad_sequence

from bench.measurements.characters import (
    HandWritten,
    Sizes,
    draw_batches,
    make_chain,
    measure_characters,
    split_words,
    tabulate,
)
from pipeline import Pad, SpelledWord

SMALL = Sizes(rows=12, longest=5, padded=20, embedding=3, characters=2, spelling=2, hidden=2)


def test_both_models_have_the_same_loss() -> None:
    """On every batch."""
    weights = HandWritten(SMALL)
    model = make_chain(weights)
    for rows in draw_batches(SMALL):
        words = [row.sequence.word.values for row in rows]
        letters = list(map(split_words, rows))
        targets = [torch.tensor(cast("list[int]", row.target)) for row in rows]
        wanted = weights.compute_loss(words, letters, pad_sequence(targets, batch_first=True, padding_value=-100))
        torch.testing.assert_close(model(Pad(SpelledWord)(rows)).loss(), wanted)


def test_epochs_are_measured() -> None:
    """A row per measurement, with the speedup."""
    result = measure_characters(SMALL, 1, rounds=2)
    (row,) = tabulate([result]).rows
    assert set(result.times) == {"by hand", "ours"}
    assert row[0] == str(SMALL)
