"""Add the positions of steps to their vectors: sinusoids or learned vectors."""

import math
from collections.abc import Mapping
from typing import Final, Literal, Self, TypeAlias, cast, final, get_args

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from pipeline.errors import LengthError
from pipeline.extend import (
    ON_CPU,
    Batch,
    CompositionError,
    Memory,
    ModuleStage,
    OptionError,
    Padded,
    ShapeError,
    Spec,
    Stepping,
    Vectors,
    as_pytree,
    check_optional_int,
    derive_vectors,
)

PositionKind: TypeAlias = Literal["sinusoidal", "learned"]

_LONGEST_WAVE: Final = 10_000.0
"""The base of the wavelengths, which grow from 2 pi to this number times 2 pi."""


@final
@as_pytree
@attrs.frozen(eq=False)
class StepCounts(Memory):
    """The number of steps of each row so far.

    Attributes:
        counts: the numbers; on the CPU.
    """

    counts: Int64[Tensor, " batch"] = attrs.field(metadata=ON_CPU)

    @override
    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        return attrs.evolve(self, counts=self.counts[rows])


@final
class Positions(ModuleStage[Batch[Vectors], Batch[Vectors]], Stepping[Batch[Vectors], Batch[Vectors], StepCounts]):
    """Add a vector to each step that depends on its position in its row, for encoders that do not know the order.

    The first step of a row has position 0. Rows that were cut from longer ones, as by `BPTTWindows`, continue to count
    where the part before ended.

    Args:
        kind: `sinusoidal` adds sines and cosines, which need no training and no longest length. `learned` adds one
            trained vector per position; they start from a normal distribution with a deviation of 0.02.
        max_length: the number of learned vectors, which is the length of the longest possible row.
        input_size: the number of features of a step, for learned vectors. By default it is that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if `kind` is neither of both, or an option does not belong to it.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.5 (`sinusoidal`; they multiply
    embeddings by the square root of their size before, which `Embed(std=...)` may do here); Gehring et al. 2017,
    "Convolutional Sequence to Sequence Learning", arXiv:1705.03122, section 3.1 (`learned`).

    Example:
        >>> batch = Padded(Vectors, torch.zeros(1, 2, 4), torch.tensor([2]))
        >>> Positions()(batch).values[0, 0].tolist()
        [0.0, 1.0, 0.0, 1.0]
    """

    def __init__(
        self,
        kind: PositionKind = "sinusoidal",
        *,
        max_length: int | None = None,
        input_size: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        if kind not in get_args(PositionKind):
            msg = f"kind must be one of {', '.join(get_args(PositionKind))}, got {cast('object', kind)!r}."
            raise OptionError(msg, kind=kind)
        if (max_length is None) != (kind == "sinusoidal"):
            msg = f"max_length must be 1 or more for kind='learned', and is for it only, got {max_length} for {kind!r}."
            raise OptionError(msg, max_length=max_length)
        check_optional_int("max_length", max_length, minimum=1)
        check_optional_int("input_size", input_size, minimum=1, advice="pass the number of features of a step")
        self.kind: Final[PositionKind] = kind
        self.max_length: Final = max_length
        self.input_size = input_size
        self.name = name
        self.weight: nn.Parameter | None = None
        if input_size is not None:
            self._make_weight(input_size)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        return {"kind": self.kind, "max_length": self.max_length, "input_size": self.input_size, "name": self.name}

    @override
    def build(self, spec: Spec, /) -> Spec:
        if self.kind == "learned" and self.input_size is None and spec.size is not None:
            self._make_weight(spec.size)
        if None not in (self.input_size, spec.size) and spec.size != self.input_size:
            msg = (
                f"the input has size {spec.size} along 'feature', but Positions has size {self.input_size}; "
                "make them equal."
            )
            raise CompositionError(msg, axis="feature", size=spec.size)
        return spec

    @override
    def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
        """Return the batch with positions added, in its layout; the padding is zeros.

        Raises:
            ShapeError: if the batch has another number of features.
            LengthError: if a row is longer than `max_length`.
            CompositionError: if the number of features of learned vectors is not known yet.
        """
        return self._add(value, value.metadata.start_steps)

    @override
    def step(self, value: Batch[Vectors], memory: StepCounts | None, /) -> tuple[Batch[Vectors], StepCounts]:
        """Return the next steps of each row with their positions added."""
        if memory is not None:
            counts = memory.counts
        elif value.metadata.start_steps is not None:
            counts = value.metadata.start_steps
        else:
            counts = torch.zeros_like(value.lengths)
        return self._add(value, counts), StepCounts(counts + value.lengths)

    def _make_weight(self, size: int) -> None:
        self.input_size = size
        if self.max_length is not None:
            self.weight = nn.Parameter(torch.empty(self.max_length, size))
            nn.init.normal_(self.weight, std=0.02)

    def _add(self, value: Batch[Vectors], starts: Int64[Tensor, " batch"] | None) -> Batch[Vectors]:
        size = value.values.shape[-1]
        if self.input_size not in (None, size):
            msg = f"Positions has size {self.input_size}, got vectors of {size} features; make them equal."
            raise ShapeError(msg, size=size)
        if self.kind == "learned" and not torch.compiler.is_compiling():
            self._check_lengths(value, starts)
        batch = value.fill_padding(0) if isinstance(value, Padded) else value
        added = self._encode(batch, starts).to(batch.values.dtype)
        result = derive_vectors(batch.values + added, batch, batch.initial_carry)
        return result.fill_padding(0) if isinstance(result, Padded) else result

    def _encode(self, batch: Batch[Vectors], starts: Int64[Tensor, " batch"] | None) -> Float[Tensor, "*steps feature"]:
        """Return the vectors to add: one per position of a rectangle, or per packed step."""
        device = batch.values.device
        times = torch.arange(batch.width, device=device)
        if starts is None:
            # Every row has the same positions: each vector is computed once.
            table = self._look_up(times, batch.values)
            return table if isinstance(batch, Padded) else table.index_select(0, self._locate(batch)[1])
        first = starts.to(device, non_blocking=True)
        if isinstance(batch, Padded):
            return self._look_up(first.unsqueeze(1) + times, batch.values)
        row, time = self._locate(batch)
        return self._look_up(first[row] + time, batch.values)

    @staticmethod
    def _locate(batch: Batch[Vectors]) -> Int64[Tensor, "2 steps"]:
        return batch.order.locate_steps(batch.values)

    def _look_up(self, positions: Int64[Tensor, "*steps"], like: Tensor) -> Float[Tensor, "*steps feature"]:
        if self.kind == "sinusoidal":
            return compute_sinusoids(positions, like.shape[-1])
        if self.weight is None:
            msg = "the number of features of Positions is not known; join it after a stage with a size, or pass it."
            raise CompositionError(msg)
        # Positions past the last are those of padding.
        return nn.functional.embedding(positions.clamp(max=self.weight.shape[0] - 1), self.weight)

    def _check_lengths(self, value: Batch[Vectors], starts: Int64[Tensor, " batch"] | None) -> None:
        ends = value.lengths if starts is None else torch.where(value.lengths > 0, value.lengths + starts, 0)
        if self.max_length is not None and len(ends) and int(ends.max()) > self.max_length:
            index = int(ends.argmax())
            row, length = int(value.metadata.row_ids[index]), int(ends[index])
            msg = (
                f"row {row} has {length} steps, but Positions has learned vectors for {self.max_length}; raise "
                "max_length, truncate rows, or use kind='sinusoidal'."
            )
            raise LengthError(msg, row=row, length=length)

    @override
    def extra_repr(self) -> str:
        return self.kind if self.max_length is None else f"{self.kind}, max_length={self.max_length}"


def compute_sinusoids(positions: Int64[Tensor, "*steps"], size: int) -> Float[Tensor, "*steps feature"]:
    """Return sin(p / 10000^(2i / size)) as feature 2i of position p, and its cosine as feature 2i + 1; in float64.

    Example:
        >>> compute_sinusoids(torch.tensor([0, 1]), 3)[:, 0].tolist() == [0.0, math.sin(1)]
        True
    """
    # In float32 an angle of a million would be off by 0.06.
    even = torch.arange(0, size, 2, device=positions.device, dtype=torch.float64)
    angles = positions.unsqueeze(-1).double() * torch.exp(even * (-math.log(_LONGEST_WAVE) / size))
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-2)[..., :size]
