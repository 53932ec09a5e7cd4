"""Test rows for the laws, and functions that run a part of any kind on a batch and return one tensor per row."""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeAlias, TypeVar

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pipeline.checks.hints import describe
from pipeline.data.batches import Batch, Carry, Packed, Padded
from pipeline.data.kinds import Hidden, Vectors
from pipeline.data.states import MaybeCausal, Pooled, States, last_by_row
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError
from pipeline.functional.segments import sum_by_row
from pipeline.laws.law import FaultError
from pipeline.parts.attention import Attention
from pipeline.parts.encoder import Encoder
from pipeline.parts.pooling import Pooling

RowTensors: TypeAlias = Sequence[Float[Tensor, "time feature"]]
"""The steps of each row."""

BatchFunction: TypeAlias = Callable[[Padded[Vectors]], Sequence[Tensor]]
"""A part as `check_against_oracle` takes it: a padded batch in, one result per row out, of any shape."""

LENGTHS: Final = ((4, 1, 6, 4, 2), (3, 5), (1, 1), (3,), (5, 5, 5), (7, 2, 14, 3, 3, 20, 1, 5, 2, 6, 9))
"""Lengths of the rows in each test batch: unsorted, with ties, single steps, one row, rows of one length, many rows.

Empty rows are left to laws of their own, because an encoder may reject them."""

FILLINGS: Final = (0.0, math.nan, math.inf, 1e38)
"""Values of the padding. 1e38 is finite, but its square overflows float32: it shows a product that is masked late."""

# Features for a part that takes any number of them.
_DEFAULT_SIZE: Final = 3


def draw_rows(lengths: Sequence[int], features: int, *, seed: int = 5) -> list[Float[Tensor, "time feature"]]:
    """Draw rows of random float64 vectors, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, features, dtype=torch.float64, generator=generator) for length in lengths]


def make_batch(rows: RowTensors, *, extra: int = 0, filling: float = 0.0) -> Padded[Vectors]:
    """Pad rows to a batch that is `extra` steps wider than the longest row.

    Example:
        >>> make_batch([torch.ones(2, 1), torch.ones(1, 1)], extra=1, filling=9.0).values.squeeze(-1).tolist()
        [[1.0, 1.0, 9.0], [1.0, 9.0, 9.0]]
    """
    width = max(len(row) for row in rows) + extra
    values = torch.stack([nn.functional.pad(row, (0, 0, 0, width - len(row)), value=filling) for row in rows])
    return Padded(Vectors, values, torch.tensor([len(row) for row in rows]))


class PlainModule(nn.Module):
    """Any module as a part: `module(values, lengths)` returns a tensor.

    Args:
        module: takes values, batch x time x feature, and lengths, int64 on the CPU.
        input_size: features per step of its input.
        each: "step" if its result is batch x time x anything, "row" if it is batch x anything. If left out, a result
            with three or more axes, of which the second is as long as the input's, is taken for one per step.
        causal: True if step t of the result depends on steps up to t only.
        empty_rows: False if rows must have at least one step.
        exportable: True if `torch.export` and `torch.compile(fullgraph=True)` accept the module.

    Raises:
        OptionError: if `causal` is True and `each` is "row".
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
            raise OptionError("causal=True needs one result per step, got each='row'; leave one of them out.")
        self.module = module
        self.input_size = input_size
        self.each = each
        self.causal = causal
        self.empty_rows = empty_rows
        self.exportable = exportable

    def forward(self, values: Float[Tensor, "batch time feature"], lengths: Int64[Tensor, " batch"]) -> Tensor:
        """Call the module."""
        result: Tensor = self.module(values, lengths)
        return result

    def run_rows(self, batch: Padded[Vectors]) -> list[Tensor]:
        """Return each row's result, without padding.

        Raises:
            FaultError: if the result is not a tensor with the batch's rows (and steps).
        """
        result: object = self(batch.values, batch.lengths)
        count, width = len(batch.lengths), batch.width
        if not isinstance(result, Tensor) or result.shape[:1] != (count,):
            msg = (
                f"the module must return a tensor of {count} rows for a batch of {count}, got {describe(result)}; "
                "return rows first, or choose what `ragged` checks, such as result=lambda found: found[1][-1]."
            )
            raise FaultError(msg)
        each = self.each or ("step" if result.ndim > 2 and result.shape[1] == width else "row")
        if each == "row":
            return list(result)
        if result.shape[1:2] != (width,):
            msg = (
                f"the module must return a result for each of {width} steps, got {describe(result)}; or pass "
                "each='row'."
            )
            raise FaultError(msg)
        return [row[:length] for row, length in zip(result, to_ints(batch.lengths), strict=True)]


AnyModule: TypeAlias = Encoder[MaybeCausal] | Attention | Pooling | PlainModule
"""The parts that are modules."""

M = TypeVar("M", bound=AnyModule)


def prepare(make: Callable[[], M]) -> M:
    """Create a part, and set it to float64 and evaluation mode."""
    part = make()
    # float64, because laws compare results up to rounding: in float32, a wrong term of 1e-6 would pass as rounding.
    part.double()
    part.eval()
    return part


def choose_input_size(part: AnyModule) -> int:
    """Return the number of features of the test rows for a part."""
    # Only a pooling may have no input size: it then takes any.
    return part.input_size or _DEFAULT_SIZE


def allows_empty_rows(part: AnyModule) -> bool:
    """Return whether a row may be empty."""
    return part.empty_rows if isinstance(part, Encoder | PlainModule) else True


