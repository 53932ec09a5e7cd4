"""Torch's dense kernels on the padded rectangle, made exact by hand."""

import torch
from torch import Tensor, nn

from bench.encoders.problem import Problem, states_of
from bench.timing.step import Step


def dense(problem: Problem) -> Step:
    """A module a layer and direction, padding cleared at the end.

    A forward one never sees the padding to its right; a backward one reads rows reversed each within its own length.
    """
    point, steps = problem.point, torch.arange(problem.values.shape[1])
    real = steps < problem.lengths.unsqueeze(1)
    mirror = torch.where(real, problem.lengths.unsqueeze(1) - 1 - steps, steps).unsqueeze(2)
    layers = [_layer(problem, number) for number in range(point.layers)]

    def reversed_rows(values: Tensor) -> Tensor:
        return values.gather(1, mirror.expand(-1, -1, values.shape[2]))

    def forward(values: Tensor) -> Tensor:
        for forwards, *backwards in layers:
            states = [states_of(forwards, values)]
            states += [reversed_rows(states_of(each, reversed_rows(values))) for each in backwards]
            values = torch.cat(states, 2) if backwards else states[0]
        return values.masked_fill(~real.unsqueeze(2), 0.0)

    return problem.step(forward, [weight for layer in layers for module in layer for weight in module.parameters()])


def _layer(problem: Problem, number: int) -> list[nn.LSTM | nn.GRU]:
    """The modules of one layer, one a direction."""
    point, weights = problem.point, problem.weights.state_dict()
    kind = nn.LSTM if point.cell == "LSTM" else nn.GRU
    modules: list[nn.LSTM | nn.GRU] = []
    for suffix in ("", "_reverse")[: 2 if point.both else 1]:
        own = {
            f"{name}_l0": weights[f"{name}_l{number}{suffix}"]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        module = kind(own["weight_ih_l0"].shape[1], point.hidden, batch_first=True)
        module.load_state_dict(own)
        modules.append(module)
    return modules
