"""Heads: scores from vectors, one per class and row, one per class and step, or one per next token and step."""

from collections.abc import Mapping, Sequence
from typing import TypedDict, cast, final, overload

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import Unpack, override

from pipeline.checks.options import check_optional_int
from pipeline.core.stage import ModuleStage, Spec, StageBase
from pipeline.data.batches import Batch, Layout, Padded
from pipeline.data.kinds import Hidden
from pipeline.data.rectangles import keeps_rectangles
from pipeline.data.scores import N, Scores, StepScores
from pipeline.data.states import Causal, MaybeCausal, Pooled, States
from pipeline.errors import CompositionError, OptionError, SaveError, ShapeError
from pipeline.labels import ClassIds, Labels, check_labels
from pipeline.stages.embed import Embed


class HeadOptions(TypedDict, total=False):
    """The options of every head: its input size, by default that of the stage before, and its name in the chain."""

    input_size: int | None
    name: str | None


def make_names(classes: int | Labels, head: str) -> ClassIds | Labels:
    """Return the classes of a head as a sequence.

    Raises:
        OptionError: if they are missing, or neither a number nor labels.
    """
    if not isinstance(classes, int) or isinstance(classes, bool):
        check_labels("classes", classes, f"a number of classes or Labels for {head}")
    names = ClassIds(classes) if isinstance(classes, int) else classes
    if len(names) < 1:
        msg = f"{head} needs 1 class or more, got {classes}; pass the number of classes, or labels."
        raise OptionError(msg, classes=classes)
    return names