def run_rows(part: AnyModule, batch: Batch[Vectors]) -> list[Tensor]:
    """Run a part and return its result for each row.

    The result of an encoder is the row's states with its final state appended; of an attention, the context of each
    step, with the row as keys and the row with its features reversed as queries.
    """
    if isinstance(part, Encoder):
        return split_states(part(batch))
    if isinstance(part, Pooling):
        return list(part(make_states(batch)))
    if isinstance(part, PlainModule):
        return part.run_rows(batch.padded())
    contexts = part(*_make_attention_input(batch))
    return [row[:length] for row, length in zip(contexts, to_ints(batch.lengths), strict=True)]


def _make_attention_input(batch: Batch[Vectors]) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and mask, as `Attend` would make them."""
    rows = batch.padded().fill_padding(0)
    mask = rows.order.mask(rows.width).unsqueeze(1).expand(-1, rows.width, -1)
    # Queries must differ from their keys, or a part that confuses the two would pass.
    return rows.values.flip(-1), rows.values, mask


def run_all(part: AnyModule, batch: Batch[Vectors]) -> list[list[Tensor]]:
    """Run a part and return everything that it returns for each row.

    That is the row's result, followed by its part of each tensor of the carry (encoders), or by its weights
    (attentions).
    """
    if isinstance(part, Encoder):
        states = part(batch)
        carry = states.carry or ()
        return [[result, *(state[:, row] for state in carry)] for row, result in enumerate(split_states(states))]
    results = run_rows(part, batch)
    if not isinstance(part, Attention):
        return [[result] for result in results]
    weights = part.weights(*_make_attention_input(batch))
    return [
        [result, row[:length, :length]]
        for result, row, length in zip(results, weights, to_ints(batch.lengths), strict=True)
    ]


def run_flat(part: AnyModule, batch: Batch[Vectors]) -> list[Tensor]:
    """Return the tensors of `run_all` in one list."""
    return [tensor for row in run_all(part, batch) for tensor in row]


def list_layouts(part: AnyModule, batch: Padded[Vectors]) -> dict[str, Batch[Vectors]]:
    """Return the batch in each layout in which a part may get it, by name. Many parts have code for each."""
    padded: dict[str, Batch[Vectors]] = {"a padded batch": batch}
    return {**padded, "a packed batch": batch.packed()} if isinstance(part, Encoder | Pooling) else padded


def get_carry(states: States[MaybeCausal]) -> Carry:
    """Return the carry of states.

    Raises:
        FaultError: if the states have no carry.
    """
    if states.carry is None:
        raise FaultError(
            "stateful is declared, but carry is None; return States(..., carry=...), or do not declare it."
        )
    return states.carry


def draw_carry(encoder: Encoder[MaybeCausal], batch: Batch[Vectors], *, seed: int = 9) -> Carry:
    """Draw a random initial carry with the shapes that the encoder returns."""
    generator = torch.Generator().manual_seed(seed)
    like = get_carry(encoder(batch))
    return tuple(
        torch.randn(state.shape, dtype=state.dtype, generator=generator) if state.is_floating_point() else state
        for state in like
    )


def add_carry(part: AnyModule, batch: Padded[Vectors]) -> Padded[Vectors]:
    """Return the batch with a random initial carry, if the part starts from one."""
    if not isinstance(part, Encoder) or not part.stateful:
        return batch
    return attrs.evolve(batch, initial_carry=draw_carry(part, batch.fill_padding(0)))


def split_states(states: States[MaybeCausal]) -> list[Float[Tensor, "time_and_final hidden"]]:
    """Return each row's hidden vectors with its final state appended."""
    rows = zip(split_steps(states.steps), states.final, strict=True)
    return [torch.cat([steps, final[None]]) for steps, final in rows]


def split_steps(batch: Batch[Hidden]) -> list[Float[Tensor, "time hidden"]]:
    """Return each row's real steps."""
    if isinstance(batch, Packed):
        return list(torch.split(batch.values.index_select(0, batch.order.reading_order), to_ints(batch.lengths)))
    return [row[:length] for row, length in zip(batch.values, to_ints(batch.lengths), strict=True)]


def make_states(batch: Batch[Vectors]) -> States[MaybeCausal]:
    """Make states of a batch. The final states belong to the rows, but equal none of their steps."""
    # Half the sum, because a final state that equals a step would hide a pooling that confuses the two.
    return States(batch, sum_by_row(batch) / 2)


def adapt_encoder(encoder: Encoder[MaybeCausal]) -> BatchFunction:
    """Adapt an encoder for `check_against_oracle`: each row's hidden vectors with its final state appended."""
    return lambda batch: split_states(encoder(batch))


def adapt_attend(stage: Callable[[States[MaybeCausal]], States[MaybeCausal]]) -> BatchFunction:
    """Adapt a stage from states to states, such as `Attend`, for `check_against_oracle`: each row's vectors."""
    return lambda batch: split_steps(stage(States.from_padded(batch.values, batch.lengths)).steps)


def adapt_pool(stage: Callable[[States[MaybeCausal]], Pooled]) -> BatchFunction:
    """Adapt a stage from states to pooled rows, such as `Pool`, for `check_against_oracle`: each row's vector."""
    # The oracle's final state is each row's last step.
    return lambda batch: list(stage(States(batch.with_values(batch.values), last_by_row(batch))).values)
