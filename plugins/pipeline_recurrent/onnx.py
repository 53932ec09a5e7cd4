"""The operator `pipeline::recurrent_layer` in ONNX: its LSTM, GRU or RNN, with the lengths of the rows."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from pipeline_recurrent.engines.engine import STATES, Cell

_GATES: Final[Mapping[Cell, Sequence[int]]] = {
    # Torch's gates i f g o and r z n, in ONNX's orders i o f c and z r h.
    "lstm": (0, 3, 1, 2),
    "gru": (1, 0, 2),
    "rnn_tanh": (0,),
    "rnn_relu": (0,),
}
"""For each gate of ONNX its place among torch's gates."""

_INT32: Final = 6
"""ONNX's number of the type int32."""


def make_layer_function() -> Callable[..., object]:
    """Return the function that torch's exporter calls for each layer; it needs the package onnxscript.

    Source: https://onnx.ai/onnx/operators/onnx__LSTM.html, GRU and RNN. Rows of length 0 are not described there, so
    their final states are selected here.
    """
    op: Any = getattr(import_module("onnxscript"), "opset18")  # noqa: B009

    def layer(
        values: Any,  # noqa: ANN401 - values of a graph under construction, whose class is onnxscript's
        lengths: Any,  # noqa: ANN401
        weights: Sequence[Any],
        initial: Sequence[Any],
        cell: Cell,
        both: bool,
        engine: str,
    ) -> tuple[object, object, object]:
        del engine
        directions = 2 if both else 1
        hidden = int(weights[1].shape[1])
        each = len(weights) // directions
        by_direction = [weights[at : at + each] for at in range(0, len(weights), each)]
        w_in, w_state, *biases = [
            op.Concat(*(op.Unsqueeze(_reorder(op, own[index], cell, hidden), [0]) for own in by_direction), axis=0)
            for index in range(each)
        ]
        bias = op.Concat(*biases, axis=1) if biases else None
        counts = op.Cast(lengths, to=_INT32)
        began = list(initial) or [_make_zeros(op, lengths, directions, hidden)] * STATES[cell]
        arguments = (op.Transpose(values, perm=[1, 0, 2]), w_in, w_state, bias, counts, *began)
        options = {"direction": "bidirectional" if both else "forward", "hidden_size": hidden}
        if cell == "lstm":
            steps, *ended = op.LSTM(*arguments, **options)
        elif cell == "gru":
            # As in torch, the reset gate is applied after the recurrent product.
            steps, *ended = op.GRU(*arguments, linear_before_reset=1, **options)
        else:
            activation = "Tanh" if cell == "rnn_tanh" else "Relu"
            steps, *ended = op.RNN(*arguments, activations=[activation] * directions, **options)
        # Time x directions x batch x hidden becomes batch x time x (directions x hidden).
        output = op.Reshape(op.Transpose(steps, perm=[2, 0, 1, 3]), op.Constant(value_ints=[0, 0, -1]))
        is_empty = op.Unsqueeze(op.Equal(lengths, op.Constant(value_int=0)), [0, 2])
        states = [op.Where(is_empty, start, end) for start, end in zip(began, ended, strict=True)]
        cells = states[1] if cell == "lstm" else op.ConstantOfShape(op.Constant(value_ints=[0]))
        return output, states[0], cells

    return layer


def _reorder(op: Any, weight: Any, cell: Cell, hidden: int) -> object:  # noqa: ANN401 - as above
    """Return a weight or bias with its gates in ONNX's order."""
    # Slices, not a split: onnxscript computes operators on constants in advance only if they have one result.
    starts = [place * hidden for place in _GATES[cell]]
    gates = [op.Slice(weight, _constant(op, at), _constant(op, at + hidden), _constant(op, 0)) for at in starts]
    return op.Concat(*gates, axis=0)


def _constant(op: Any, number: int) -> object:  # noqa: ANN401 - as above
    return op.Constant(value_ints=[number])


def _make_zeros(op: Any, lengths: Any, directions: int, hidden: int) -> object:  # noqa: ANN401 - as above
    """Return initial states of zeros, directions x batch x hidden."""
    shape = op.Concat(op.Constant(value_ints=[directions]), op.Shape(lengths), op.Constant(value_ints=[hidden]), axis=0)
    return op.ConstantOfShape(shape)
