"""Estimators of scikit-learn train as `fit` does, and work with its searches, cross-validation and checks."""

import pickle
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import Bucket, Example, Labels, Pad, Tokenize, classifier
from pipeline.core.contexts import seeded
from pipeline.errors import LabelError, OptionError, TextError
from support.estimated import make_number_classifier, make_number_regressor
from support.needs import needs
from support.trainable import copy_weights

# Of grid searches that do not converge. By its text: where scikit-learn is absent, its classes cannot be named.
pytestmark = [needs("sklearn"), pytest.mark.filterwarnings("ignore:.*onverge")]

TEXTS = ["a fine film", "a dull film", "fine", "dull", "what a fine evening", "so dull", "fine fine", "dull dull"] * 4
CLASSES = ["good" if "fine" in text else "bad" for text in TEXTS]
SMALL: dict[str, Any] = {
    "pipe_options": {"hidden_size": 6, "embedding_dim": 5},
    "random_state": 0,
    "learning_rate": 0.02,
}


def make(name: Any = "PipeClassifier", *args: Any, **options: Any) -> Any:
    """Make an estimator."""
    return getattr(import_module("pipeline.training.scikit_learn"), name)(*args, **options)


def test_the_weights_are_those_of_fit() -> None:
    """With the seed that is drawn from the random state."""
    found = make(**SMALL, epochs=2).fit(TEXTS, CLASSES)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    tokenize, labels = Tokenize.train(TEXTS), Labels(["bad", "good"])
    with seeded(seed):
        model = classifier(tokenize.vocab_size, labels, hidden_size=6, embedding_dim=5)
    pipe = tokenize >> Bucket() >> Pad(labels=labels) >> model
    examples = list(map(Example, TEXTS, CLASSES))
    pipe.fit(examples, epochs=2, learning_rate=0.02, seed=seed, progress=False)
    weights, wanted = copy_weights(found.pipe_), copy_weights(pipe)
    assert all(torch.equal(weights[name], wanted[name]) for name in wanted)
    assert [epoch.number for epoch in found.history_] == [1, 2]


@pytest.mark.parametrize("values", [["good", "bad"], [7, -1], [True, False], [2.0, 10.0], ["é", "0"]])
@pytest.mark.parametrize("as_array", [True, False])
def test_predictions_are_the_given_classes(values: list[Any], as_array: bool) -> None:
    """Of their own type; the columns of probabilities are in the order of `classes_`."""
    classes = [values[0] if name == "good" else values[1] for name in CLASSES]
    inputs: Any = np.array(TEXTS) if as_array else TEXTS
    y: Any = np.array(classes) if as_array else classes
    found = make(**SMALL, epochs=8).fit(inputs, y)
    assert found.classes_.tolist() == sorted(values)
    predicted, probabilities = found.predict(inputs), found.predict_proba(inputs)
    assert predicted.tolist() == classes
    assert found.score(inputs, y) == 1.0
    assert probabilities.sum(1) == pytest.approx(1)
    assert found.classes_[probabilities.argmax(1)].tolist() == classes
    pipe_probability = {each.label: each.probability for each in found.pipe_.predict(TEXTS[:1], scores=True)}
    assert probabilities[0].max() == pytest.approx(pipe_probability[str(values[0])], rel=1e-5)


def test_searches_and_cross_validation_copy_estimators() -> None:
    """Each with weights of its own, also in other processes."""
    selection: Any = import_module("sklearn.model_selection")
    grid = [{"pipe_options": [{"hidden_size": size}], "learning_rate": [rate]} for size, rate in ((6, 1e-9), (2, 0.02))]
    search = selection.GridSearchCV(make(random_state=0, epochs=3), grid, cv=2).fit(TEXTS, CLASSES)
    assert search.best_params_ == {"pipe_options": {"hidden_size": 2}, "learning_rate": 0.02}
    assert search.best_estimator_.score(TEXTS, CLASSES) > 0.9
    scores = selection.cross_val_score(make(**SMALL, epochs=1), TEXTS, CLASSES, cv=2)
    in_parallel = selection.cross_val_score(make(**SMALL, epochs=1), TEXTS, CLASSES, cv=2, n_jobs=2)
    assert scores.tolist() == in_parallel.tolist()


