"""Engines that call torch's own kernels: packed (cuDNN on a GPU), or dense over padded rows."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, final

import torch
from torch import Tensor
from torch.nn.functional import pad
from typing_extensions import override

from pipeline.extend import Carry, PackingOrder
from pipeline_recurrent.engines.engine import (
    Cell,
    LayeredEngine,
    LayerInputs,
    LayerOutputs,
    StackInputs,
    Weights,
    explain_transform,
    explain_unsupported,
    make_zeros,
)

# Added to the sum of a gate, this makes its sigmoid exactly 0 or 1, however large the rest of the sum. Infinity would
# do so too, but it is multiplied by the mark, which is 0 at real steps, and infinity times zero is NaN.
_SATURATED: Final = 1e20

_LOOKS_NOTHING_UP: Final = "it cannot look up precomputed input products"
"""Why torch's kernels do not take ids: they multiply the input by the input weights themselves."""


class _PackedKernels(LayeredEngine):
    """Torch's kernels on packed rows: the whole stack in one call, unless norms or residuals go between layers."""

    widens = False
    projections = True

    @override
    def run(self, stack: StackInputs) -> LayerOutputs:
        if stack.norms or stack.residual or stack.highways or (stack.dropout and stack.per_row):
            return super().run(stack)
        shape = (stack.layers * stack.directions, stack.order.nonempty_count, stack.hidden)
        return _call_packed(
            stack.cell,
            stack.steps,
            stack.order,
            [own for layer in stack.weights for own in layer],
            stack.initial or make_zeros(stack.cell, stack.steps, *shape),
            layers=stack.layers,
            dropout=stack.dropout,
            train=stack.needs_grad,
            projections=[own for layer in stack.projections for own in layer],
        )

    @override
    def run_layer(self, inputs: LayerInputs) -> LayerOutputs:
        return run_packed_layer(inputs)


@final
class Packed(_PackedKernels):
    """The engine that takes everything torch's modules take: every dtype, autocast and all devices."""

    name = "packed"

    @override
    def unsupported_reason(self, stack: StackInputs) -> str | None:
        device, order = stack.steps.device.type, stack.order
        # Rows of one length go to oneDNN, whose LSTM raises an error where it lacks a kernel.
        if stack.cell == "lstm" and device == "cpu" and stack.is_autocast and order.is_full(order.longest):
            dtype = torch.get_autocast_dtype(device)
            if not has_low_precision(dtype):
                return f"torch cannot run an LSTM on rows of one length under autocast to {dtype} on this processor"
            if dtype is torch.float16 and stack.needs_grad:
                return "torch cannot train an LSTM on rows of one length under autocast to float16 on a CPU"
        return _LOOKS_NOTHING_UP if stack.looks_up else explain_transform(stack)


_is_acceptable: Callable[[Tensor], bool] = getattr(torch.backends.cudnn, "is_acceptable")  # noqa: B009
"""Torch leaves its type open."""


@cache
def has_low_precision(dtype: torch.dtype) -> bool:
    """Return whether oneDNN has kernels of a low precision for this processor."""
    # Newer than torch's stubs, and absent without oneDNN.
    name = "_is_mkldnn_bf16_supported" if dtype is torch.bfloat16 else "_is_mkldnn_fp16_supported"
    is_supported: Callable[[], bool] | None = getattr(torch.ops.mkldnn, name, None)
    return is_supported is not None and is_supported()


@final
class CuDNN(_PackedKernels):
    """Torch's kernels on a GPU, where they are cuDNN's (or MIOpen's on AMD)."""

    name = "cudnn"

    @override
    def unsupported_reason(self, stack: StackInputs) -> str | None:
        device = stack.steps.device
        if device.type != "cuda":
            return f"it runs on a GPU, but the values are on {device}"
        if not _is_acceptable(stack.steps):
            return f"cuDNN is absent, switched off, or does not take {stack.steps.dtype}"
        return _LOOKS_NOTHING_UP if stack.looks_up else explain_transform(stack)


def run_packed_layer(inputs: LayerInputs) -> LayerOutputs:
    """Compute one layer with torch's packed kernel."""
    cell, order, steps, weights = inputs[:4]
    initial, train = inputs.initial_or_zeros(), torch.is_grad_enabled()
    return _call_packed(cell, steps, order, weights, initial, train=train, projections=inputs.projections)


