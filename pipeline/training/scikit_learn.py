"""A pipe as an estimator of scikit-learn: `PipeClassifier` and `PipeRegressor`. Needs the extra `sklearn`."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Never, Self, TypeAlias, cast

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import TypeIs, override

from pipeline.core.contexts import seeded
from pipeline.core.stream_chain import StreamChain
from pipeline.data.iteration import check_ordered
from pipeline.data.predictions import ClassPrediction, compute_probabilities
from pipeline.data.rows import Example, reject_single_text
from pipeline.data.scores import Predictions
from pipeline.errors import LabelError, OptionError
from pipeline.extras import find_base, import_extra
from pipeline.inference.columns import read_column
from pipeline.labels import Labels, Target
from pipeline.models import classifier
from pipeline.sources.records import Records
from pipeline.stages.bucket import Bucket
from pipeline.stages.embed import Embed
from pipeline.stages.encode import Encode
from pipeline.stages.pad import Pad
from pipeline.stages.pool import Pool
from pipeline.stages.regress import Regress
from pipeline.stages.tokenize import Tokenize
from pipeline.targets import Numbers
from pipeline.training.history import History
from pipeline.training.options import FitOptions

_EXTRA: Final = "sklearn"

if TYPE_CHECKING:
    # scikit-learn has no types: these are what is used of it.
    class BaseEstimator:
        """Has parameters by the names of the arguments of `__init__`."""

        def get_params(self, deep: bool = True) -> dict[str, object]: ...  # noqa: FBT002 - scikit-learn's own
        def set_params(self, **params: object) -> Self: ...
        def __sklearn_tags__(self) -> Any: ...  # noqa: ANN401 - of a class without types

    class _Mixin:
        def score(self, X: object, y: object, sample_weight: object = None) -> float: ...  # noqa: N803

    class ClassifierMixin(_Mixin):
        """Has the accuracy as its score."""

    class RegressorMixin(_Mixin):
        """Has the coefficient of determination as its score."""

else:
    BaseEstimator, ClassifierMixin, RegressorMixin = (
        find_base("sklearn.base", name, extra=_EXTRA, why="an estimator")
        for name in ("BaseEstimator", "ClassifierMixin", "RegressorMixin")
    )

__all__ = ["PipeClassifier", "PipeRegressor"]

MakePipe: TypeAlias = Callable[..., StreamChain[Never, Predictions[object, object]]]
"""Makes a pipe from the inputs and targets of training, and options by name."""


class _PipeEstimator(BaseEstimator):
    """What estimators of classes and of numbers share.

    The arguments keep the names and values that they are given: scikit-learn copies estimators by them.
    """

    pipe_: StreamChain[Any, Any]
    history_: History

    def __init__(
        self,
        make_pipe: MakePipe | None = None,
        *,
        pipe_options: Mapping[str, object] | None = None,
        epochs: int = 10,
        learning_rate: float | None = None,
        validation_fraction: float | None = None,
        random_state: int | np.random.RandomState | None = None,
        fit_options: FitOptions | None = None,
    ) -> None:
        self.make_pipe = make_pipe
        self.pipe_options = pipe_options
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.fit_options = fit_options

    @property
    @abstractmethod
    def _default_pipe(self) -> MakePipe:
        """The function that makes the pipe without `make_pipe`."""

    def _fit(self, inputs: Sequence[Any], targets: Sequence[Target], *, stratify: bool) -> None:
        random: Any = import_extra("sklearn.utils", extra=_EXTRA, why="an estimator").check_random_state
        seed = int(random(self.random_state).randint(2**31 - 1))
        make: Any = self.make_pipe or self._default_pipe
        with seeded(seed):
            pipe: object = make(inputs, targets, **(self.pipe_options or {}))
        if not _is_pipe(pipe):
            msg = f"make_pipe must return a pipe, data >> model, got {type(pipe).__name__}."
            raise OptionError(msg)
        options: dict[str, Any] = {"progress": False, "seed": seed, **(self.fit_options or {})}
        if self.learning_rate is not None:
            options["learning_rate"] = self.learning_rate
        examples: Any = list(map(Example, inputs, targets))
        valid = None
        if self.validation_fraction is not None:
            share = 1 - self.validation_fraction
            examples, valid = Records[Any](examples).split(share, seed=seed, stratify=stratify)
        self.pipe_ = pipe
        self.history_ = self.pipe_.fit(examples, valid=valid, epochs=self.epochs, **options)

    def _check_fitted(self) -> None:
        import_extra("sklearn.utils.validation", extra=_EXTRA, why="an estimator").check_is_fitted(self)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "pipe_")

    @override
    def __sklearn_tags__(self) -> Any:
        """Say that inputs are texts or sequences, which the pipe checks, and no table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.string = False, True
        tags.no_validation = tags.target_tags.required = True
        return tags


