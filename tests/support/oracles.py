"""What every part is held against: plain loops over one row, a step at a time, written from the definitions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def lstm_step(x: Tensor, h: Tensor, c: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One step of an LSTM: gates in torch's order input, forget, cell, output."""
    w_in, w_state, b_in, b_state = weights
    i, f, g, o = (w_in @ x + b_in + w_state @ h + b_state).reshape(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def gru_step(x: Tensor, h: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """One step of a GRU: gates in torch's order reset, update, new; reset behind the recurrent product."""
    w_in, w_state, b_in, b_state = weights
    r_in, z_in, n_in = (w_in @ x + b_in).reshape(3, -1)
    r_state, z_state, n_state = (w_state @ h + b_state).reshape(3, -1)
    r, z = torch.sigmoid(r_in + r_state), torch.sigmoid(z_in + z_state)
    return (1 - z) * torch.tanh(n_in + r * n_state) + z * h


def rnn_step(x: Tensor, h: Tensor, weights: Sequence[Tensor], nonlinearity: str) -> Tensor:
    """One step of a plain RNN."""
    w_in, w_state, b_in, b_state = weights
    total = w_in @ x + b_in + w_state @ h + b_state
    return torch.relu(total) if nonlinearity == "relu" else torch.tanh(total)


def weights_of(module: nn.LSTM | nn.GRU | nn.RNN, layer: int, *, backward: bool) -> list[Tensor]:
    """One direction's weights; biases of zero where it has none."""
    suffix = f"l{layer}{'_reverse' if backward else ''}"
    found: list[Tensor] = [getattr(module, f"{name}_{suffix}") for name in ("weight_ih", "weight_hh")]
    none = found[0].new_zeros(len(found[0]))
    return [*found, *(getattr(module, f"{name}_{suffix}") if module.bias else none for name in ("bias_ih", "bias_hh"))]


def one_direction(
    module: nn.LSTM | nn.GRU | nn.RNN, row: Tensor, layer: int, *, backward: bool, initial: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """One direction of one layer over one row: its states in reading order, and where it ended."""
    weights = weights_of(module, layer, backward=backward)
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
    found = torch.stack(steps[::-1] if backward else steps) if steps else row.new_zeros(0, module.hidden_size)
    return found, state


def recurrent(
    module: nn.LSTM | nn.GRU | nn.RNN, row: Tensor, initial: Sequence[Tensor] | None = None
) -> tuple[list[Tensor], list[Tensor]]:
    """All layers over one row.

    Gives the last layer's states, a tensor a direction, and what is carried: tensors of layers x
    directions by hidden, `[h, c]` for an LSTM and `[h]` for the others.
    """
    count = 2 if isinstance(module, nn.LSTM) else 1
    directions = 2 if module.bidirectional else 1
    if initial is None:
        initial = [row.new_zeros(module.num_layers * directions, module.hidden_size)] * count
    carried: list[list[Tensor]] = [[] for _ in range(count)]
    outputs: list[Tensor] = []
    for layer in range(module.num_layers):
        outputs = []
        for direction in range(directions):
            start = [state[layer * directions + direction] for state in initial]
            steps, ended = one_direction(module, row, layer, backward=direction == 1, initial=start)
            outputs.append(steps)
            for kept, end in zip(carried, ended, strict=True):
                kept.append(end)
        row = torch.cat(outputs, dim=1)
    return outputs, [torch.stack(kept) for kept in carried]


def merge(parts: Sequence[Tensor], how: str) -> Tensor:
    """Two directions as one."""
    stacked = torch.stack(list(parts))
    ways = {"mean": stacked.mean(0), "sum": stacked.sum(0), "max": stacked.amax(0), "mul": stacked.prod(0)}
    return torch.cat(list(parts), dim=-1) if how == "concat" else ways[how]


def attend(scores: Tensor, row: Tensor, allowed: Sequence[Sequence[int]]) -> Tensor:
    """Each step's context, a softmax at a time over the steps that it may attend."""
    contexts: list[Tensor] = []
    for step, steps in enumerate(allowed):
        weights = torch.softmax(torch.stack([scores[step, j] for j in steps]), dim=0)
        contexts.append(sum((w * row[j] for w, j in zip(weights, steps, strict=True)), torch.zeros_like(row[0])))
    return torch.stack(contexts) if contexts else torch.zeros_like(row)
