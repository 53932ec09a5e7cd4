"""A recurrent layer as one operator of torch, `pipeline::recurrent_layer`: what a graph holds in place of an engine.

A compiler cannot see into an engine: it loops over time, asks for lengths, and may be compiled code. To a graph the
operator is opaque. Its fake implementation says which shapes it returns, its formula for gradients is an operator too,
and `onnx.py` says which operator of ONNX it is. Importing this module registers both operators.
"""

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias, cast

import torch
from torch import Tensor

from pipeline.extend import Carry, PackingOrder
from pipeline_recurrent.engines.choose import EngineName, choose_engine
from pipeline_recurrent.engines.engine import STATES, Cell, LayerInputs, StackInputs, Weights, make_zeros
from pipeline_recurrent.engines.plain import differentiate_layer

LAYER: Final = "pipeline::recurrent_layer"
"""The name of the operator."""

_BACKWARD: Final = "pipeline::recurrent_layer_backward"

_ARGUMENTS: Final = "Tensor values, Tensor lengths, Tensor[] weights, Tensor[] initial, str cell, bool both, str engine"


def run_layer(
    values: Tensor, lengths: Tensor, weights: Sequence[Weights], initial: Carry, cell: Cell, engine: EngineName
) -> tuple[Tensor, Carry]:
    """Compute one layer by the operator, and return the hidden vectors and each row's final states.

    Args:
        values: batch x time x feature, or packed steps x feature. Padding may hold anything.
        lengths: the number of steps of each row, in reading order; on the CPU.
        weights: those of each direction.
        initial: tensors of directions x batch x hidden; empty for zeros.
        cell: the kind of cell.
        engine: the engine's name, or "auto".

    Returns:
        hidden vectors in the layout of the values, with zeros in the padding, the directions side by side; and final
        states, directions x batch x hidden, those of an empty row being its initial ones.
    """
    flat = [tensor for own in weights for tensor in own if tensor is not None]
    output, hidden, cells = _call(values, lengths, flat, list(initial), cell, len(weights) == 2, engine)
    return output, (hidden, cells)[: STATES[cell]]


