"""Reference implementations: plain loops over one row, one step at a time, written from the definitions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def lstm_step(x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute one step of an LSTM, with gates in torch's order: input, forget, cell, output."""
    w_in, w_state, b_in, b_state = weights
    i, f, g, o = (w_in @ x + b_in + w_state @ h + b_state).reshape(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_step(x: Tensor, h: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Compute one step of a GRU, with gates in torch's order (reset, update, new), reset after the recurrent product."""
    w_in, w_state, b_in, b_state = weights
    r_in, z_in, n_in = (w_in @ x + b_in).reshape(3, -1)
    r_state, z_state, n_state = (w_state @ h + b_state).reshape(3, -1)
    r, z = torch.sigmoid(r_in + r_state), torch.sigmoid(z_in + z_state)
    return (1 - z) * torch.tanh(n_in + r * n_state) + z * h


def rnn_step(x: Tensor, h: Tensor, weights: Sequence[Tensor], nonlinearity: str) -> Tensor:
    """Compute one step of a plain RNN."""
    w_in, w_state, b_in, b_state = weights
    total = w_in @ x + b_in + w_state @ h + b_state
    return torch.relu(total) if nonlinearity == "relu" else torch.tanh(total)


def get_weights(module: nn.LSTM | nn.GRU | nn.RNN, layer: int, *, backward: bool) -> list[Tensor]:
    """Return the weights of one direction; zeros for missing biases."""
    suffix = f"l{layer}{'_reverse' if backward else ''}"
    weights: list[Tensor] = [getattr(module, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh")]
    zeros = weights[0].new_zeros(len(weights[0]))
    return [
        *weights,
        *(getattr(module, f"{name}_{suffix}") if module.bias else zeros for name in ("bias_ih", "bias_hh")),
    ]


def run_direction(
    module: nn.LSTM | nn.GRU | nn.RNN, row: Tensor, layer: int, *, backward: bool, initial: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Run one direction of one layer over one row; return its states in reading order, and its final state."""
    weights = get_weights(module, layer, backward=backward)
    state = list(initial)
    steps: list[Tensor] = []
    for x in reversed(list(row)) if backward else list(row):
        if isinstance(module, nn.LSTM):
            state = list(lstm_step(x, state[0], state[1], weights))
        elif isinstance(module, nn.GRU):
            state = [gru_step(x, state[0], weights)]
        else:
            state = [rnn_step(x, state[0], weights, module.mode.removeprefix("RNN_").lower())]
        steps.append(state[0])
    states = torch.stack(steps[::-1] if backward else steps) if steps else row.new_zeros(0, module.hidden_size)
    return states, state


def run_recurrent(
    module: nn.LSTM | nn.GRU | nn.RNN, row: Tensor, initial: Sequence[Tensor] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """Run all layers over one row.

    Returns the last layer's states, one tensor per direction, and the carry: tensors of (layers x directions) x hidden,
    `[h, c]` for an LSTM and `[h]` for the others.
    """
    count = 2 if isinstance(module, nn.LSTM) else 1
    directions = 2 if module.bidirectional else 1
    if initial is None:
        initial = [row.new_zeros(module.num_layers * directions, module.hidden_size)] * count
    carry: list[list[Tensor]] = [[] for _ in range(count)]
    outputs: list[Tensor] = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            start = [state[layer * directions + direction] for state in initial]
            steps, ended = run_direction(module, row, layer, backward=direction == 1, initial=start)
            outputs.append(steps)
            for finals, end in zip(carry, ended, strict=True):
                finals.append(end)
        row = torch.cat(outputs, dim=1)
    return outputs, [torch.stack(finals) for finals in carry]


def merge_directions(directions: Sequence[Tensor], merge: str) -> Tensor:
    """Merge two directions."""
    stacked = torch.stack(list(directions))
    merged = {"mean": stacked.mean(0), "sum": stacked.sum(0), "max": stacked.amax(0), "mul": stacked.prod(0)}
    return torch.cat(list(directions), dim=-1) if merge == "concat" else merged[merge]


def attend_by_softmax(scores: Tensor, row: Tensor, allowed: Sequence[Sequence[int]]) -> Tensor:
    """Return the context of each step, with one softmax per step over the steps that it may attend to."""
    contexts: list[Tensor] = []
    for step, steps in enumerate(allowed):
        weights = torch.softmax(torch.stack([scores[step, j] for j in steps]), dim=0)
        contexts.append(sum((w * row[j] for w, j in zip(weights, steps, strict=True)), torch.zeros_like(row[0])))
    return torch.stack(contexts) if contexts else torch.zeros_like(row)