def test_an_estimator_is_cloned_without_its_training_and_pickled_with_it() -> None:
    """A clone has the same parameters; the pickled one predicts the same."""
    base: Any = import_module("sklearn.base")
    found = make(**SMALL, epochs=1).fit(TEXTS, CLASSES)
    cloned = base.clone(found)
    assert cloned.get_params() == found.get_params()
    with pytest.raises(import_module("sklearn.exceptions").NotFittedError):
        cloned.predict(TEXTS)
    copied = pickle.loads(pickle.dumps(found))
    assert np.array_equal(copied.predict_proba(TEXTS), found.predict_proba(TEXTS))


def test_a_part_of_the_rows_validates() -> None:
    """So training can stop early."""
    options: dict[str, Any] = {**SMALL, "learning_rate": 0.5, "fit_options": {"patience": 1, "monitor": "loss"}}
    found = make(**options, epochs=30, validation_fraction=0.25).fit(TEXTS, CLASSES)
    assert found.history_.stopped_early
    assert found.history_.epochs[0].rows == 24
    assert found.history_.epochs[0].valid_loss is not None


def test_a_class_without_rows_has_no_share() -> None:
    """A pipe may know more classes than a fold has."""

    def make_pipe(inputs: Any, targets: Any) -> Any:
        del targets
        labels = Labels(["unseen", "good", "bad"])
        tokenize = Tokenize.train(inputs)
        return (
            tokenize >> Bucket(rows=8) >> Pad(labels=labels) >> classifier(tokenize.vocab_size, labels, hidden_size=3)
        )

    found = make("PipeClassifier", make_pipe, epochs=1, random_state=0).fit(TEXTS, CLASSES)
    assert found.classes_.tolist() == ["bad", "good"]
    assert found.predict_proba(TEXTS).shape == (32, 2)
    assert found.predict_proba([]).shape == (0, 2)
    assert found.predict_proba(TEXTS).sum(1) == pytest.approx(1)


def test_numbers_are_regressed() -> None:
    """From texts by default; the score is the coefficient of determination."""
    numbers = [2.0 if name == "good" else -1.0 for name in CLASSES]
    options = {**SMALL, "epochs": 12}
    found = make("PipeRegressor", **options).fit(TEXTS, numbers)
    assert found.score(TEXTS, numbers) > 0.9
    assert found.predict(TEXTS).dtype == np.float64


@pytest.mark.parametrize("name", ["PipeClassifier", "PipeRegressor"])
@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_do_not_raise_errors_in_init_or_set_param",
        "check_get_params_invariance",
        "check_set_params",
        "check_fit_check_is_fitted",
        "check_fit_idempotent",
        "check_dict_unchanged",
        "check_dont_overwrite_attributes",
        "check_estimators_overwrite_params",
        "check_estimators_pickle",
        "check_estimators_unfitted",
        "check_fit_score_takes_y",
        "check_methods_subset_invariance",
        "check_methods_sample_order_invariance",
        "check_pipeline_consistency",
        "check_readonly_memmap_input",
        "check_requires_y_none",
        "check_estimator_tags_renamed",
        "check_valid_tag_types",
        "check_positive_only_tag_during_fit",
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_checks_of_scikit_learn_pass(name: str, check: str) -> None:
    """Those that do not demand a table of numbers with a fixed number of columns: rows are sequences here."""
    checks: Any = import_module("sklearn.utils.estimator_checks")
    make_pipe = make_number_classifier if name == "PipeClassifier" else make_number_regressor
    estimator = make(name, make_pipe, epochs=1, random_state=0)
    if hasattr(checks, check):
        getattr(checks, check)(name, estimator)


def test_wrong_arguments_are_rejected() -> None:
    """When it is trained, as scikit-learn wants it."""
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        make(**SMALL).fit(TEXTS, CLASSES[1:])
    with pytest.raises(OptionError, match="requires y to be passed, but the target y is None"):
        make(**SMALL).fit(TEXTS, None)
    with pytest.raises(LabelError, match="classes must differ as texts, and none be empty, got"):
        make(**SMALL).fit(TEXTS, ["", "a"] * 16)
    with pytest.raises(TextError, match="inputs must be an iterable of inputs, got one text"):
        make(**SMALL).fit("a fine film", CLASSES)
    with pytest.raises(OptionError, match="make_pipe must return a pipe, data >> model, got list"):
        make("PipeClassifier", max).fit(TEXTS, [text[::-1] for text in TEXTS])
