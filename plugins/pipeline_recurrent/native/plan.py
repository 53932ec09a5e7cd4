"""How one layer lies in the kernels' buffers, and what they are told about it."""

from collections.abc import Sequence
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.data.order import Order
from pipeline_recurrent.engines.again import Again
from pipeline_recurrent.engines.run import Cell
from pipeline_recurrent.native.library import Job, Kernels

CELLS: tuple[Cell, ...] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
"""In the order of kernels.c."""

WORTH_THREADS = 4_000_000
"""Operations below which threads cost more than they bring."""


class Piece(NamedTuple):
    """Gates that lie side by side in a buffer and in torch's weights: the first one's place in each, and how many."""

    buffer: int
    torch: int
    gates: int


# A GRU's buffer begins with the new gate, and torch's weights with the other two.
_ONE, _LSTM, _GRU = (Piece(0, 0, 1),), (Piece(0, 0, 4),), (Piece(0, 2, 1), Piece(1, 0, 2))
FROM_INPUT: dict[Cell, tuple[Piece, ...]] = {"lstm": _LSTM, "gru": _GRU, "rnn_tanh": _ONE, "rnn_relu": _ONE}
FROM_STATE: dict[Cell, tuple[Piece, ...]] = {**FROM_INPUT, "gru": (Piece(1, 0, 3),)}


@final
class Plan:
    """What one call is about, apart from its tensors.

    Attributes:
        keep: whether a backward pass may follow.
        again: the same layer of operations that have second derivatives, if there is such a one.
        states: how many tensors are carried from step to step.
        gates: how many gates the weights have.
        columns: the floats of a step's gates in a buffer.
        wide: the hidden size in whole vectors; what is between is zeros.
    """

    def __init__(
        self,
        cell: Cell,
        order: Order,
        directions: int,
        hidden: int,
        *,
        keep: bool,
        kernels: Kernels,
        again: Again | None = None,
    ) -> None:
        self.cell: Cell = cell
        self.order = order
        self.directions = directions
        self.hidden = hidden
        self.keep = keep
        self.kernels = kernels
        self.again = again
        self.states = 2 if cell == "lstm" else 1
        self.gates: int = sum(piece.gates for piece in FROM_INPUT[cell])
        self.wide: int = -(-hidden // kernels.lanes) * kernels.lanes
        # In training a GRU keeps the recurrent part of its new gate beside the three.
        self.columns: int = (4 if cell == "gru" and keep else self.gates) * self.wide

    def padded(self, tensor: Tensor) -> Tensor:
        """The last axis, of hidden units, in whole vectors."""
        return tensor if self.wide == self.hidden else pad(tensor, (0, self.wide - self.hidden))

    def unpadded(self, tensor: Tensor) -> Tensor:
        """Undo `padded`."""
        return tensor if self.wide == self.hidden else tensor[..., : self.hidden].contiguous()

    def padded_rows(self, weight: Tensor) -> Tensor:
        """Weights whose rows are hidden units, gate by gate, each gate in whole vectors."""
        if self.wide == self.hidden:
            return weight
        return pad(weight.reshape(-1, self.hidden, weight.shape[1]), (0, 0, 0, self.wide - self.hidden)).flatten(0, 1)

    def unpadded_rows(self, weight: Tensor) -> Tensor:
        """Undo `padded_rows`."""
        if self.wide == self.hidden:
            return weight
        return weight.view(-1, self.wide, weight.shape[1])[:, : self.hidden].flatten(0, 1)

    def sides(self, steps: Tensor, width: int) -> Tensor:
        """Steps with an axis of directions, each `width` wide."""
        return steps.view(-1, self.directions, width)

    def job(self, direction: int, tensors: dict[str, Tensor], *, keep: bool) -> Job:
        """What the kernels are told of one direction; the tensors have to outlive the call."""
        order = self.order
        return Job(
            cell=CELLS.index(self.cell),
            reverse=direction,
            depth=self.hidden,
            wide=self.wide,
            times=len(order.batch_sizes),
            rows=order.occupied,
            steps=order.steps,
            keep=keep,
            gate_stride=self.columns,
            state_stride=self.directions * self.wide,
            alive=order.batch_sizes.data_ptr(),
            **{name: tensor.data_ptr() for name, tensor in tensors.items()},
        )

    def run(self, jobs: Sequence[Job], *, back: bool) -> None:
        """Call the kernels with torch's number of threads: directions side by side, their rows in chunks."""
        threads = torch.get_num_threads()
        if 2 * self.order.steps * self.gates * self.hidden * self.hidden * self.directions < WORTH_THREADS:
            threads = 1
        chunks = max(1, min(-(-threads // self.directions), self.order.occupied // 2))
        self.kernels(jobs, back=back, chunks=chunks, threads=min(threads, chunks * self.directions))
