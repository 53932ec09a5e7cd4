"""Predict several classes for each row."""

from collections.abc import Mapping, Sequence
from typing import SupportsFloat, cast, final, overload

import torch
from torch import Tensor
from typing_extensions import Unpack, override

from pipeline.checks.hints import describe
from pipeline.core.stage import ModuleStage
from pipeline.data.scores import N
from pipeline.data.states import Pooled
from pipeline.data.values import MultiLabelScores
from pipeline.errors import OptionError
from pipeline.labels import ClassIds, Labels
from pipeline.stages.heads import Head, HeadOptions, make_names
from pipeline.text import suggest_name


@final
class ClassifyMultiLabel(Head, ModuleStage[Pooled, MultiLabelScores[N]]):
    """Score every class for each row, where a row may have several classes or none.

    Targets are sets of class names: `Pad(targets=MultiLabels(labels))`.

    Args:
        classes: the number of classes, or the labels; with labels, predictions are class names.
        threshold: the probability from which a class is predicted; with labels also one for each class by name, where
            classes that are left out have 0.5.
        input_size: the number of features of a row's vector; by default that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if there are no classes, or a threshold is not between 0 and 1 or is for no class.

    Example:
        >>> head = ClassifyMultiLabel(Labels(["new", "spam"]), {"spam": 0.9}, input_size=3)
        >>> head(Pooled(torch.ones(2, 3))).values.shape
        torch.Size([2, 2])
    """

    thresholds: Tensor

    @overload
    def __init__(
        self: "ClassifyMultiLabel[int]", classes: int, threshold: float = 0.5, **options: Unpack[HeadOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: "ClassifyMultiLabel[str]",
        classes: Labels,
        threshold: float | Mapping[str, float] = 0.5,
        **options: Unpack[HeadOptions],
    ) -> None: ...
    def __init__(
        self,
        classes: int | Labels,
        threshold: float | Mapping[str, float] = 0.5,
        *,
        input_size: int | None = None,
        name: str | None = None,
    ) -> None:
        names = make_names(classes, type(self).__name__)
        super().__init__(len(names), input_size, name)
        self.names: ClassIds | Labels = names
        self.register_buffer("thresholds", torch.tensor(_list_thresholds(names, threshold)), persistent=False)

    @override
    def get_config(self) -> Mapping[str, object]:
        # Thresholds are a buffer, which is saved with the weights.
        classes = self.names if isinstance(self.names, Labels) else len(self.names)
        return {**super().get_config(), "classes": classes}

    @override
    def forward(self, value: Pooled) -> MultiLabelScores[N]:
        """Return the scores of a batch of rows.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the vectors have another size than the input size.
        """
        scores = self.compute_outputs(value.values)
        names = cast("Sequence[N]", self.names)
        return MultiLabelScores(scores, names, self.thresholds.to(scores.device), metadata=value.metadata)


def _list_thresholds(names: Sequence[object], threshold: float | Mapping[str, float]) -> list[float]:
    given = cast("object", threshold)
    if not isinstance(given, int | float | Mapping):
        msg = f"threshold must be a number, or a mapping from class names to numbers, got {describe(given)}."
        raise OptionError(msg, threshold=threshold)
    named = {str(name): threshold for name in names} if isinstance(threshold, int | float) else threshold
    known = set(map(str, names))
    for name in named:
        if name not in known:
            msg = f"threshold names {name!r}, which is not a class; use the names of the labels."
            raise OptionError(msg + suggest_name(name, [str(each) for each in names]), name=name)
    for value in named.values():
        if not isinstance(cast("object", value), SupportsFloat) or not 0 <= float(value) <= 1:
            msg = f"threshold must be a probability between 0 and 1, got {value!r}."
            raise OptionError(msg, threshold=value)
    return [float(named.get(str(name), 0.5)) for name in names]