def _call_packed(
    cell: Cell,
    steps: Tensor,
    order: PackingOrder,
    weights: Sequence[Weights],
    initial: Carry,
    *,
    train: bool,
    layers: int = 1,
    dropout: float = 0.0,
    projections: Sequence[Tensor] = (),
) -> LayerOutputs:
    """Call torch's function of each cell; the states are two tensors for an LSTM and one for the others."""
    # Torch's functions, not its modules: these would build a PackedSequence, and check and sort what is sorted already.
    # `train` makes them keep buffers for the backward pass, and switches on dropout between layers.
    each = [(*own, projections[at]) for at, own in enumerate(weights)] if projections else weights
    flat = [weight for own in each for weight in own if weight is not None]
    bias, train, both = weights[0][2] is not None, train or dropout > 0, len(weights) == 2 * layers
    if cell == "lstm":
        output, *ended = torch.lstm(steps, order.batch_sizes, list(initial), flat, bias, layers, dropout, train, both)
        return output, tuple(ended)
    call = torch.gru if cell == "gru" else torch.rnn_tanh if cell == "rnn_tanh" else torch.rnn_relu
    output, end = call(steps, order.batch_sizes, initial[0], flat, bias, layers, dropout, train, both)
    return output, (end,)


@final
class Dense(LayeredEngine):
    """Torch's kernels on rows padded to the longest one, with exact results.

    A forward direction never sees the padding after a row. A backward direction reads rows that were reversed, each
    within its own length. For an LSTM in float32 torch uses oneDNN here, which is fast while there is little padding.
    """

    name = "dense"

    @override
    def unsupported_reason(self, stack: StackInputs) -> str | None:
        return _LOOKS_NOTHING_UP if stack.looks_up else explain_unsupported(stack)

    @override
    def run_layer(self, inputs: LayerInputs) -> LayerOutputs:
        cell, order, steps, weights, initial = inputs[:5]
        outputs, carries = list[Tensor](), list[Carry]()
        # Torch's own backward direction would start in the padding, so each direction is a forward layer by itself.
        for direction, own in enumerate(weights):
            start = tuple(state[direction] for state in initial)
            seen = steps.index_select(0, order.reversal) if direction else steps
            output, ended = _run_dense(cell, seen, order, own, start)
            outputs.append(output.index_select(0, order.reversal) if direction else output)
            carries.append(ended)
        return torch.cat(outputs, dim=-1), tuple(torch.stack(states) for states in zip(*carries, strict=True))


def _run_dense(cell: Cell, steps: Tensor, order: PackingOrder, weights: Weights, initial: Carry) -> LayerOutputs:
    """Compute one direction over packed steps, given in its reading order."""
    rows, time, hidden = order.nonempty_count, order.longest, weights[1].shape[-1]
    start = initial or make_zeros(cell, steps, rows, hidden)
    # Rows of one length fill the rectangle: their packed order is its time-major order, and nothing is copied.
    ragged = order.steps < rows * time
    if ragged:
        if cell == "lstm":
            steps, weights = _mark_padding(steps, weights)
        rectangle = steps.new_zeros(rows * time, steps.shape[-1])
        if cell == "lstm":
            rectangle[:, -1] = 1
        steps = rectangle.index_copy(0, order.sorted_flat_indices, steps)
    sequence = steps.view(time, rows, -1)
    flat = [weight for weight in weights if weight is not None]
    states = [state.unsqueeze(0) for state in start]
    bias, train = weights[2] is not None, torch.is_grad_enabled()
    if cell == "lstm":
        # The final hidden states are those of the last column too, but each row's own are in the output.
        output, _, cells = torch.lstm(sequence, states, flat, bias, 1, 0.0, train, False, False)  # noqa: FBT003
    else:
        call = torch.gru if cell == "gru" else torch.rnn_tanh if cell == "rnn_tanh" else torch.rnn_relu
        output, cells = call(sequence, states[0], flat, bias, 1, 0.0, train, False, False)  # noqa: FBT003
    output = output.flatten(0, 1)
    if ragged:
        output = output.index_select(0, order.sorted_flat_indices)
    ended = output.index_select(0, order.sorted_last_steps)
    return output, (ended, cells[0]) if cell == "lstm" else (ended,)


def _mark_padding(steps: Tensor, weights: Weights) -> tuple[Tensor, Weights]:
    """Add an input feature, 0 at real steps and 1 in padding, and weights by which it freezes an LSTM's cell.

    The dense kernel returns the cells of the last column only, where short rows have long ended. In padding the input
    gate is shut and the forget gate open, so that c = 1 c + 0 g: each row's own last cell survives to that column.
    """
    hidden = weights[1].shape[-1]
    by_mark = weights[0].new_zeros(4 * hidden, 1)
    by_mark[:hidden] = -_SATURATED
    by_mark[hidden : 2 * hidden] = _SATURATED
    return pad(steps, (0, 1)), (torch.cat([weights[0], by_mark], dim=1), *weights[1:])
