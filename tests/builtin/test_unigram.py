"""Tests of the training of unigram models."""

import json
import math
from collections.abc import Mapping

import pytest
from tokenizers import Tokenizer, models, trainers

from pipeline.builtin.unigram import train_unigram

WORDS = {"low": 8, "lower": 3, "lowest": 4, "newest": 6, "widest": 3, "new": 5, "wide": 2}


def divide(word: str) -> list[list[str]]:
    """Return all divisions of a word."""
    if not word:
        return [[]]
    return [[word[:end], *rest] for end in range(1, len(word) + 1) for rest in divide(word[end:])]


def compute_likelihood(words: Mapping[str, int], pieces: Mapping[str, float]) -> float:
    """Return the log-likelihood of words, over all divisions into pieces, by a plain loop."""
    total = 0.0
    for word, count in words.items():
        found = [sum(pieces[part] for part in parts) for parts in divide(word) if all(part in pieces for part in parts)]
        total += count * math.log(sum(map(math.exp, found)))
    return total


@pytest.mark.parametrize("size", [11, 14, 17])
def test_the_words_are_as_likely_as_after_the_training_of_the_library(size: int) -> None:
    """Its pruning differs, and its result is another one each time."""
    ours = train_unigram(WORDS, size)
    library = Tokenizer(models.Unigram())
    trainer = trainers.UnigramTrainer(vocab_size=size, show_progress=False)
    library.train_from_iterator([word for word, count in WORDS.items() for _ in range(count)], trainer)
    theirs: list[tuple[str, float]] = json.loads(library.to_str())["model"]["vocab"]
    assert len(ours) == size
    assert compute_likelihood(WORDS, dict(ours)) > compute_likelihood(WORDS, dict(theirs))


def test_expectation_maximization_gives_the_counts_of_a_loop() -> None:
    """If nothing is left out, the most probable pieces are those of frequent divisions."""
    pieces = dict(train_unigram({"ab": 10, "abab": 5}, 50))
    assert {"a", "b", "ab"} <= set(pieces)
    assert pieces["ab"] == max(pieces.values())


def test_the_order_of_the_words_has_no_effect() -> None:
    """Ties included."""
    assert train_unigram(WORDS, 12) == train_unigram(dict(reversed(WORDS.items())), 12)
    even = {"abc": 2, "bcd": 2, "cda": 2}
    assert train_unigram(even, 5) == train_unigram(dict(reversed(even.items())), 5)


def test_all_characters_are_kept() -> None:
    """Also of long words, which are cut, and beyond the size."""
    assert {piece for piece, _ in train_unigram({"abc" * 300: 1, "xyz": 1}, 0)} == set("abcxyz")
    assert train_unigram({}, 9) == []
    assert [piece for piece, _ in train_unigram({"a": 1}, 9)] == ["a"]
