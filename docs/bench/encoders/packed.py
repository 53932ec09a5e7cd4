"""Torch's packed kernel, as its documentation uses it."""

from typing import cast

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from bench.encoders.problem import Problem, module_of
from bench.timing.step import Step


def packed(problem: Problem) -> Step:
    """Pack, run, and unpack: rows in any order, a rectangle in and a rectangle out."""
    module = module_of(problem)

    def forward(values: Tensor) -> Tensor:
        rows = pack_padded_sequence(values, problem.lengths, batch_first=True, enforce_sorted=False)
        states = cast("tuple[PackedSequence, object]", module(rows))[0]
        return pad_packed_sequence(states, batch_first=True)[0]

    return problem.step(forward, module.parameters())
