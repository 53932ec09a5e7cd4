"""Vectors as they are, where a stage is asked for."""

from typing import Final, final

import attrs
from typing_extensions import override

from pipeline.checks.options import check_int
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Batch
from pipeline.data.kinds import Vectors
from pipeline.errors import CompositionError, ShapeError


@final
class Identity(ModuleStage[Batch[Vectors], Batch[Vectors]]):
    """Return vectors as they are, for a field or a branch that needs no stage of its own; like `nn.Identity`.

    Args:
        size: the number of features, if no stage before determines it, as for a field of numbers.

    Raises:
        OptionError: if the size is below 1.

    Example:
        >>> import torch
        >>> from pipeline import Padded
        >>> batch = Padded(Vectors, torch.ones(1, 2, 3), torch.tensor([2]))
        >>> Identity()(batch) is batch
        True
    """

    stepwise = True

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size: Final = None if size is None else check_int("size", size, minimum=1)

    @override
    def build(self, spec: Spec, /) -> Spec:
        if None not in (self.size, spec.size) and spec.size != self.size:
            msg = f"the input has size {spec.size} along 'feature', but Identity has size {self.size}; make them equal."
            raise CompositionError(msg, axis="feature", size=spec.size)
        return spec if self.size is None else attrs.evolve(spec, size=self.size)

    @override
    def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
        """Return the batch.

        Raises:
            ShapeError: if it has another number of features.
        """
        if self.size is not None and value.values.shape[-1] != self.size:
            msg = f"Identity has size {self.size}, got vectors of {value.values.shape[-1]} features; make them equal."
            raise ShapeError(msg, size=value.values.shape[-1])
        return value
