"""Embed times: Time2Vec, and the time since the step before."""

from collections.abc import Mapping
from typing import Final, Self, final

import attrs
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline.extend import (
    ON_CPU,
    Batch,
    Memory,
    ModuleStage,
    Packed,
    Spec,
    Stepping,
    Vectors,
    as_pytree,
    derive_vectors,
)
from pipeline_embeddings.features import check_features, check_input_size, check_sizes, map_vectors


@final
class Time2Vec(ModuleStage[Batch[Vectors], Batch[Vectors]]):
    """Embed each time of a step: its first feature is linear in the time, the others are sines of it.

    The frequencies and phases are trained. Times should be of order 1, and differences matter to float32: embed the
    time since the first step or the step before, or put `Standardize` before it.

    Args:
        embedding_dim: the number of features of an embedded time.
        input_size: the number of times per step; their vectors are joined.
        name: the stage's name in its chain.

    Raises:
        OptionError: if a size is below 1.

    Source: Kazemi et al. 2019, "Time2Vec: Learning a Vector Representation of Time", arXiv:1907.05321, equation 1.
    Their initial frequencies and phases are not stated; ours are drawn from a normal distribution of deviation 1.

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Vectors, torch.rand(1, 3, 1), torch.tensor([3]))
        >>> Time2Vec(8)(batch).values.shape
        torch.Size([1, 3, 8])
    """

    stepwise = True

    def __init__(self, embedding_dim: int, *, input_size: int = 1, name: str | None = None) -> None:
        super().__init__()
        check_sizes(embedding_dim=embedding_dim, input_size=input_size)
        self.embedding_dim: Final = embedding_dim
        self.input_size: Final = input_size
        self.name = name
        self.weight: nn.Parameter = nn.Parameter(torch.randn(input_size, embedding_dim))
        self.bias: nn.Parameter = nn.Parameter(torch.randn(input_size, embedding_dim))

    @override
    def build(self, spec: Spec, /) -> Spec:
        check_input_size("Time2Vec", self.input_size, spec)
        return attrs.evolve(spec, size=self.input_size * self.embedding_dim)

    @override
    def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
        """Return the vectors of a batch's times, in its layout; the padding is zeros.

        Raises:
            ShapeError: if the batch has another number of times per step.
        """
        check_features("Time2Vec", self.input_size, value)
        return map_vectors(value, self._embed)

    def _embed(self, times: Float[Tensor, "*steps number"]) -> Float[Tensor, "*steps feature"]:
        lines = times.unsqueeze(-1) * self.weight + self.bias
        return torch.cat([lines[..., :1], lines[..., 1:].sin()], dim=-1).flatten(-2)

    @override
    def extra_repr(self) -> str:
        return f"{self.input_size}, embedding_dim={self.embedding_dim}"


@final
@as_pytree
@attrs.frozen(eq=False)
class LastTimes(Memory):
    """The last times of each row so far.

    Attributes:
        times: the times of the last step; anything for a row without steps.
        seen: whether a row had a step; on the CPU.
    """

    times: Float[Tensor, "batch feature"]
    seen: Bool[Tensor, " batch"] = attrs.field(metadata=ON_CPU)

    @override
    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        times = self.times.index_select(0, rows.to(self.times.device))
        return attrs.evolve(self, times=times, seen=self.seen[rows])


@final
class TimeSinceLast(ModuleStage[Batch[Vectors], Batch[Vectors]], Stepping[Batch[Vectors], Batch[Vectors], LastTimes]):
    """Replace the times of each step by the time since the step before; 0 for the first step of a row.

    The first step of a row that was cut from a longer one, as by `BPTTWindows`, counts as a first step too.

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Vectors, torch.tensor([[[2.0], [5.0], [5.5]]]), torch.tensor([3]))
        >>> TimeSinceLast()(batch).values.flatten().tolist()
        [0.0, 3.0, 0.5]
    """

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    @override
    def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
        """Return the differences, in the layout of the batch; the padding is zeros."""
        if not isinstance(value, Packed) or torch.compiler.is_compiling():
            return self._subtract(value, None)
        order, times = value.order, value.values
        # First steps are the first packed ones.
        first = times.new_zeros(order.nonempty_count, times.shape[1])
        later = times[order.nonempty_count :] - times.index_select(0, order.previous_steps)
        return derive_vectors(torch.cat([first, later]), value, value.initial_carry)

    @override
    def step(self, value: Batch[Vectors], memory: LastTimes | None, /) -> tuple[Batch[Vectors], LastTimes]:
        """Return the differences of the next steps of each row, the first to the last step before."""
        rows = value.padded().fill_padding(0)
        shape = (rows.values.shape[0], rows.values.shape[2])
        before = rows.values.new_zeros(shape) if memory is None else memory.times
        # Before the steps, so that a row without any keeps its last times.
        last = rows.order.lengths_on_device.reshape(-1, 1, 1).expand(-1, 1, shape[1])
        times = torch.cat([before.unsqueeze(1), rows.values], dim=1).gather(1, last).squeeze(1)
        seen = rows.lengths > 0 if memory is None else (rows.lengths > 0) | memory.seen
        return self._subtract(value, memory), LastTimes(times, seen)

    @staticmethod
    def _subtract(value: Batch[Vectors], memory: LastTimes | None) -> Batch[Vectors]:
        """Return the differences, of which the first are to the times of a memory."""
        rows = value.padded().fill_padding(0)
        first = rows.values[:, :1]
        if memory is not None:
            seen = memory.seen.to(first.device).reshape(-1, 1, 1)
            first = memory.times.unsqueeze(1).where(seen, first)
        differences = rows.values - torch.cat([first, rows.values], dim=1)[:, : rows.values.shape[1]]
        result = derive_vectors(differences, rows, rows.initial_carry)
        if isinstance(value, Packed):
            return result.packed()
        return result.padded().fill_padding(0)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again: none."""
        return {}
