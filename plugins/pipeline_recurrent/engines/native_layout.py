"""The buffers of the native engine for one layer: sizes, the order of gates, and the call of the kernels."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.extend import PackingOrder
from pipeline_recurrent.engines.engine import Cell, LayerInputs
from pipeline_recurrent.native.library import Job, Kernels
from pipeline_recurrent.native.threads import share_out

CELLS: Final[tuple[Cell, ...]] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""In the order of the enum in kernels.c."""


# Of a row of AMX's registers, and rows of one call: the same as in amx.h.
_AMX_NUMBERS: Final = 32
_AMX_ROWS: Final = 32


class GateRange(NamedTuple):
    """Neighbouring gates: the index of the first one in a buffer and in torch's weights, and their number."""

    buffer: int
    torch: int
    gates: int


# A GRU's buffer begins with the new gate, torch's weights end with it. In the buffer, everything that meets the input
# weights (new, reset, update) is contiguous, and so is what meets the recurrent weights (reset, update, and the new
# gate's recurrent part), so that a weight gradient is one or two products.
_ONE, _FOUR, _GRU = (GateRange(0, 0, 1),), (GateRange(0, 0, 4),), (GateRange(0, 2, 1), GateRange(1, 0, 2))
INPUT_GATES: Final[dict[Cell, tuple[GateRange, ...]]] = {
    "lstm": _FOUR, "gru": _GRU, "rnn_tanh": _ONE, "rnn_relu": _ONE,
}  # fmt: skip
RECURRENT_GATES: Final[dict[Cell, tuple[GateRange, ...]]] = {**INPUT_GATES, "gru": (GateRange(1, 0, 3),)}


@final
class Layout:
    """The buffers of one layer: hidden sizes are rounded up to whole vectors, with zeros in the added places.

    Attributes:
        train: whether a backward pass may follow.
        gates: number of gates in torch's weights.
        wide: the hidden size, rounded up.
        columns: numbers per step in the buffer of gates.
        dtype: of the operands of products: weights, input, states and gates. Biases and cells are float32.
        low: whether that is bfloat16.
        amx: whether products use AMX.
        output_dtype: of the output: float32, or that of the operands.
    """

    def __init__(
        self, inputs: LayerInputs, kernels: Kernels, *, train: bool, dtype: torch.dtype, output_dtype: torch.dtype
    ) -> None:
        self.cell: Cell = inputs.cell
        self.order: PackingOrder = inputs.order
        self.directions: int = len(inputs.weights)
        self.hidden: int = inputs.weights[0][1].shape[1]
        self.kernels: Kernels = kernels
        self.train: bool = train
        self.dtype: torch.dtype = dtype
        self.low: bool = dtype is not torch.float32
        self.amx: bool = self.low and kernels.amx
        self.output_dtype: torch.dtype = output_dtype
        self.gates: int = {"lstm": 4, "gru": 3}.get(inputs.cell, 1)
        # Rounded up, so that a kernel's loop over hidden units needs no code for a rest.
        self.wide: int = -(-self.hidden // kernels.lanes) * kernels.lanes
        # In training a GRU keeps the recurrent part of its new gate as a fourth block.
        self.columns: int = (4 if train and self.cell == "gru" else self.gates) * self.wide

    def pad(self, tensor: Tensor) -> Tensor:
        """Widen the last axis, of hidden units."""
        return tensor if self.wide == self.hidden else pad(tensor, (0, self.wide - self.hidden))

    def unpad(self, tensor: Tensor) -> Tensor:
        """Undo `pad`. The result is no view, since autograd forbids callers to change a view in place."""
        if self.wide == self.hidden:
            return tensor
        return tensor[..., : self.hidden].clone(memory_format=torch.contiguous_format)

    def pad_rows(self, weight: Tensor) -> Tensor:
        """Widen each gate of weights whose rows are hidden units, gate by gate."""
        if self.wide == self.hidden:
            return weight
        return pad(weight.reshape(-1, self.hidden, weight.shape[1]), (0, 0, 0, self.wide - self.hidden)).flatten(0, 1)

    def unpad_rows(self, weight: Tensor) -> Tensor:
        """Undo `pad_rows`."""
        if self.wide == self.hidden:
            return weight
        return weight.view(-1, self.wide, weight.shape[1])[:, : self.hidden].flatten(0, 1)

    def split_directions(self, steps: Tensor, width: int) -> Tensor:
        """View steps as steps x directions x width."""
        return steps.view(-1, self.directions, width)

    def slices(self, ranges: dict[Cell, tuple[GateRange, ...]]) -> Iterator[tuple[slice, slice]]:
        """Yield columns of the buffer of gates, with the rows of torch's padded weights that belong to them."""
        for buffer, torch_gate, gates in ranges[self.cell]:
            yield (
                slice(buffer * self.wide, (buffer + gates) * self.wide),
                slice(torch_gate * self.wide, (torch_gate + gates) * self.wide),
            )

    def fill_up(self, numbers: int) -> int:
        """Return the size of an operand of a product, with the zeros that fill it up: `fill_up` of numbers.h."""
        return -(-numbers // _AMX_NUMBERS) * _AMX_NUMBERS if self.amx else numbers

    def count_panel_numbers(self, *, backward: bool) -> int:
        """Return the size of the scratch in which the kernels rearrange the weights, to read them in order."""
        if backward:
            return self.fill_up(self.gates * self.wide) * self.wide
        return self.gates * self.wide * self.fill_up(self.wide)

    def run(self, tensors: Sequence[dict[str, Tensor]], *, backward: bool, keep: bool) -> None:
        """Call the kernels on the named tensors of each direction, with torch's number of threads."""
        order = self.order
        if not order.steps:
            return
        # A multiplication and an addition per step and recurrent weight.
        operations = 2 * order.steps * self.gates * self.hidden**2 * self.directions
        chunks, threads = share_out(operations, rows=order.nonempty_count, directions=self.directions)
        if self.amx:
            numbers = self.fill_up((self.gates if backward else 1) * self.wide)
            for own in tensors:
                own["operands"] = torch.empty(chunks, _AMX_ROWS, numbers, dtype=self.dtype)
        jobs = [
            Job(
                cell=CELLS.index(self.cell),
                reverse=direction,
                depth=self.hidden,
                wide=self.wide,
                times=len(order.batch_sizes),
                rows=order.nonempty_count,
                steps=order.steps,
                keep=keep,
                gate_stride=self.columns,
                state_stride=self.directions * self.wide,
                output_stride=self.directions * self.hidden,
                alive=order.batch_sizes.data_ptr(),
                **{name: tensor.data_ptr() for name, tensor in own.items()},
            )
            for direction, own in enumerate(tensors)
        ]
        self.kernels.run(jobs, backward=backward, chunks=chunks, threads=threads, dtype=self.dtype)
