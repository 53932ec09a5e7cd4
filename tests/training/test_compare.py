"""Compare models: the scores are those of `fit`, the table ranks them, and one failure does not stop the others."""

import csv
import math
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from pipeline import Bucket, Labels, Pad, StreamChain, Tokenize, classifier
from pipeline.core.contexts import seeded
from pipeline.errors import OptionError
from pipeline.sources import Records
from pipeline.training import ComparedModel, Comparison, compare
from pipeline.training.metrics import Monitor
from support.commands import LABELS, REVIEWS
from support.needs import needs

EXAMPLES = Records([{"text": text, "label": label} for text, label in REVIEWS], text="text", target="label")
TOKENIZE = Tokenize.train(EXAMPLES.inputs())
ACCURACY = Monitor("accuracy", higher_is_better=True)
OPTIONS: dict[str, Any] = {"epochs": 2, "learning_rate": 0.05, "progress": False}


def make(encoder: str, labels: Labels = LABELS) -> Callable[[], StreamChain[Any, Any]]:
    """Return a function that makes a small classifier."""
    sizes: dict[str, Any] = {"embedding_dim": 4, "hidden_size": 4, "encoder": encoder}
    data = TOKENIZE >> Bucket(rows=4) >> Pad(labels=labels)
    return lambda: data >> classifier(TOKENIZE.vocab_size, labels, **sizes)


def test_scores_are_those_of_fit_and_evaluate() -> None:
    """With a seed for the weights and the training; by the examples for testing, if there are some."""
    reports: list[str] = []
    test = EXAMPLES.select([0, 1, 5])
    found = compare({"lstm": make("lstm")}, EXAMPLES, EXAMPLES, seeds=[3, 4], report=reports.append, **OPTIONS)
    tested = compare({"lstm": make("lstm")}, EXAMPLES, EXAMPLES, test=test, seeds=[3], **OPTIONS)
    with seeded(3):
        pipe = make("lstm")()
    history = pipe.fit(EXAMPLES, valid=EXAMPLES, seed=3, **OPTIONS)
    (model,) = found
    assert model.scores[0] == history.best.metrics["accuracy"]
    assert model.epochs[0] == history.best.number
    assert len(model.scores) == len(found.seeds) == 2
    assert model.weights == sum(weight.numel() for weight in pipe.parameters())
    assert model.seconds > 0
    assert tested["lstm"].scores == [pipe.evaluate(test)["accuracy"]]
    assert [line.partition(":")[0] for line in reports] == ["lstm, seed 3", "lstm, seed 4"]
    assert "the scores are those of the examples by which the best epoch was chosen" in str(found)
    assert "by which" not in str(tested)


def test_a_failure_is_in_the_result_and_does_not_stop_the_others() -> None:
    """Here a model whose labels lack a class of the examples."""
    models = {"wrong": make("lstm", Labels(["bad", "fair"])), "right": make("gru")}
    found = compare(models, EXAMPLES, EXAMPLES, seeds=[0], **OPTIONS)
    wrong, right = found
    assert "good" in wrong.failure
    assert math.isnan(wrong.mean)
    assert right.failure == ""
    assert [model.name for model in found.ranking] == ["right", "wrong"]
    assert "wrong failed: " in str(found)


def test_a_pipe_that_cannot_be_made_is_an_error_before_any_training() -> None:
    """No time is lost for a name with a mistake in it."""
    reports: list[str] = []
    with pytest.raises(LookupError, match="'lsmt'"):
        compare({"a": make("lstm"), "b": make("lsmt")}, EXAMPLES, EXAMPLES, report=reports.append, **OPTIONS)
    assert reports == []


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({}, {}, "models must have a model or more, got none"),
        ({"a": make("gru")}, {"seeds": []}, "seeds must have a seed or more, got none"),
        ({"a": make("gru")}, {"checkpoints": "here"}, "checkpoints is not an option of a comparison: all models would"),
        ({"a": make("gru")}, {"seed": 3}, "seed is not an option of a comparison: pass seeds"),
        ({"a": lambda: 3}, {}, "must be a function that makes a pipe, data >> model, got int"),
    ],
)
def test_wrong_options_are_rejected(models: Any, options: dict[str, Any], message: str) -> None:
    """Each has a rule."""
    with pytest.raises(OptionError, match=message):
        compare(models, EXAMPLES, EXAMPLES, **options)


def make_comparison(*, higher_is_better: bool = True) -> Comparison:
    """Return a comparison of three models, one of which failed, with a baseline."""
    models = [
        ComparedModel("a", [0.5, 0.75], seconds=2.0, weights=1_000, epochs=[1, 2]),
        ComparedModel("b", [], weights=10, failure="no\x1b[31m luck"),
        ComparedModel("c", [0.25, 0.5], seconds=1.0, weights=10, epochs=[2, 2]),
        ComparedModel("n-grams", [0.625], seconds=0.5, weights=7, is_baseline=True),
    ]
    return Comparison(models, Monitor("score", higher_is_better=higher_is_better), seeds=[0, 1], notes=["a note"])


def test_models_are_ranked_by_their_mean() -> None:
    """The lowest first, if that is better; of equal ones the first; those that failed last."""
    assert [model.name for model in make_comparison().ranking] == ["a", "n-grams", "c", "b"]
    assert [model.name for model in make_comparison(higher_is_better=False).ranking] == ["c", "a", "n-grams", "b"]
    assert make_comparison().best.name == "a"
    with pytest.raises(OptionError, match="no model of the comparison has a score"):
        _ = Comparison([ComparedModel("a", [], failure="why")], ACCURACY, seeds=[0]).best
    with pytest.raises(OptionError, match=r"has the models a, b, c, n-grams, got 'ngrams'\. Did you mean 'n-grams'"):
        _ = make_comparison()["ngrams"]


def test_table_csv_and_json_have_the_same_numbers() -> None:
    """And no control characters of a failure."""
    comparison = make_comparison()
    lines = str(comparison).splitlines()
    assert lines[1].split() == ["a", "0.6250", "0.5000", "0.7500", "2.0", "1,000"]
    assert lines[-3:] == ["2 seeds per model", "a note", r"b failed: no\x1b[31m luck"]
    rows = list(csv.DictReader(StringIO(comparison.to_csv())))
    assert [row["mean score"] for row in rows] == ["0.625", "", "0.375", "0.625"]
    assert [row["score with seed 1"] for row in rows] == ["0.75", "", "0.5", ""]
    state: Any = comparison.to_dict()
    assert [model["mean"] for model in state["models"]] == [0.625, None, 0.375, 0.625]


@needs("matplotlib")
def test_picture_shows_every_model_with_a_score(tmp_path: Path) -> None:
    """Names are labels; the baseline is a line."""
    text = make_comparison().plot(tmp_path / "scores.svg").read_text(encoding="utf-8")
    assert all(f"<!-- {name} -->" in text for name in ("a", "c", "n-grams", "seconds per epoch"))
    assert "<!-- b -->" not in text


@needs("sklearn")
def test_baseline_stands_beside_the_models() -> None:
    """A linear model of n-grams classifies the few texts without a mistake."""
    found = compare({"lstm": make("lstm")}, EXAMPLES, EXAMPLES, seeds=[0], baseline=True, **OPTIONS)
    model = found.models[-1]
    assert (model.name, model.scores, model.is_baseline) == ("n-grams, linear", [1.0], True)
    assert "n-grams, linear (baseline)" in str(found)