class Head(nn.Module, StageBase):
    """The base class of heads: a linear layer, made once its input size is known.

    Args:
        output_size: the number of outputs.
        input_size: the number of features; None for that of the stage before.
        name: the stage's name in its chain.
    """

    linear: nn.Linear | None

    def __init__(self, output_size: int, input_size: int | None, name: str | None) -> None:
        super().__init__()
        check_optional_int("input_size", input_size, minimum=1)
        self.name = name
        self.output_size = output_size
        self.linear = None if input_size is None else nn.Linear(input_size, output_size)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments that all heads have, for `get_config` of each.

        Raises:
            SaveError: if the input size is not known yet.
        """
        if self.linear is None:
            msg = f"{type(self).__name__} does not know its input size yet; join it after the stage before it."
            raise SaveError(msg)
        return {"input_size": self.linear.in_features, "name": self.name}

    @property
    def is_lazy(self) -> bool:
        """True if the layer is not made yet, because its input size is not known."""
        return self.linear is None

    @override
    def build(self, spec: Spec, /) -> Spec:
        if self.linear is None:
            spec.reject_unsized(type(self).__name__)
        if self.linear is None and spec.size is not None:
            self.linear = nn.Linear(spec.size, self.output_size)
        if self.linear is not None and spec.size not in (None, self.linear.in_features):
            msg = (
                f"the input has size {spec.size} along the axis 'hidden', but {type(self).__name__} has "
                f"input_size={self.linear.in_features}; leave input_size out, or make the two equal."
            )
            raise CompositionError(msg, axis="hidden", size=spec.size, input_size=self.linear.in_features)
        return Spec()

    def compute_outputs(self, values: Float[Tensor, "*item hidden"]) -> Float[Tensor, "*item output"]:
        """Return the outputs of the linear layer.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the vectors have another size than the input size.
        """
        name = type(self).__name__
        if self.linear is None:
            msg = (
                f"{name} does not know its input size yet; join it after the stage whose vectors it scores, or pass "
                f"it: {name}(..., input_size={values.shape[1]})."
            )
            raise CompositionError(msg)
        if values.shape[-1] != self.linear.in_features:
            size = self.linear.in_features
            msg = f"{name} has input_size={size}, got vectors of {values.shape[-1]} features; make the two equal."
            raise ShapeError(msg, size=values.shape[-1], input_size=size)
        scores: Tensor = self.linear(values)
        return scores


class ClassHead(Head):
    """The base class of heads with one output per class.

    Args:
        classes: the number of classes, or the labels.
        input_size: the number of features; None for that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no classes.
    """

    def __init__(self, classes: int | Labels, input_size: int | None, name: str | None) -> None:
        names = make_names(classes, type(self).__name__)
        super().__init__(len(names), input_size, name)
        self.names: ClassIds | Labels = names
        self.classes: int = len(names)

    @override
    def get_config(self) -> Mapping[str, object]:
        return {**super().get_config(), "classes": self.names if isinstance(self.names, Labels) else self.classes}

    def score_states(self, states: States[MaybeCausal]) -> tuple[Batch[Hidden], Float[Tensor, "*step classes"]]:
        """Return the steps packed, and their scores; in a graph whose rows stay padded, both padded with zeros."""
        steps = get_scored_steps(states)
        scores = self.compute_outputs(steps.values)
        return steps, scores.masked_fill(~steps.mask.unsqueeze(-1), 0) if isinstance(steps, Padded) else scores


def get_scored_steps(value: States[MaybeCausal]) -> Batch[Hidden]:
    """Return the steps for a head to score: packed; in a graph whose rows stay padded, padded."""
    return value.padded() if keeps_rectangles() else value.packed()


@final
class Classify(ClassHead, ModuleStage[Pooled, Scores[N]]):
    """Score every class for each row.

    Args:
        classes: the number of classes, or the labels; with labels, predictions are class names.
        input_size: the number of features of a row's vector; by default that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no classes.

    Example:
        >>> import torch
        >>> scores = Classify(Labels(["ham", "spam"]), input_size=3)(Pooled(torch.ones(1, 3)))
        >>> scores.values.shape, [name in ("ham", "spam") for _, name in scores.rows()]
        (torch.Size([1, 2]), [True])
    """

    @overload
    def __init__(self: "Classify[int]", classes: int, **options: Unpack[HeadOptions]) -> None: ...
    @overload
    def __init__(self: "Classify[str]", classes: Labels, **options: Unpack[HeadOptions]) -> None: ...
    def __init__(self, classes: int | Labels, *, input_size: int | None = None, name: str | None = None) -> None:
        super().__init__(classes, input_size, name)

    @override
    def forward(self, value: Pooled) -> Scores[N]:
        """Return the scores of a batch of rows.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the vectors have another size than the input size.
        """
        return Scores(self.compute_outputs(value.values), cast("Sequence[N]", self.names), metadata=value.metadata)


@final
class Tag(ClassHead, ModuleStage[States[MaybeCausal], StepScores[N]]):
    """Score every class for each real step.

    Args:
        classes: the number of classes, or the labels; with labels, predictions are class names.
        input_size: the number of features of a step's vector; by default that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no classes.

    Example:
        >>> import torch
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> [len(tags) for _, tags in Tag(5, input_size=4)(states).rows()]
        [3, 1]
    """

    stepwise = True

    layouts: tuple[Layout, ...] = ("packed",)
    """The layouts that it reads without a copy."""

    @overload
    def __init__(self: "Tag[int]", classes: int, **options: Unpack[HeadOptions]) -> None: ...
    @overload
    def __init__(self: "Tag[str]", classes: Labels, **options: Unpack[HeadOptions]) -> None: ...
    def __init__(self, classes: int | Labels, *, input_size: int | None = None, name: str | None = None) -> None:
        super().__init__(classes, input_size, name)

    @override
    def forward(self, value: States[MaybeCausal]) -> StepScores[N]:
        """Return the scores of a batch's steps.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the states have another size than the input size.
        """
        steps, scores = self.score_states(value)
        return StepScores(
            scores,
            steps.lengths,
            cast("Sequence[N]", self.names),
            metadata=steps.metadata,
            order=steps.order,
        )


@final
class NextToken(ClassHead, ModuleStage[States[Causal], StepScores[int]]):
    """Score every token as the successor of each real step. Takes causal states only.

    Args:
        tokens: the number of tokens, or the embedding whose weights to share (tied weights).
        input_size: the number of features of a step's vector; by default that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no tokens, or `input_size` differs from the size of a tied embedding.

    Source: Press and Wolf 2017, "Using the Output Embedding to Improve Language Models", arXiv:1608.05859
    (tied weights); here with a bias.

    Example:
        >>> embed = Embed(9, 4)
        >>> NextToken(embed).linear.weight is embed.weight
        True
    """

    stepwise = True

    every_step = True
    """Steps that need no prediction, such as bos, have one too."""

    layouts: tuple[Layout, ...] = ("packed",)
    """The layouts that it reads without a copy."""

    def __init__(self, tokens: int | Embed, *, input_size: int | None = None, name: str | None = None) -> None:
        if isinstance(tokens, int):
            super().__init__(tokens, input_size, name)
            return
        if not isinstance(cast("object", tokens), Embed):
            msg = f"tokens must be the number of tokens, or the Embed whose weights to share, got {tokens!r:.200}."
            raise OptionError(msg, tokens=tokens)
        size = tokens.weight.shape[1]
        if input_size not in (None, size):
            msg = f"input_size must be {size}, the size of the tied embedding, got {input_size}; leave it out."
            raise OptionError(msg, input_size=input_size, size=size)
        super().__init__(len(tokens.weight), size, name)
        assert self.linear is not None
        self.linear.weight = tokens.weight

    @override
    def get_config(self) -> Mapping[str, object]:
        # Tied weights need no option: whatever shares a tensor when it is saved shares it when it is loaded.
        return {**Head.get_config(self), "tokens": self.classes}

    @override
    def build(self, spec: Spec, /) -> Spec:
        if spec.causal is False:
            msg = (
                "the input of NextToken must be causal states, but these depend on later steps, which contain the next "
                "token; choose a causal encoder, and attend with AttendEarlier."
            )
            raise CompositionError(msg)
        return super().build(spec)

    @override
    def forward(self, value: States[Causal]) -> StepScores[int]:
        """Return the scores of the token after each step.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the states have another size than the input size.
        """
        # All steps have a prediction, bos too: its prediction is the first token.
        steps, scores = self.score_states(value)
        mask = steps.metadata.answer_mask
        metadata = attrs.evolve(steps.metadata, answer_mask=None if mask is None else torch.ones_like(mask))
        return StepScores(
            scores,
            steps.lengths,
            cast("Sequence[int]", self.names),
            metadata=metadata,
            order=steps.order,
        )
