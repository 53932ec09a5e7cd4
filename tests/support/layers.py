"""Single recurrent layers with random weights, computed by torch's kernels and by the definitions."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from pipeline.data.tensors import to_ints
from pipeline.extend import PackingOrder
from pipeline_recurrent.engines import Cell, LayerInputs, Weights
from support.oracles import gru_step, lstm_step

RAGGED = [2, 0, 5, 3, 1, 5, 0, 4, 2]


class Case(NamedTuple):
    """A layer and a batch for it."""

    cell: Cell
    order: PackingOrder
    x: Tensor
    weights: list[Weights]
    initial: list[Tensor]

    def leaves(self) -> list[Tensor]:
        """Return all tensors that may get a gradient."""
        return [self.x, *self.initial, *(w for each in self.weights for w in each if w is not None)]

    @property
    def inputs(self) -> LayerInputs:
        """The same, as an engine takes it."""
        return LayerInputs(self.cell, self.order, self.x, self.weights, tuple(self.initial))

    def to(self, dtype: torch.dtype, *, learning: bool = True) -> "Case":
        """Copy the numbers to new tensors."""

        def copy(tensor: Tensor) -> Tensor:
            return tensor.detach().to(dtype, copy=True).requires_grad_(learning)

        weights: list[Weights] = [
            (copy(w_ih), copy(w_hh), None if b_ih is None else copy(b_ih), None if b_hh is None else copy(b_hh))
            for w_ih, w_hh, b_ih, b_hh in self.weights
        ]
        return self._replace(x=copy(self.x), weights=weights, initial=[copy(state) for state in self.initial])


def case(
    cell: Cell, lengths: Sequence[int], hidden: int = 5, *, both: bool = True, bias: bool = True, size: int = 3
) -> Case:
    """Draw numbers of the magnitude of a trained layer's."""
    made = torch.Generator().manual_seed(7)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=made)

    order, gates, directions = PackingOrder(torch.tensor(lengths)), {"lstm": 4, "gru": 3}.get(cell, 1), 1 + both
    scale = hidden**-0.5
    weights: list[Weights] = [
        (
            draw(gates * hidden, size) * scale,
            draw(gates * hidden, hidden) * scale,
            draw(gates * hidden) * scale if bias else None,
            draw(gates * hidden) * scale if bias else None,
        )
        for _ in range(directions)
    ]
    initial = [draw(directions, order.nonempty_count, hidden) for _ in range(2 if cell == "lstm" else 1)]
    return Case(cell, order, draw(order.steps, size), weights, initial)


def run_packed(given: Case) -> list[Tensor]:
    """Return the same from torch's own kernel."""
    hidden, size = given.weights[0][1].shape[1], given.x.shape[1]
    bias, both = given.weights[0][2] is not None, len(given.weights) == 2
    module: nn.RNNBase
    match given.cell:
        case "lstm":
            module = nn.LSTM(size, hidden, bias=bias, bidirectional=both)
        case "gru":
            module = nn.GRU(size, hidden, bias=bias, bidirectional=both)
        case _:
            module = nn.RNN(size, hidden, nonlinearity=given.cell[4:], bias=bias, bidirectional=both)
    names = [name for name, _ in module.named_parameters()]
    flat = [w for each in given.weights for w in each if w is not None]
    first = given.initial[0] if len(given.initial) == 1 else tuple(given.initial)
    sequence = PackedSequence(given.x, given.order.batch_sizes)
    steps, ended = torch.func.functional_call(module, dict(zip(names, flat, strict=True)), (sequence, first))
    return [steps.data, *(ended if isinstance(ended, tuple) else [ended])]


def run_loop(given: Case) -> list[Tensor]:
    """Return the same from the definitions, row by row and step by step."""
    order = given.order
    steps = [[given.x.new_empty(0)] * order.steps for _ in given.weights]
    ended: list[list[list[Tensor]]] = [[[] for _ in given.weights] for _ in given.initial]
    for direction, weights in enumerate(given.weights):
        w_ih, w_hh, b_ih, b_hh = (given.x.new_zeros(len(weights[1])) if w is None else w for w in weights)
        for rank, row in enumerate(order.sorted_indices[: order.nonempty_count]):
            state = [kind[direction, rank] for kind in given.initial]
            places = to_ints((order.row_of_step == row).nonzero().flatten())
            for place in reversed(places) if direction else places:
                x = given.x[place]
                if given.cell == "lstm":
                    state = list(lstm_step(x, state[0], state[1], (w_ih, w_hh, b_ih, b_hh)))
                elif given.cell == "gru":
                    state = [gru_step(x, state[0], (w_ih, w_hh, b_ih, b_hh))]
                else:
                    bend = torch.tanh if given.cell == "rnn_tanh" else torch.relu
                    state = [bend(w_ih @ x + b_ih + w_hh @ state[0] + b_hh)]
                steps[direction][place] = state[0]
            for kind, end in zip(ended, state, strict=True):
                kind[direction].append(end)
    side_by_side = torch.cat([torch.stack(direction) for direction in steps], dim=1)
    return [side_by_side, *(torch.stack([torch.stack(rows) for rows in kind]) for kind in ended)]


def with_gradients(given: Case, results: Sequence[Tensor]) -> list[Tensor]:
    """Return the results, and the gradient of each leaf through all of them, with a different weight for each number."""
    weighed = [part * torch.linspace(-1, 1, part.numel()).view_as(part).to(part) for part in results]
    grads = torch.autograd.grad([part.sum() for part in weighed], given.leaves())
    return [*(part.detach() for part in results), *grads]
