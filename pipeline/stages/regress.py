"""Predict a number, or several, for each row."""

from collections.abc import Mapping
from typing import cast, final, overload

from typing_extensions import TypeVar, Unpack, override

from pipeline.checks.options import check_int
from pipeline.core.stage import ModuleStage
from pipeline.data.states import Pooled
from pipeline.data.values import Values
from pipeline.stages.heads import Head, HeadOptions

V = TypeVar("V", default=float)


@final
class Regress(Head, ModuleStage[Pooled, Values[V]]):
    """Predict a number for each row, or a vector of numbers: regression.

    Targets are numbers: `Pad(targets=Numbers())`, or `Numbers(size)` for vectors.

    Args:
        size: the number of numbers per row; None for a single number.
        input_size: the number of features of a row's vector; by default that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if the size is below 1.

    Example:
        >>> import torch
        >>> values = Regress(input_size=3)(Pooled(torch.ones(2, 3)))
        >>> values.values.shape, [type(value).__name__ for _, value in values.rows()]
        (torch.Size([2]), ['float', 'float'])
    """

    @overload
    def __init__(self: "Regress[float]", size: None = None, **options: Unpack[HeadOptions]) -> None: ...
    @overload
    def __init__(self: "Regress[list[float]]", size: int, **options: Unpack[HeadOptions]) -> None: ...
    def __init__(self, size: int | None = None, *, input_size: int | None = None, name: str | None = None) -> None:
        super().__init__(1 if size is None else check_int("size", size, minimum=1), input_size, name)
        self.size = size

    @override
    def get_config(self) -> Mapping[str, object]:
        return {**super().get_config(), "size": self.size}

    @override
    def forward(self, value: Pooled) -> Values[V]:
        """Return the numbers of a batch of rows.

        Raises:
            CompositionError: if the input size is not known yet.
            ShapeError: if the vectors have another size than the input size.
        """
        found = self.compute_outputs(value.values)
        return cast("Values[V]", Values(found.squeeze(1) if self.size is None else found, metadata=value.metadata))