def _compute(
    values: Tensor,
    lengths: Tensor,
    weights: Sequence[Tensor],
    initial: Sequence[Tensor],
    cell: Cell,
    both: bool,
    engine: EngineName,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the layer's engine on the real steps."""
    inputs, rows = _read_inputs(values, lengths, weights, initial, cell, both)
    hidden, directions, order = weights[1].shape[1], 2 if both else 1, inputs.order
    began = tuple(initial) or make_zeros(cell, weights[1], directions, len(lengths), hidden)
    output, ended = weights[1].new_zeros(0, directions * hidden), tuple(state[:, :0] for state in began)
    if order.nonempty_count:
        stack = StackInputs(cell, inputs.steps, order, [inputs.weights], inputs.initial)
        output, ended = choose_engine(engine, stack).run(stack)
    # Copies: an operator's results must not share memory.
    states = [start.index_copy(1, rows, end) for start, end in zip(began, ended, strict=True)]
    states += [output.new_empty(0)] * (2 - len(states))
    return _restore_layout(output, values, order), states[0], states[1]


def _differentiate(
    gradients: Sequence[Tensor],
    values: Tensor,
    lengths: Tensor,
    weights: Sequence[Tensor],
    initial: Sequence[Tensor],
    cell: Cell,
    both: bool,
    engine: EngineName,
) -> list[Tensor]:
    """Return the gradients of the values, the weights and the initial states.

    The layer is computed again, so that graphs need not keep gates whose number depends on the lengths.
    """
    del engine
    inputs, rows = _read_inputs(values, lengths, weights, initial, cell, both)
    by_output, *by_states = gradients
    if not inputs.order.nonempty_count:
        return [*map(torch.zeros_like, (values, *weights)), *(by.clone() for by in by_states[: len(initial)])]
    by_ended = [by.index_select(1, rows) for by in by_states[: STATES[cell]]]
    found = differentiate_layer(inputs, [_get_steps(by_output, inputs.order), *by_ended])
    *by_weights, by_steps = [by for by in found[: len(found) - len(inputs.initial)] if by is not None]
    # The final state of an empty row is its initial one, and so is its gradient.
    pairs = zip(by_states, found[len(found) - len(inputs.initial) :], strict=False)
    by_initial = [by.index_copy(1, rows, cast("Tensor", by_start)) for by, by_start in pairs]
    return [_restore_layout(by_steps, values, inputs.order), *by_weights, *by_initial]


def _read_inputs(
    values: Tensor, lengths: Tensor, weights: Sequence[Tensor], initial: Sequence[Tensor], cell: Cell, both: bool
) -> tuple[LayerInputs, Tensor]:
    """Return the layer over the rows that have steps, and the indices of these rows, the longest first."""
    order = PackingOrder(lengths, values.device)
    rows = order.sorted_indices[: order.nonempty_count].to(values.device)
    count = len(weights) // (2 if both else 1)
    # Two weights per direction, and two biases if it has any.
    own = [(*weights[at : at + count], None, None)[:4] for at in range(0, len(weights), count)]
    began = tuple(state.index_select(1, rows) for state in initial)
    return LayerInputs(cell, order, _get_steps(values, order), cast("list[Weights]", own), began), rows


def _get_steps(values: Tensor, order: PackingOrder) -> Tensor:
    """Return the real steps in packed order."""
    return values if values.ndim == 2 else values.flatten(0, 1).index_select(0, order.flat_indices(values.shape[1]))


def _restore_layout(steps: Tensor, values: Tensor, order: PackingOrder) -> Tensor:
    """Return packed steps in the layout of the values, with zeros in the padding, in memory of their own."""
    if values.ndim == 2:
        return steps.clone()
    batch, time = values.shape[:2]
    flat = steps.new_zeros(batch * time, steps.shape[-1])
    return flat.index_copy_(0, order.flat_indices(time), steps).view(batch, time, -1)


def _fake(
    values: Tensor,
    lengths: Tensor,
    weights: Sequence[Tensor],
    initial: Sequence[Tensor],
    cell: Cell,
    both: bool,
    engine: EngineName,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return results without values."""
    del initial, engine
    directions, hidden = 2 if both else 1, weights[1].shape[1]
    state = values.new_empty(directions, lengths.shape[0], hidden)
    cells = torch.empty_like(state) if STATES[cell] == 2 else values.new_empty(0)
    return values.new_empty(*values.shape[:-1], directions * hidden), state, cells


def _fake_gradients(
    gradients: Sequence[Tensor],
    values: Tensor,
    lengths: Tensor,
    weights: Sequence[Tensor],
    initial: Sequence[Tensor],
    cell: Cell,
    both: bool,
    engine: EngineName,
) -> list[Tensor]:
    """Return gradients without values."""
    del gradients, lengths, cell, both, engine
    return [tensor.new_empty(tensor.shape) for tensor in (values, *weights, *initial)]


class _Context(Protocol):
    """What an operator keeps for its backward pass; torch leaves the type open."""

    saved_tensors: Sequence[Tensor]
    options: tuple[int, Cell, bool, EngineName]
    save_for_backward: Callable[..., None]


_Inputs: TypeAlias = tuple[Tensor, Tensor, Sequence[Tensor], Sequence[Tensor], Cell, bool, EngineName]


def _keep(ctx: _Context, inputs: _Inputs, output: object) -> None:
    """Keep the inputs for the backward pass."""
    del output
    values, lengths, weights, initial, cell, both, engine = inputs
    ctx.save_for_backward(values, lengths, *weights, *initial)
    ctx.options = (len(weights), cell, both, engine)


def _backward(ctx: _Context, *gradients: Tensor) -> tuple[object, ...]:
    """Return the gradient of each argument."""
    count, *options = ctx.options
    values, lengths, *others = ctx.saved_tensors
    weights, initial = others[:count], others[count:]
    by_values, *by_others = _call_backward(list(gradients), values, lengths, weights, initial, *options)
    return by_values, None, by_others[:count], by_others[count:], None, None, None


_Register: TypeAlias = Callable[..., object]
# Torch leaves the types of operators and of their registration open.
_make_operator: Callable[..., Callable[..., object]] = getattr(torch.library, "custom_op")  # noqa: B009


def _register() -> tuple[Callable[..., tuple[Tensor, Tensor, Tensor]], Callable[..., list[Tensor]]]:
    """Register both operators, and return them."""
    layer = _make_operator(LAYER, _compute, mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor, Tensor)")
    backward = _make_operator(
        _BACKWARD, _differentiate, mutates_args=(), schema=f"(Tensor[] gradients, {_ARGUMENTS}) -> Tensor[]"
    )
    for operator, fake in ((layer, _fake), (backward, _fake_gradients)):
        register: _Register = getattr(operator, "register_fake")  # noqa: B009
        register(fake)
    register_autograd: _Register = getattr(layer, "register_autograd")  # noqa: B009
    register_autograd(_backward, setup_context=_keep)
    return cast("Callable[..., tuple[Tensor, Tensor, Tensor]]", layer), cast("Callable[..., list[Tensor]]", backward)


_call, _call_backward = _register()
