"""Benchmarks of rows with several fields: both models are the same, and the tables have their figures."""

from typing import cast

import torch
from torch.nn.utils.rnn import pad_sequence

from bench.measurements.fields import (
    Event,
    EventSizes,
    PlainEventClassifier,
    PlainTagger,
    TaggerSizes,
    draw_event_batches,
    draw_word_batches,
    make_event_classifier,
    make_tagger,
    measure_event_classifier,
    measure_tagger,
    split_words,
    tabulate_characters,
    tabulate_fields,
)
from pipeline import Pad, SpelledWord

SMALL_TAGGER = TaggerSizes(rows=12, longest=5, padded=20, embedding=3, characters=2, spelling=2, hidden=2)


def test_both_taggers_have_the_same_loss() -> None:
    """On every batch."""
    weights = PlainTagger(SMALL_TAGGER)
    model = make_tagger(weights)
    for rows in draw_word_batches(SMALL_TAGGER):
        words = [row.sequence.word.values for row in rows]
        letters = list(map(split_words, rows))
        targets = [torch.tensor(cast("list[int]", row.target)) for row in rows]
        wanted = weights.compute_loss(words, letters, pad_sequence(targets, batch_first=True, padding_value=-100))
        torch.testing.assert_close(model(Pad(SpelledWord)(rows)).loss(), wanted)


def test_epochs_of_the_tagger_are_measured() -> None:
    """A row per measurement, with the speedup."""
    result = measure_tagger(SMALL_TAGGER, 1, rounds=2)
    (row,) = tabulate_characters([result]).rows
    assert set(result.times) == {"by hand", "ours"}
    assert row[0] == str(SMALL_TAGGER)


SMALL = EventSizes(rows=12, longest=5, padded=20, embedding=3, hidden=2)


def test_both_classifiers_have_the_same_loss() -> None:
    """On every batch."""
    weights = PlainEventClassifier(SMALL.embedding, SMALL.hidden)
    model = make_event_classifier(weights)
    for rows in draw_event_batches(SMALL):
        torch.testing.assert_close(model(Pad(Event)(rows)).loss(), weights.compute_loss(rows))


def test_epochs_and_checks_are_measured() -> None:
    """A row per measurement, with the speedup and the share of the checks."""
    result = measure_event_classifier(SMALL, 1, rounds=2, check_rounds=2)
    (row,) = tabulate_fields([result]).rows
    assert set(result.times) == {"by hand", "ours", "checked", "unchecked"}
    assert row[-1].endswith("%)")
