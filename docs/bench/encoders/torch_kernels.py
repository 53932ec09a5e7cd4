"""Torch's packed kernel, and its dense kernel made exact for rows of unequal length."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bench.encoders.problem import Problem, run_module
from bench.timing.steps import Step


def make_packed_step(problem: Problem) -> Step:
    """Pack, run and unpack, as torch's documentation does: padded batch in, padded batch out, rows in any order."""
    module = problem.copy_module()

    def forward(values: Tensor) -> Tensor:
        rows = pack_padded_sequence(values, problem.lengths, batch_first=True, enforce_sorted=False)
        states = cast("tuple[PackedSequence, object]", module(rows))[0]
        return pad_packed_sequence(states, batch_first=True)[0]

    return problem.make_step(forward, module.parameters())


def make_dense_step(problem: Problem) -> Step:
    """Run one module per layer and direction on the padded batch, and set the padding to zero at the end.

    A forward module never reads the padding, which is on the right, before a real step. A backward module gets rows
    that are reversed, each within its own length, so that the same holds for it.
    """
    point, steps = problem.point, torch.arange(problem.values.shape[1])
    real = steps < problem.lengths.unsqueeze(1)
    # Step t of a row of length n swaps places with step n - 1 - t; padding stays. Reversing twice restores the order.
    mirror = torch.where(real, problem.lengths.unsqueeze(1) - 1 - steps, steps).unsqueeze(2)
    layers = [_make_layer(problem, number) for number in range(point.layers)]

    def reverse_rows(values: Tensor) -> Tensor:
        return values.gather(1, mirror.expand(-1, -1, values.shape[2]))

    def forward(values: Tensor) -> Tensor:
        for forwards, *backwards in layers:
            states = [run_module(forwards, values)]
            states += [reverse_rows(run_module(each, reverse_rows(values))) for each in backwards]
            values = torch.cat(states, 2) if backwards else states[0]
        return values.masked_fill(~real.unsqueeze(2), 0.0)

    return problem.make_step(
        forward, [weight for layer in layers for module in layer for weight in module.parameters()]
    )


def _make_layer(problem: Problem, number: int) -> list[nn.LSTM | nn.GRU]:
    """Return the modules of one layer, one per direction."""
    point, weights = problem.point, problem.weights.state_dict()
    kind = nn.LSTM if point.cell == "LSTM" else nn.GRU
    modules: list[nn.LSTM | nn.GRU] = []
    for suffix in ("", "_reverse")[: 2 if point.bidirectional else 1]:
        own = {
            f"{name}_l0": weights[f"{name}_l{number}{suffix}"]
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        }
        module = kind(own["weight_ih_l0"].shape[1], point.hidden, batch_first=True)
        module.load_state_dict(own)
        modules.append(module)
    return modules
