"""Arrange weights for the kernels of native/inference.c: panels of columns, in words of 32 bits."""

from collections.abc import Mapping
from math import e, log2
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipeline.extend import Precision
from pipeline_recurrent.engines.engine import Cell, Weights

NUMBERS_PER_WORD: Final[Mapping[Precision, int]] = {"float32": 1, "bfloat16": 2, "int8": 4}
"""The numbers in 32 bits of an operand."""

# The kernels compute sigmoid(y) as 1 / (1 + 2^(-log2(e) y)) and tanh(y) from 2^(2 log2(e) y). The factors are in the
# recurrent weights, which saves a multiplication per gate and step.
_SIGMOID, _TANH = -log2(e), 2 * log2(e)
_FACTORS: Final[Mapping[Cell, tuple[float, ...]]] = {
    "lstm": (_SIGMOID, _SIGMOID, _TANH, _SIGMOID),
    "gru": (_SIGMOID, _SIGMOID, _TANH),
    "rnn_tanh": (_TANH,),
    "rnn_relu": (1.0,),
}


class Shape(NamedTuple):
    """How the rows of weights (units of gates) are divided into vectors.

    Attributes:
        panels: number of panels.
        vecs: vectors in a panel: the gates of the same units, or neighbouring units of a plain RNN.
        lanes: units in a vector.
        block: words of an operand, of 32 bits, are a multiple of it: zeros fill it up.
    """

    panels: int
    vecs: int
    lanes: int
    block: int

    @classmethod
    def fit(cls, cell: Cell, hidden: int, lanes: int, block: int = 1) -> "Shape":
        """Return the shape for a hidden size."""
        vectors, gates = -(-hidden // lanes), len(_FACTORS[cell])
        if gates > 1:
            return cls(vectors, gates, lanes, block)
        # A tile of more vectors is faster; but vectors that fill up the last panel are computed for nothing.
        vecs = min((4, 3, 2, 1), key=lambda vecs: -(-vectors // vecs) * vecs)
        return cls(-(-vectors // vecs), vecs, lanes, block)

    def arrange_rows(self, weight: Tensor, gates: int) -> Tensor:
        """Return weights of (gates x hidden) x number as panels x vecs x lanes x number, with zeros in added places."""
        hidden, size = len(weight) // gates, weight.shape[1]
        units = self.panels * self.lanes * (self.vecs if gates == 1 else 1)
        padded = pad(weight.reshape(gates, hidden, size), (0, 0, 0, units - hidden))
        if gates == 1:
            return padded.reshape(self.panels, self.vecs, self.lanes, size)
        return padded.reshape(gates, self.panels, self.lanes, size).transpose(0, 1)


class Arranged(NamedTuple):
    """A matrix with its bias, as the struct `Matrix` of native/inference.c.

    Attributes:
        panels: panels x words x vecs x lanes, as integers.
        bias: panels x vecs x lanes.
        scales: for int8, the value of 1 in a weight, in the shape of the bias; else empty.
        offsets: for int8, -128 times the sum of the weights, in the shape of the bias; else empty.
    """

    panels: Tensor
    bias: Tensor
    scales: Tensor
    offsets: Tensor


def arrange_matrix(weight: Tensor, bias: Tensor, gates: int, shape: Shape, precision: Precision) -> Arranged:
    """Arrange weights of (gates x hidden) x number, and round them to a precision.

    For int8, the largest weight of each row becomes 127 or -127.
    """
    rows, per_word = shape.arrange_rows(weight, gates), NUMBERS_PER_WORD[precision]
    rows = pad(rows, (0, -rows.shape[-1] % (per_word * shape.block)))
    scales = offsets = bias.new_zeros(0)
    if precision == "bfloat16":
        rows = rows.bfloat16()
    elif precision == "int8":
        scales = rows.abs().amax(-1) / 127
        rows = (rows / scales.where(scales > 0, 1).unsqueeze(-1)).round().to(torch.int8)
        offsets = -128 * rows.sum(-1, dtype=torch.int32)
    words = rows.view(*rows.shape[:-1], -1, per_word).permute(0, 3, 1, 2, 4).contiguous()
    arranged_bias = shape.arrange_rows(bias.unsqueeze(1), gates).contiguous()
    return Arranged(words.view(torch.int32), arranged_bias, scales.contiguous(), offsets.contiguous())


def arrange_direction(
    cell: Cell, weights: Weights, shape: Shape, precision: Precision, *, rounds: bool, looks_up: bool
) -> tuple[Arranged | None, Arranged]:
    """Arrange the input weights and the recurrent weights of one direction of one layer.

    Args:
        cell: the kind of cell.
        weights: the weights.
        shape: how to divide them.
        precision: the precision of products.
        rounds: whether to round weights in float32 to bfloat16.
        looks_up: whether input products are looked up, so that the input weights are not needed.
    """
    w_in, w_state, b_in, b_state = weights
    hidden, gates = w_state.shape[1], len(_FACTORS[cell])
    zeros = w_state.new_zeros(gates * hidden)
    b_in, b_state = zeros if b_in is None else b_in, zeros if b_state is None else b_state
    # Both biases are added to the input product; but the recurrent one of a GRU's new gate is inside the product with
    # the reset gate.
    inside = torch.arange(gates * hidden) >= 2 * hidden if cell == "gru" else zeros.bool()
    factors = torch.tensor(_FACTORS[cell], dtype=w_state.dtype).repeat_interleave(hidden)
    w_state = w_state * factors.unsqueeze(1)
    if rounds:
        w_in, w_state = w_in.bfloat16().float(), w_state.bfloat16().float()
    state = arrange_matrix(w_state, (b_state * factors).where(inside, 0), gates, shape, precision)
    if looks_up:
        return None, state
    return arrange_matrix(w_in, b_in + b_state.where(~inside, 0), gates, shape, precision), state
