"""A linear model of n-grams: what a neural model of texts or tags must beat. Needs the extra `sklearn`."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, Final, cast

import attrs

from pipeline.data.rows import Example
from pipeline.extras import import_extra
from pipeline.labels import get_scalar, is_missing, is_step_target, to_steps

_EXTRA: Final = "sklearn"
_WHY: Final = "the n-gram baseline"

# Inverse regularization: texts of a few words need weak regularization with tf-idf, whose vectors have norm 1.
_C: Final = 10.0

_WORD: Final = r"\S+"


@attrs.frozen
class Baseline:
    """The score of a baseline.

    Attributes:
        name: its name.
        score: the score.
        weights: the number of weights.
    """

    name: str
    score: float
    weights: int


def score_baseline(train: Iterable[object], held_out: Iterable[object], metric: str) -> Baseline | str:
    """Return the score of a linear model, or the reason why there is none.

    Of texts with one class each, the features are word n-grams (1 and 2) and character n-grams within words (1 to 5),
    weighted by tf-idf. Of lists of words with a class each, they are the word, its prefixes and suffixes of up to
    three characters, its shape, and the words beside it. The classifier is logistic regression. Rows and words without
    a target are left out.

    Args:
        train: the examples to train on.
        held_out: the examples of the score.
        metric: the score: `accuracy` or `macro_f1`.

    Raises:
        MissingExtraError: if scikit-learn is not installed.

    Source: Wang and Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic Classification", ACL.
    """
    scores: Mapping[str, Callable[[Any, Any], float]] = {"accuracy": _compute_accuracy, "macro_f1": _compute_macro_f1}
    if metric not in scores:
        return f"no baseline: it has an accuracy or macro_f1, but the score is {metric}"
    pairs, held = list(_read_pairs(train)), list(_read_pairs(held_out))
    if not pairs or not held:
        return "no baseline: no example has a target"
    if all(isinstance(value, str) for value, _ in (*pairs, *held)):
        name, make = "n-grams, linear", _make_text_model
    elif all(isinstance(value, Mapping) for value, _ in (*pairs, *held)):
        name, make = "words and affixes, linear", _make_word_model
    else:
        return "no baseline: it is for texts and for lists of words"
    if len({target for _, target in pairs}) < 2:
        return "no baseline: the examples have one class only"
    model = make()
    model.fit([value for value, _ in pairs], [target for _, target in pairs])
    predicted = model.predict([value for value, _ in held])
    coefficients = model[-1].coef_
    return Baseline(name, scores[metric]([target for _, target in held], predicted), int(coefficients.size))


def _make_text_model() -> Any:  # noqa: ANN401 - scikit-learn has no types
    pipelines, texts = _import("pipeline"), _import("feature_extraction.text")
    words = texts.TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=_WORD)
    characters = texts.TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True)
    return pipelines.make_pipeline(pipelines.make_union(words, characters), _make_classifier())


def _make_word_model() -> Any:  # noqa: ANN401 - scikit-learn has no types
    features = _import("feature_extraction").DictVectorizer()
    # Logistic regression by stochastic gradient: sentences have many words, and the exact solver takes minutes.
    linear = _import("linear_model").SGDClassifier(loss="log_loss", alpha=1e-6, max_iter=20, tol=None, random_state=0)
    narrow = _import("preprocessing").FunctionTransformer(_narrow_indices)
    return _import("pipeline").make_pipeline(features, narrow, linear)


def _narrow_indices(matrix: Any) -> Any:  # noqa: ANN401 - scipy has no types
    """Return a sparse matrix with indices of 32 bits: scikit-learn makes some of 64, which its solvers reject."""
    matrix.indices, matrix.indptr = matrix.indices.astype("int32"), matrix.indptr.astype("int32")
    return matrix


def _make_classifier() -> Any:  # noqa: ANN401 - scikit-learn has no types
    return _import("linear_model").LogisticRegression(C=_C, max_iter=1_000)


def _import(module: str) -> Any:  # noqa: ANN401 - scikit-learn has no types
    return import_extra(f"sklearn.{module}", extra=_EXTRA, why=_WHY)


def _read_pairs(examples: Iterable[object]) -> Iterator[tuple[object, object]]:
    """Yield a text and its class, or the features of a word and its class."""
    for example in examples:
        if not isinstance(example, Example):
            continue
        value, target = cast("Example[object]", example).input, cast("object", example.target)
        if not is_step_target(target):
            if not is_missing(get_scalar(target)):
                yield value, get_scalar(target)
        elif isinstance(value, Sequence) and not isinstance(value, str):
            words = [str(word) for word in cast("Sequence[object]", value)]
            found = zip(_list_features(words), to_steps(target), strict=False)
            yield from ((features, get_scalar(entry)) for features, entry in found if not is_missing(entry))


def _list_features(words: Sequence[str]) -> Iterator[Mapping[str, float]]:
    """Yield the features of each word of a sentence.

    Example:
        >>> [*_list_features(["Old", "dogs"])][1]["before=old"]
        1.0
    """
    lower = [word.lower() for word in words]
    for index, (word, plain) in enumerate(zip(words, lower, strict=True)):
        before = lower[index - 1] if index else "<start>"
        after = lower[index + 1] if index + 1 < len(lower) else "<end>"
        affixes = chain.from_iterable((f"prefix={plain[:n]}", f"suffix={plain[-n:]}") for n in (1, 2, 3))
        names = [f"word={plain}", f"form={word}", f"before={before}", f"after={after}", f"shape={_get_shape(word)}"]
        yield dict.fromkeys((*names, *affixes, f"pair={before} {plain}"), 1.0)


def _get_shape(word: str) -> str:
    """Return a word with its letters and digits as classes, repetitions once: `Ca9` for `Calle99`."""
    kinds = ["C" if char.isupper() else "a" if char.isalpha() else "9" if char.isdigit() else char for char in word]
    return "".join(kind for index, kind in enumerate(kinds) if not index or kind != kinds[index - 1])


def _compute_accuracy(targets: Sequence[object], predicted: Sequence[object]) -> float:
    return float(_import("metrics").accuracy_score(targets, predicted))


def _compute_macro_f1(targets: Sequence[object], predicted: Sequence[object]) -> float:
    return float(_import("metrics").f1_score(targets, predicted, average="macro"))
