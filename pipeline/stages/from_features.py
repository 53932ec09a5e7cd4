"""Sequences of features: sound, sensors, anything measured."""

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline.checks.shapes import described
from pipeline.data.order import ints
from pipeline.data.rows import Example, Row, Vectors
from pipeline.errors import ShapeError, ValuesError
from pipeline.stages.input_stage import InputStage


@final
class FromFeatures(InputStage[Tensor, Vectors]):
    """Tensors of time x feature in, rows of vectors out.

    Example:
        >>> import torch
        >>> [len(row) for row in FromFeatures().map([torch.ones(3, 12), torch.ones(0, 12)])]
        [3, 0]
    """

    @override
    def rows(self, examples: Sequence[Example[Tensor]], places: Sequence[int]) -> list[Row[Vectors]]:
        """The rows of some examples.

        Raises:
            ShapeError: if an input is no floating-point tensor of time x feature.
            ValuesError: if a feature is NaN or infinite.
        """
        return [
            Row(Vectors(_frames(example.input, place)), example.target, place)
            for example, place in zip(examples, places, strict=True)
        ]


def _frames(value: object, place: int) -> Float[Tensor, "time feature"]:
    if not isinstance(value, Tensor) or value.ndim != 2 or not value.is_floating_point():
        msg = (
            f"row {place} must be a floating-point tensor of time x feature, but {described(value)} arrived; "
            "numbered tokens go to FromIds, text to Tokenize."
        )
        raise ShapeError(msg, row=place)
    if not value.isfinite().all():
        step, feature = ints((~value.isfinite()).nonzero()[0])
        msg = (
            f"row {place}, step {step}, feature {feature} is {value[step, feature].item()}, but features must be "
            "finite; fill the gap, or cut the row there."
        )
        raise ValuesError(msg, row=place, step=step, feature=feature)
    return value
