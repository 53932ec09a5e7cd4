"""Vectors to scores: a class a row, a class a step, or the next token."""

from collections.abc import Sequence
from typing import cast, final, overload

import attrs
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.core.stage import ModuleStage, Spec, StageBase
from pipeline.data.scores import N, Scores, StepScores
from pipeline.data.states import Causal, MaybeCausal, Pooled, States
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.labels import Labels, Numbered
from pipeline.parts.capabilities import Layout
from pipeline.stages.embed import Embed


class _Head(nn.Module, StageBase):
    """What every head is: a linear layer, made once its input size is known."""

    linear: nn.Linear | None

    def __init__(self, classes: int | Labels, input_size: int | None, name: str | None) -> None:
        super().__init__()
        self.name = name
        self.names: Numbered | Labels = Numbered(classes) if isinstance(classes, int) else classes
        self.classes: int = len(self.names)
        if self.classes < 1:
            msg = f"{type(self).__name__} needs 1 class or more, but {classes} arrived."
            raise OptionError(msg, classes=classes)
        self.linear = None if input_size is None else nn.Linear(input_size, self.classes)

    @property
    def is_lazy(self) -> bool:
        """Whether the layer is not made yet, for want of its input size."""
        return self.linear is None

    @override
    def build(self, spec: Spec, /) -> Spec:
        if self.linear is None and spec.size is not None:
            self.linear = nn.Linear(spec.size, self.classes)
        if self.linear is not None and spec.size not in (None, self.linear.in_features):
            msg = (
                f"vectors of {spec.size} come in, but {type(self).__name__} reads "
                f"input_size={self.linear.in_features} along the axis 'hidden'; leave it out, or make the two equal."
            )
            raise CompositionError(msg, axis="hidden", size=spec.size, input_size=self.linear.in_features)
        return Spec()

    def scored(self, values: Float[Tensor, "item hidden"]) -> Float[Tensor, "item classes"]:
        """A score a class for every vector."""
        if self.linear is None:
            msg = (
                f"{type(self).__name__} does not know its input size yet; join it behind the stage whose vectors "
                f"it scores, or say it: {type(self).__name__}({self.classes}, input_size={values.shape[1]})."
            )
            raise CompositionError(msg)
        if values.shape[1] != self.linear.in_features:
            msg = f"{type(self).__name__} reads vectors of {self.linear.in_features}, but {values.shape[1]} arrived."
            raise ShapeError(msg, size=values.shape[1], input_size=self.linear.in_features)
        scores: Tensor = self.linear(values)
        return scores


@final
class Classify(_Head, ModuleStage[Pooled, Scores[N]]):
    """A score a class for every row.

    Args:
        classes: how many classes there are, or the labels, for answers in names.
        input_size: how many features a row's vector has; learned from the stage before if left out.
        name: what the stage is called in its chain.

    Raises:
        OptionError: if there is no class.

    Example:
        >>> import torch
        >>> scores = Classify(Labels(["ham", "spam"]), input_size=3)(Pooled(torch.ones(1, 3)))
        >>> scores.values.shape, [name in ("ham", "spam") for _, name in scores.rows()]
        (torch.Size([1, 2]), [True])
    """

    @overload
    def __init__(
        self: "Classify[int]", classes: int, *, input_size: int | None = None, name: str | None = None
    ) -> None: ...
    @overload
    def __init__(
        self: "Classify[str]", classes: Labels, *, input_size: int | None = None, name: str | None = None
    ) -> None: ...
    def __init__(self, classes: int | Labels, *, input_size: int | None = None, name: str | None = None) -> None:
        super().__init__(classes, input_size, name)

    @override
    def forward(self, value: Pooled) -> Scores[N]:
        """The scores of a batch of rows.

        Raises:
            CompositionError: if the head still waits for its input size.
            ShapeError: if the vectors are of another size than it reads.
        """
        return Scores(self.scored(value.values), cast("Sequence[N]", self.names), metadata=value.metadata)


@final
class Tag(_Head, ModuleStage[States[MaybeCausal], StepScores[N]]):
    """A score a class for every real step.

    Args:
        classes: how many classes there are, or the labels, for answers in names.
        input_size: how many features a step's vector has; learned from the stage before if left out.
        name: what the stage is called in its chain.

    Raises:
        OptionError: if there is no class.

    Example:
        >>> import torch
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> [len(tags) for _, tags in Tag(5, input_size=4)(states).rows()]
        [3, 1]
    """

    layouts: tuple[Layout, ...] = ("packed",)
    """Which states it reads as they come; of others it makes a copy first."""

    @overload
    def __init__(self: "Tag[int]", classes: int, *, input_size: int | None = None, name: str | None = None) -> None: ...
    @overload
    def __init__(
        self: "Tag[str]", classes: Labels, *, input_size: int | None = None, name: str | None = None
    ) -> None: ...
    def __init__(self, classes: int | Labels, *, input_size: int | None = None, name: str | None = None) -> None:
        super().__init__(classes, input_size, name)

    @override
    def forward(self, value: States[MaybeCausal]) -> StepScores[N]:
        """The scores of a batch's steps.

        Raises:
            CompositionError: if the head still waits for its input size.
            ShapeError: if the states are of another size than it reads.
        """
        steps = value.packed()
        return StepScores(
            self.scored(steps.values),
            steps.lengths,
            cast("Sequence[N]", self.names),
            metadata=steps.metadata,
            order=steps.order,
        )


@final
class NextToken(_Head, ModuleStage[States[Causal], StepScores[int]]):
    """A score a token for what follows every real step. Takes states alone that have not seen it.

    Args:
        tokens: how many tokens there are, or the embedding whose weights to share (tied weights).
        input_size: how many features a step's vector has; learned from the stage before if left out.
        name: what the stage is called in its chain.

    Raises:
        OptionError: if there is no token.

    Source: Press and Wolf 2017, "Using the Output Embedding to Improve Language Models", arXiv:1608.05859
    (tied weights); here with a bias.

    Example:
        >>> embed = Embed(9, 4)
        >>> NextToken(embed).linear.weight is embed.weight
        True
    """

    layouts: tuple[Layout, ...] = ("packed",)
    """Which states it reads as they come; of others it makes a copy first."""

    def __init__(self, tokens: int | Embed, *, input_size: int | None = None, name: str | None = None) -> None:
        if isinstance(tokens, int):
            super().__init__(tokens, input_size, name)
            return
        size = tokens.weight.shape[1]
        if input_size not in (None, size):
            msg = f"input_size is {input_size}, but the tied embedding has vectors of {size}; leave it out."
            raise OptionError(msg, input_size=input_size, size=size)
        super().__init__(len(tokens.weight), size, name)
        assert self.linear is not None
        self.linear.weight = tokens.weight

    @override
    def build(self, spec: Spec, /) -> Spec:
        if spec.causal is False:
            msg = (
                "the states that come in have seen the future, so the next token is no secret to them; "
                "encode in one direction, and attend with AttendEarlier."
            )
            raise CompositionError(msg)
        return super().build(spec)

    @override
    def forward(self, value: States[Causal]) -> StepScores[int]:
        """The scores of what follows each of a batch's steps.

        Raises:
            CompositionError: if the head still waits for its input size.
            ShapeError: if the states are of another size than it reads.
        """
        # Every step is asked for, bos too: its answer is the first token.
        steps = value.packed()
        metadata = attrs.evolve(steps.metadata, answer_mask=None)
        return StepScores(
            self.scored(steps.values),
            steps.lengths,
            cast("Sequence[int]", self.names),
            metadata=metadata,
            order=steps.order,
        )
