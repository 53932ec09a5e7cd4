"""Predictions with their scores: of one class, of several classes, of a step, and of several heads."""

from collections.abc import Callable, Sequence
from typing import Generic, Self, TypeAlias, cast

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import TypeVar, override

from pipeline.checks.options import check_int
from pipeline.data.tensors import copy_if_view, to_ints
from pipeline.errors import OptionError

C_co = TypeVar("C_co", covariant=True, default=int)
"""The type of a predicted class: its id, or its name."""
P = TypeVar("P")
R_co = TypeVar("R_co", covariant=True)
P_co = TypeVar("P_co", covariant=True, default=tuple[object, ...])

Span: TypeAlias = tuple[int, int]
"""The start and the end of a step in its input."""

LocateSteps: TypeAlias = Callable[[int], Sequence[Span] | None]
"""Returns the span of each step of the row with a row id; None if they are not known."""


def compute_probabilities(scores: Float[Tensor, "*item classes"]) -> Float[Tensor, "*item classes"]:
    """Return the softmax over the classes, in float32 or better."""
    return _widen(scores).softmax(-1)


def _widen(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


@attrs.frozen(eq=False)
class ClassPrediction(Generic[C_co]):
    """The predicted class of a row, with the scores of all classes.

    Attributes:
        label: the class with the highest score: its name, or its id if no labels were given.
        probability: the probability of that class.
        scores: the score of each class before softmax.
        names: the name, or the id, of each class.

    Example:
        >>> prediction = ClassPrediction("yes", 0.75, torch.tensor([0.25, 0.75]).log(), ["no", "yes"])
        >>> [(name, round(probability, 2)) for name, probability in prediction.top(2)]
        [('yes', 0.75), ('no', 0.25)]
    """

    label: C_co
    probability: float
    scores: Float[Tensor, " classes"] = attrs.field(repr=False)
    names: Sequence[C_co] = attrs.field(repr=False)

    def top(self, k: int | None = None) -> list[tuple[C_co, float]]:
        """Return the `k` best classes with their probabilities, the best first; all classes by default.

        Raises:
            OptionError: if `k` is below 1.
        """
        # Sorted by scores: probabilities of different scores may be rounded to the same number.
        return _sort_classes(self.names, self.scores, compute_probabilities(self.scores), k)

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return _reduce(self)


@attrs.frozen(eq=False)
class StepPrediction(ClassPrediction[C_co]):
    """The predicted class of a step, such as a word, with the scores of all classes and its place in the input.

    Attributes:
        step: the number of the step in its row, from 0.
        span: the start and the end of the step in the input, or None if they are not known.
    """

    step: int
    span: Span | None

    @property
    def start(self) -> int:
        """The start of the step in its input.

        For a text it is counted in characters, so that `text[prediction.start : prediction.end]` is the token. A list
        of words counts as one text, `" ".join(words)`. For other inputs it is the number of the step.

        Raises:
            OptionError: if it is not known: offsets were not kept, or a stage before the input stage changed the input.
        """
        return self._get_span()[0]

    @property
    def end(self) -> int:
        """The end of the step in its input; see `start`.

        Raises:
            OptionError: if it is not known.
        """
        return self._get_span()[1]

    def _get_span(self) -> Span:
        if self.span is None:
            msg = (
                "the place of this step in its input is not known; keep offsets with Tokenize(offsets=True), and begin "
                "the pipe with the input stage."
            )
            raise OptionError(msg)
        return self.span


@attrs.frozen(eq=False)
class MultiLabelPrediction(Generic[C_co]):
    """The predicted classes of a row, with the scores of all classes.

    Attributes:
        labels: the classes whose probability reaches their threshold, in the order of the classes.
        scores: the score of each class before the sigmoid.
        names: the name, or the id, of each class.

    Example:
        >>> prediction = MultiLabelPrediction(["spam"], torch.tensor([0.25, 0.75]).logit(), ["new", "spam"])
        >>> prediction.labels, [(name, round(probability, 2)) for name, probability in prediction.top()]
        (['spam'], [('spam', 0.75), ('new', 0.25)])
    """

    labels: Sequence[C_co]
    scores: Float[Tensor, " classes"] = attrs.field(repr=False)
    names: Sequence[C_co] = attrs.field(repr=False)

    def top(self, k: int | None = None) -> list[tuple[C_co, float]]:
        """Return the `k` most probable classes with their probabilities, the best first; all classes by default.

        Raises:
            OptionError: if `k` is below 1.
        """
        return _sort_classes(self.names, self.scores, _widen(self.scores).sigmoid(), k)

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        return _reduce(self)


@attrs.frozen(eq=False)
class JointPrediction(Generic[R_co, P_co]):
    """The predictions of several heads for one row, with their scores.

    Attributes:
        prediction: the joint prediction without scores, as `predict` returns it by default.
        heads: the prediction of each head with its scores, in the order of the heads.
    """

    prediction: R_co
    heads: P_co


def _sort_classes(
    names: Sequence[C_co], scores: Tensor, probabilities: Tensor, k: int | None
) -> list[tuple[C_co, float]]:
    count = len(names) if k is None else check_int("k", k, minimum=1)
    # Stable: of equal scores the first class is the best, as for `argmax`.
    best = to_ints(scores.argsort(descending=True, stable=True)[:count])
    return [(names[index], float(probabilities[index])) for index in best]


def _reduce(prediction: P) -> tuple[type[P], tuple[object, ...]]:
    # The scores are a view, which would be pickled, or deeply copied, with those of the whole batch.
    values: tuple[object, ...] = attrs.astuple(cast("attrs.AttrsInstance", prediction), recurse=False)
    return type(prediction), tuple(copy_if_view(each) if isinstance(each, Tensor) else each for each in values)