class PipeClassifier(ClassifierMixin, _PipeEstimator):
    """A pipe that predicts one class per row, as a classifier of scikit-learn.

    It can be cloned, pickled, searched for parameters and cross-validated. In each fold, the vocabulary and the weights
    are made from that fold's training rows only.

    Args:
        make_pipe: makes an untrained pipe: `make_pipe(inputs, targets, **pipe_options)`. The targets are the classes as
            texts, so the pipe has `Labels`. By default, `classifier` over the words of texts.
        pipe_options: more arguments of `make_pipe`, for example to search for them: `{"hidden_size": 64}`. By default,
            options of `classifier`.
        epochs: as in `fit`.
        learning_rate: as in `fit`.
        validation_fraction: the share of the rows that validates after each epoch, for early stopping
            (`fit_options={"patience": 3}`) and the best weights; None for no validation.
        random_state: determines the first weights, dropout and the order of the rows.
        fit_options: other options of `fit`.

    Attributes:
        classes_: the classes, sorted, in the order of the columns of `predict_proba`.
        pipe_: the trained pipe.
        history_: what `fit` returned.

    Raises:
        MissingExtraError: if scikit-learn is not installed.

    Example:
        Two sizes, each trained and tested on three parts of the data:

            from sklearn.model_selection import GridSearchCV

            grid = {"pipe_options": [{"hidden_size": 32}, {"hidden_size": 128}], "learning_rate": [1e-3, 3e-3]}
            search = GridSearchCV(PipeClassifier(random_state=0), grid, cv=3).fit(texts, classes)
            search.best_estimator_.pipe_.save("sentiment/")
    """

    classes_: NDArray[Any]

    def fit(self, X: object, y: object) -> Self:  # noqa: N803 - scikit-learn's name
        """Train a new pipe.

        Args:
            X: the inputs: texts, rows of words, ids or features, in a list, an array or a Series.
            y: their classes: texts or numbers.

        Raises:
            OptionError: if the inputs have no fixed order, or `make_pipe` returns no pipe.
            LabelError: if two classes are equal as texts.
            ValueError: of scikit-learn, if there is not one class per input.
        """
        inputs, classes = _list_inputs(X), _check_targets(X, y)
        import_extra("sklearn.utils.multiclass", extra=_EXTRA, why="a classifier").check_classification_targets(classes)
        found: NDArray[Any] = np.unique(classes)
        names = list(map(str, found.tolist()))
        if len(set(names)) < len(names) or "" in names:
            msg = f"classes must differ as texts, and none be empty, got {found.tolist()!r:.60}; give them other names."
            raise LabelError(msg)
        self._fit(inputs, list(map(str, classes.tolist())), stratify=True)
        self.classes_ = found
        return self

    def predict(self, X: object) -> NDArray[Any]:  # noqa: N803
        """Return the most probable class of each input."""
        best = self.predict_proba(X).argmax(1)
        found: NDArray[Any] = self.classes_[best]
        return found

    def predict_proba(self, X: object) -> NDArray[np.float64]:  # noqa: N803
        """Return the probability of each class, a column for each of `classes_`."""
        self._check_fitted()
        rows: list[NDArray[np.float64]] = []
        for each in self.pipe_.predict(_list_inputs(X), scores=True):
            prediction = cast("ClassPrediction[str]", each)
            # A pipe may have labels that did not occur in these rows. They are no classes here, and have no share.
            places = {name: place for place, name in enumerate(prediction.names)}
            scores = prediction.scores[[places[str(name)] for name in self.classes_.tolist()]]
            rows.append(compute_probabilities(scores.to(torch.float64)).numpy())
        return np.stack(rows) if rows else np.empty((0, len(self.classes_)))

    @property
    @override
    def _default_pipe(self) -> MakePipe:
        return _make_classifier


class PipeRegressor(RegressorMixin, _PipeEstimator):
    """A pipe that predicts one number per row, as a regressor of scikit-learn.

    The arguments and attributes are those of `PipeClassifier`, without classes; targets are floats, and the pipe has
    `Pad(targets=Numbers())` and `Regress()`. By default, it is such a pipe over the words of texts, with the options
    `embedding_dim`, `hidden_size`, `encoder` and `pooling` of `classifier`.

    Raises:
        MissingExtraError: if scikit-learn is not installed.
    """

    def fit(self, X: object, y: object) -> Self:  # noqa: N803
        """Train a new pipe; see `PipeClassifier.fit`. The targets are numbers."""
        self._fit(_list_inputs(X), _check_targets(X, y).astype(np.float64).tolist(), stratify=False)
        return self

    def predict(self, X: object) -> NDArray[np.float64]:  # noqa: N803
        """Return the number of each input."""
        self._check_fitted()
        return np.array(list(self.pipe_.predict(_list_inputs(X))), np.float64)

    @property
    @override
    def _default_pipe(self) -> MakePipe:
        return _make_regressor


def _make_classifier(inputs: Sequence[Any], targets: Sequence[str], **options: Any) -> Any:  # noqa: ANN401 - a pipe
    tokenize, labels = Tokenize.train(inputs), Labels.from_targets(targets)
    return tokenize >> Bucket() >> Pad(labels=labels) >> classifier(tokenize.vocab_size, labels, **options)


def _make_regressor(
    inputs: Sequence[Any],
    _targets: Sequence[float],
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    pooling: str = "max",
) -> Any:  # noqa: ANN401 - a pipe
    tokenize = Tokenize.train(inputs)
    states = Embed(tokenize.vocab_size, embedding_dim) >> Encode(encoder, hidden_size=hidden_size)
    return tokenize >> Bucket() >> Pad(targets=Numbers()) >> states >> Pool(pooling) >> Regress()


def _is_pipe(value: object) -> TypeIs[StreamChain[Any, Any]]:
    return isinstance(value, StreamChain)


def _list_inputs(X: object) -> list[Any]:  # noqa: N803
    """Return the inputs as plain values.

    Raises:
        TextError: if they are one text.
        OptionError: if they have no fixed order, or are a table.
    """
    reject_single_text(X)
    check_ordered(X)
    return read_column({"X": X}, "X")


def _check_targets(X: object, y: object) -> NDArray[Any]:  # noqa: N803
    """Return the targets as an array with one axis, one per input.

    Raises:
        ValueError: of scikit-learn, if they are something else.
    """
    checks: Any = import_extra("sklearn.utils.validation", extra=_EXTRA, why="an estimator")
    if y is None:
        msg = "this estimator requires y to be passed, but the target y is None; pass a target per input."
        raise OptionError(msg)
    targets: NDArray[Any] = checks.column_or_1d(y, warn=True)
    checks.check_consistent_length(X, targets)
    return targets
