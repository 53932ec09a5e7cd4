"""The linear baseline of texts and of words."""

from typing import Any

import pytest

from pipeline import Example
from pipeline.training.ngram_baseline import Baseline, score_baseline
from support.needs import needs

TEXTS = [Example(f"{word} film", word) for word in ("fine", "dull")] * 4
WORDS = [Example(["the", "run"], ["DET", "NOUN"]), Example(["can", "run"], ["AUX", "VERB"])] * 4


@needs("sklearn")
@pytest.mark.parametrize(
    ("examples", "name"), [(TEXTS, "n-grams, linear"), (WORDS, "words and affixes, linear")], ids=["texts", "words"]
)
@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_separable_examples_are_classified_without_a_mistake(examples: Any, name: str, metric: str) -> None:
    """Words are told apart by their neighbours."""
    found = score_baseline(examples, examples, metric)
    assert isinstance(found, Baseline)
    assert (found.name, found.score) == (name, 1.0)
    assert found.weights > 0


@needs("sklearn")
def test_the_scores_are_those_of_the_held_out_examples() -> None:
    """Of three held-out texts, one has another class; a text and a word without a target do not count."""
    held = [Example("fine film", "fine"), Example("dull film", "dull"), Example("fine film", "dull")]
    found = score_baseline(TEXTS, [*held, Example("dull film", None)], "accuracy")
    assert isinstance(found, Baseline)
    assert found.score == pytest.approx(2 / 3)
    found = score_baseline(WORDS, [Example(["the", "run"], [None, "NOUN"])], "accuracy")
    assert isinstance(found, Baseline)
    assert found.score == 1.0


@pytest.mark.parametrize(
    ("examples", "metric", "reason"),
    [
        (TEXTS, "perplexity", "it has an accuracy or macro_f1, but the score is perplexity"),
        ([Example("fine", None)], "accuracy", "no example has a target"),
        ([Example([1, 2], 1), Example([1], 0)], "accuracy", "it is for texts and for lists of words"),
        ([Example("fine", 1)], "accuracy", "the examples have one class only"),
    ],
)
def test_the_reason_is_given_where_there_is_no_baseline(examples: Any, metric: str, reason: str) -> None:
    """It is a note in the comparison."""
    assert score_baseline(examples, examples, metric) == f"no baseline: {reason}"
