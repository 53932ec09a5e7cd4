"""How each kind of part is run: from a batch to one tensor a row, whatever the part."""

from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias, TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pipeline.checks.shapes import described
from pipeline.data.batches import Batch, Packed, Padded
from pipeline.data.order import ints
from pipeline.data.rows import Hidden, Vectors
from pipeline.data.states import MaybeCausal, Pooled, States
from pipeline.errors import OptionError
from pipeline.functional.segments import sum_by_row
from pipeline.laws.law import FaultError
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling

Part: TypeAlias = Callable[[Padded[Vectors]], Sequence[Tensor]]
"""A part as `equals_oracle` takes it: a padded batch to one result a row, of any shape."""

_DEFAULT_SIZE: Final = 3


class PlainModule(nn.Module):
    """A module of one's own as a part: called as `module(values, lengths)`, it gives a tensor.

    Args:
        module: takes values, batch x time x feature, and lengths, int64 on the CPU.
        input_size: how many features it reads a step.
        each: whether it gives something for each step (batch x time x anything) or for each row (batch x anything);
            if left out, a result of three axes or more whose second is as long as the input's is for each step.
        causal: whether step t of what it gives depends on steps up to t alone.
        empty_rows: whether a row may have no steps.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` take it.

    Raises:
        OptionError: if it should be causal, and gives something for each row.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        input_size: int,
        each: Literal["step", "row"] | None = None,
        causal: bool = False,
        empty_rows: bool = True,
        exportable: bool = False,
    ) -> None:
        super().__init__()
        if causal and each == "row":
            raise OptionError("causal=True speaks of steps, but each='row' was said; leave one of them out.")
        self.module = module
        self.input_size = input_size
        self.each = each
        self.causal = causal
        self.empty_rows = empty_rows
        self.exportable = exportable

    def forward(self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]) -> Tensor:
        """What the module gives."""
        given: Tensor = self.module(values, lengths)
        return given

    def rows(self, batch: Padded[Vectors]) -> list[Tensor]:
        """What it gives for each row: of its real steps, or of the whole of it.

        Raises:
            FaultError: if what it gives is no tensor of the rows (and steps) that came in.
        """
        given: object = self(batch.values, batch.lengths)
        count, width = len(batch.lengths), batch.width
        if not isinstance(given, Tensor) or given.shape[:1] != (count,):
            msg = f"the module must give a tensor of {count} rows for a batch of {count}, but {described(given)} came."
            raise FaultError(msg)
        each = self.each or ("step" if given.ndim > 2 and given.shape[1] == width else "row")
        if each == "row":
            return list(given)
        if given.shape[1:2] != (width,):
            msg = (
                f"the module must give each of {width} steps a result, but {described(given)} came; or say each='row'."
            )
            raise FaultError(msg)
        return [row[:length] for row, length in zip(given, ints(batch.lengths), strict=True)]


Tried: TypeAlias = Encoder[MaybeCausal] | Attention | Pooling | PlainModule
"""The parts that are modules."""

T = TypeVar("T", bound=Tried)


def prepared(make: Callable[[], T]) -> T:
    """A new part, in float64 and in evaluation."""
    part = make()
    part.double()
    part.eval()
    return part


def size_of(part: Tried) -> int:
    """How many features to try a part on."""
    return part.input_size or _DEFAULT_SIZE


def may_be_empty(part: Tried) -> bool:
    """Whether a row may have no steps."""
    return part.empty_rows if isinstance(part, Encoder | PlainModule) else True


def results(part: Tried, batch: Batch[Vectors]) -> list[Tensor]:
    """What a part makes of each row.

    Of an encoder: the row's states and, below them, its final one. Of an attention: each step's context, the row
    being keys and, its features reversed, queries.
    """
    if isinstance(part, Encoder):
        return by_row(part(batch))
    if isinstance(part, Pooling):
        return list(part(states_of(batch)))
    if isinstance(part, PlainModule):
        return part.rows(batch.padded())
    rows = batch.padded().fill_padding(0)
    mask = rows.order.mask(rows.width).unsqueeze(1).expand(-1, rows.width, -1)
    contexts = part(rows.values.flip(-1), rows.values, mask)
    return [row[:length] for row, length in zip(contexts, ints(batch.lengths), strict=True)]


def by_row(states: States[MaybeCausal]) -> list[Float[Tensor, "time_and_final hidden"]]:
    """Each row's hidden vectors and, below them, its final state."""
    return [torch.cat([steps, final[None]]) for steps, final in zip(steps_of(states.steps), states.final, strict=True)]


def steps_of(batch: Batch[Hidden]) -> list[Float[Tensor, "time hidden"]]:
    """Each row's real steps."""
    if isinstance(batch, Packed):
        return list(torch.split(batch.values.index_select(0, batch.order.reading), ints(batch.lengths)))
    return [row[:length] for row, length in zip(batch.values, ints(batch.lengths), strict=True)]


def states_of(batch: Batch[Vectors]) -> States[MaybeCausal]:
    """States whose steps are these, and whose final ones are none of them, but belong to their rows."""
    return States(batch, sum_by_row(batch) / 2)


def encoded(encoder: Encoder[MaybeCausal]) -> Part:
    """An encoder as `equals_oracle` takes it: each row's hidden vectors and, below them, its final state."""
    return lambda batch: by_row(encoder(batch))


def attended(stage: Callable[[States[MaybeCausal]], States[MaybeCausal]]) -> Part:
    """A stage from states to states, such as `Attend`: each row's vectors."""
    return lambda batch: steps_of(stage(States.from_padded(batch.values, batch.lengths)).steps)


def pooled(stage: Callable[[States[MaybeCausal]], Pooled]) -> Part:
    """A stage from states to pooled rows, such as `Pool`: each row's vector."""
    return lambda batch: list(stage(States.from_padded(batch.values, batch.lengths)).values)
