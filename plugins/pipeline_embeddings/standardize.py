"""Bring numbers to mean 0 and deviation 1, by the statistics of the training data."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, TypeAlias, final

import attrs
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline import FromFeatures
from pipeline.errors import ValuesError
from pipeline.extend import Batch, ModuleStage, Spec, Vectors, check_bool
from pipeline_embeddings.features import check_features, check_input_size, check_sizes, map_vectors

Numbers: TypeAlias = Sequence[float] | Sequence[Sequence[float]] | Tensor
"""The numbers of a row: one per step, or several per step."""

_NOTHING: Final = 1e-7
"""A deviation relative to the mean below the resolution of float32."""


@final
class Standardize(ModuleStage[Batch[Vectors], Batch[Vectors]]):
    """Subtract the mean of each feature, and divide by its standard deviation; `from_values` computes both.

    The statistics are saved with the weights and are not trained. A feature that is constant in the training data is
    divided by 1.

    Args:
        input_size: the number of features of a step. Until statistics are loaded, the mean is 0 and the deviation 1.
        log: whether each number x is replaced by sign(x) log(1 + |x|) first, for numbers over several orders of
            magnitude, such as amounts of money and waiting times.
        name: the stage's name in its chain.

    Raises:
        OptionError: if the size is no integer of 1 or more, or `log` is neither True nor False.

    Example:
        >>> standardize = Standardize.from_values([[1.0, 3.0], [5.0]])
        >>> from pipeline import Padded
        >>> batch = Padded(Vectors, torch.tensor([[[3.0], [5.0]]]), torch.tensor([2]))
        >>> standardize(batch).values.flatten().tolist()
        [0.0, 1.2247...]
    """

    stepwise = True
    mean: Tensor
    std: Tensor

    def __init__(self, input_size: int, *, log: bool = False, name: str | None = None) -> None:
        super().__init__()
        check_sizes(input_size=input_size)
        check_bool("log", log)
        self.input_size: Final = input_size
        self.log: Final = log
        self.name = name
        self.register_buffer("mean", torch.zeros(input_size))
        self.register_buffer("std", torch.ones(input_size))

    @classmethod
    def from_values(cls, rows: Iterable[Numbers], *, log: bool = False, name: str | None = None) -> "Standardize":
        """Make the stage for training data, which is read once and not kept.

        Args:
            rows: the numbers of each row, such as a column of the inputs of a source.
            log: as in `Standardize`.
            name: as in `Standardize`.

        Raises:
            ValuesError: if a number is NaN or infinite, or there is no step.
            ShapeError: if rows have different numbers of features, or hold something else than numbers.
        """
        count, mean, squares = 0, torch.zeros(()), torch.zeros(())
        for row in FromFeatures().map(rows):
            values = row.sequence.values.double()
            values = _compress(values) if log else values
            if not len(values):
                continue
            # Chan et al.: the deviations of two parts, joined.
            total = count + len(values)
            difference = values.mean(0) - mean
            squares = squares + values.var(0, correction=0) * len(values)
            squares = squares + difference**2 * (count * len(values) / total)
            mean, count = mean + difference * (len(values) / total), total
        if not count:
            msg = "rows must have a step, got none; pass the numbers of the training data."
            raise ValuesError(msg)
        made = cls(len(mean), log=log, name=name)
        std = (squares / count).sqrt()
        made.mean.copy_(mean)
        # A constant feature has a deviation of rounding errors only.
        made.std.copy_(torch.where(std > _NOTHING * mean.abs(), std, 1.0))
        return made

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        return {"input_size": self.input_size, "log": self.log, "name": self.name}

    @override
    def build(self, spec: Spec, /) -> Spec:
        check_input_size("Standardize", self.input_size, spec)
        return attrs.evolve(spec, size=self.input_size)

    @override
    def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
        """Return the standardized numbers, in the layout of the batch; the padding is zeros.

        Raises:
            ShapeError: if the batch has another number of features.
        """
        check_features("Standardize", self.input_size, value)
        return map_vectors(value, self._standardize)

    def _standardize(self, values: Float[Tensor, "*steps feature"]) -> Float[Tensor, "*steps feature"]:
        return ((_compress(values) if self.log else values) - self.mean) / self.std

    @override
    def extra_repr(self) -> str:
        return f"{self.input_size}, log={self.log}"


def _compress(values: Float[Tensor, "*steps feature"]) -> Float[Tensor, "*steps feature"]:
    return values.sign() * values.abs().log1p()
