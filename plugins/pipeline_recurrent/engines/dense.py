"""Torch's dense kernels on padded rows, exactly."""

from collections.abc import Sequence
from typing import Final, final

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline_recurrent.engines.engine import Layered
from pipeline_recurrent.engines.run import Answer, Cell, Run, Steps, Weights
from pipeline_recurrent.engines.why import precompute_inputs, unusual_dtype

_SHUT: Final = 1e4
"""A sum that shuts a gate, or opens it, to the last bit."""


@final
class Dense(Layered):
    """Every row as long as the longest: a forward direction never sees what stands to the right of it.

    A backward direction reads rows that were reversed each within its own length. For an LSTM in float32 torch uses
    oneDNN here, which is fast as long as there is little padding.
    """

    name = "dense"

    @override
    def refusal(self, run: Run) -> str | None:
        return precompute_inputs(run) or unusual_dtype(run)

    @override
    def layer(
        self,
        cell: Cell,
        x: Steps,
        order: Order,
        weights: Sequence[Weights],
        initial: Carry | None,
    ) -> Answer:
        outputs, carried = list[Tensor](), list[Carry]()
        for direction, own in enumerate(weights):
            start = None if initial is None else tuple(state[direction] for state in initial)
            seen = x.index_select(0, order.mirrored) if direction else x
            output, ended = _forward(cell, seen, order, own, start)
            outputs.append(output.index_select(0, order.mirrored) if direction else output)
            carried.append(ended)
        return torch.cat(outputs, dim=-1), tuple(torch.stack(states) for states in zip(*carried, strict=True))


def _forward(cell: Cell, x: Tensor, order: Order, weights: Weights, initial: Carry | None) -> Answer:
    """One direction over packed steps in the order in which it reads them."""
    rows, time, hidden = order.occupied, order.longest, weights[1].shape[-1]
    start = initial or tuple(x.new_zeros(rows, hidden) for _ in range(2 if cell == "lstm" else 1))
    ragged = order.steps < rows * time
    if ragged and cell == "lstm":
        x, weights = _marked(x, weights)
    sequence = (_spread(x, order, marked=cell == "lstm") if ragged else x).view(time, rows, -1)
    flat = [weight for weight in weights if weight is not None]
    states = [state.unsqueeze(0) for state in start]
    biases, training = weights[2] is not None, torch.is_grad_enabled()
    if cell == "lstm":
        output, _, cells = torch.lstm(sequence, states, flat, biases, 1, 0.0, training, False, False)  # noqa: FBT003
    else:
        call = torch.gru if cell == "gru" else torch.rnn_tanh if cell == "rnn_tanh" else torch.rnn_relu
        output, cells = call(sequence, states[0], flat, biases, 1, 0.0, training, False, False)  # noqa: FBT003
    steps = output.flatten(0, 1)
    if ragged:
        steps = steps.index_select(0, order.grid)
    ended = steps.index_select(0, order.ends)
    return steps, (ended, cells[0]) if cell == "lstm" else (ended,)


def _spread(x: Tensor, order: Order, *, marked: bool) -> Tensor:
    """Packed steps in a rectangle, time-major; its other cells are zeros, but for a 1 in the last feature if marked."""
    grid = x.new_zeros(order.occupied * order.longest, x.shape[-1])
    if marked:
        grid[:, -1] = 1
    return grid.index_copy(0, order.grid, x)


def _marked(x: Tensor, weights: Weights) -> tuple[Tensor, Weights]:
    """Steps with a feature more, 0 where a step is real, and weights by which padding, where it is 1, keeps the cell.

    The dense kernel gives the cells of the last column alone, where short rows are long over. With the input gate
    shut and the forget gate open, c = 1 c + 0 g: each row's own last cell is still there.
    """
    hidden = weights[1].shape[-1]
    by_mark = weights[0].new_zeros(4 * hidden, 1)
    by_mark[:hidden] = -_SHUT
    by_mark[hidden : 2 * hidden] = _SHUT
    return pad(x, (0, 1)), (torch.cat([weights[0], by_mark], dim=1), *weights[1:])
