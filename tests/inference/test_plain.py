"""Tests of predictions as plain values: generated texts."""

import math

import pytest

from pipeline import Generation
from pipeline.inference.plain import to_columns, to_json, to_plain

TEXTS = [Generation("one", [4, 3], [-0.5, -0.5], True), Generation("two", [5, 3], [-1.0, -1.0], True)]


def test_a_generated_text_has_columns() -> None:
    """The best one, and its probability."""
    assert to_columns(TEXTS) == {"prediction": "one", "probability": pytest.approx(math.exp(-1))}


def test_generated_texts_are_json() -> None:
    """The best one, and the best few with their probabilities."""
    best = {"text": "one", "probability": math.exp(-1)}
    second = {"text": "two", "probability": math.exp(-2)}
    assert to_json(TEXTS, 2) == {**best, "top": [best, second]}
    assert to_json(TEXTS, 1) == {**best, "top": [best]}


def test_the_best_text_is_plain() -> None:
    """Without its scores."""
    assert to_plain(TEXTS) == "one"
