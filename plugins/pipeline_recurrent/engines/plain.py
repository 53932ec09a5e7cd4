"""The plain engine: torch operations on the packed layout, with a backward pass of our own."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, Protocol, cast, final

import attrs
import torch
from torch import Tensor
from torch.autograd.function import Function
from typing_extensions import override

from pipeline.extend import Carry, PackingOrder, name_transform
from pipeline_recurrent.engines.cells import KERNELS, CellKernel
from pipeline_recurrent.engines.engine import (
    AutogradContext,
    Cell,
    LayeredEngine,
    LayerInputs,
    LayerOutputs,
    StackInputs,
    Weights,
    explain_unsupported,
    may_overwrite_saved,
    needs_grad,
    switch_off_autocast,
)
from pipeline_recurrent.engines.unrolled import double_backward, unroll

# Up to this hidden size both directions are scanned together, by batched products: half the calls per step. Above it
# each is scanned alone, so that one direction's recurrent weights (an LSTM's at 256: 1 MB) stay in the cache.
MAX_HIDDEN_TOGETHER: Final = 256


@final
class Plain(LayeredEngine):
    """Torch operations only: one input product over all steps, one in-place product per step, fused gates.

    In the backward pass everything that is not recurrent is computed once over all steps, and each weight's gradient
    is one product. Autograd's own pass through torch's packed loop adds a full-size gradient per step instead, so its
    time is quadratic in the length of the rows.
    """

    name = "plain"
    zoneout = True

    @override
    def unsupported_reason(self, stack: StackInputs) -> str | None:
        return None if stack.transform else explain_unsupported(stack)

    @override
    def run_layer(self, inputs: LayerInputs) -> LayerOutputs:
        # With zoneout a step depends on the state before in one more way, which the fused gates do not have.
        if name_transform() or inputs.zoneout is not None:
            return unroll(inputs)
        tensors = inputs.tensors
        if needs_grad(tensors):
            output, *ended = _apply(inputs, *tensors)
            return output, tuple(ended)
        scanned = _scan(inputs)
        return scanned.output, scanned.ended


@attrs.define(eq=False)
class _Scanned:
    """The results of a forward pass.

    Attributes:
        gates: directions x steps x (blocks x hidden), as the backward pass needs them.
        extras: directions x steps x hidden each.
        output: steps x (directions x hidden), in packed order.
        ended: directions x rows x hidden each.
    """

    gates: Tensor
    extras: Carry
    output: Tensor
    ended: Carry = ()


class _Context(AutogradContext, Protocol):
    layer: tuple[Cell, PackingOrder, int]
    """Cell, order and number of directions: the part of `LayerInputs` that is not a tensor."""


@final
class _PlainLayer(Function):
    """A layer as one differentiable operation.

    Autograd needs the tensors as plain arguments; `inputs` holds the same ones.
    """

    @override
    @staticmethod
    def forward(ctx: _Context, inputs: LayerInputs, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        scanned = _scan(inputs)
        ctx.save_for_backward(*tensors, scanned.output, scanned.gates, *scanned.extras)
        ctx.layer = inputs.cell, inputs.order, len(inputs.weights)
        return scanned.output, *scanned.ended

    @override
    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        needed, saved = ctx.needs_input_grad[1:], ctx.saved_tensors
        inputs = LayerInputs.from_tensors(*ctx.layer, saved[: len(needed)])
        # Grad mode is on in a backward pass if its gradients will be differentiated themselves. A backward pass for a
        # batch of gradients is a transform, though the forward pass was not.
        with switch_off_autocast(inputs.steps.device.type):
            if torch.is_grad_enabled() or name_transform(*gradients):
                return None, *double_backward(inputs, gradients, needed)
            output, gates, *extras = cast("Sequence[Tensor]", saved[len(needed) :])
            if not may_overwrite_saved():
                gates, extras = gates.clone(), [extra.clone() for extra in extras]
            return None, *_differentiate(inputs, _Scanned(gates, tuple(extras), output), gradients, needed)


def differentiate_layer(inputs: LayerInputs, gradients: Sequence[Tensor]) -> list[Tensor | None]:
    """Compute a layer again, and return the gradients of `inputs.tensors`, without autograd.

    Args:
        inputs: the layer.
        gradients: those of the output and of each final state.
    """
    needed = [tensor is not None for tensor in inputs.tensors]
    return _differentiate(inputs, _scan(inputs), gradients, needed)


# Torch leaves the type of `apply` open.
_apply: Callable[..., Sequence[Tensor]] = attrgetter("apply")(_PlainLayer)


def _scan(inputs: LayerInputs) -> _Scanned:
    """Run a layer forward: the input product of all steps at once, then a loop over time."""
    kernel, order, weights = KERNELS[inputs.cell], inputs.order, inputs.weights
    like = weights[0][1]
    steps, directions, hidden = order.steps, len(weights), like.shape[-1]
    gates = like.new_empty(directions, steps, kernel.blocks * hidden)
    extras = tuple(like.new_empty(directions, steps, hidden) for _ in range(kernel.extras))
    output = like.new_empty(steps, directions * hidden)
    states = output.view(steps, directions, hidden).transpose(0, 1)
    for direction, own in enumerate(weights):
        kernel.fill_input(gates[direction], _read_by(direction, inputs.steps, order), own)
    for which in _group_directions(directions, hidden):
        kernel.scan(
            gates[which],
            states[which],
            [extra[which] for extra in extras],
            _recurrent_weights(kernel, weights, which).mT,
            order.batch_size_list,
            tuple(state[which] for state in inputs.initial),
        )
    ended = tuple(tensor.index_select(1, order.sorted_last_steps) for tensor in (states, *extras))
    if directions == 2:
        states[1] = states[1].index_select(0, order.reversal)
    return _Scanned(gates, extras, output, ended)


def _group_directions(directions: int, hidden: int) -> list[slice | int]:
    """Return which directions are scanned together: all, or each by itself."""
    return [slice(0, 2)] if directions == 2 and hidden <= MAX_HIDDEN_TOGETHER else list(range(directions))


def _read_by(direction: int, steps: Tensor, order: PackingOrder) -> Tensor:
    """Return packed steps in the order in which a direction reads them. Its own inverse."""
    return steps.index_select(0, order.reversal) if direction else steps


def _recurrent_weights(kernel: CellKernel, weights: Sequence[Weights], which: slice | int) -> Tensor:
    """Return the recurrent weights of one direction, or of both, in the order of the gate columns."""
    if isinstance(which, int):
        return kernel.reorder(weights[which][1])
    return torch.stack([kernel.reorder(own[1]) for own in weights])


def _differentiate(
    inputs: LayerInputs, scanned: _Scanned, gradients: Sequence[Tensor], needed: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of all tensors: one loop over time, then a product per weight. Overwrites `scanned`."""
    kernel, order, weights = KERNELS[inputs.cell], inputs.order, inputs.weights
    hidden, count = weights[0][1].shape[-1], 4 * len(weights)
    by_gates, by_initial = _differentiate_time(inputs, scanned, gradients, by_initial=any(needed[count + 1 :]))
    found: list[Tensor | None] = []
    by_x: Tensor | None = None
    # The backward direction first: its part is a new tensor after reordering, to which the other part can be added.
    for direction, own in reversed(list(enumerate(weights))):
        by_input = kernel.input_columns(by_gates[direction], hidden)
        w_in, w_state, b_in, b_state = needed[4 * direction :][:4]
        total = by_gates[direction].sum(0) if b_in or b_state else by_gates.new_empty(0)
        found[:0] = [
            by_input.t() @ _read_by(direction, inputs.steps, order) if w_in else None,
            _by_recurrent_weights(inputs, scanned, by_gates[direction], direction) if w_state else None,
            # A copy: gradients that share memory would be scaled twice by in-place clipping.
            kernel.input_columns(total, hidden).clone() if b_in else None,
            kernel.restore_order(kernel.recurrent_columns(total, hidden), hidden) if b_state else None,
        ]
        if needed[count]:
            by_x = _read_by(direction, by_input @ own[0], order) if by_x is None else by_x.addmm_(by_input, own[0])
    return [*found, by_x, *by_initial]


def _by_recurrent_weights(inputs: LayerInputs, scanned: _Scanned, by_gates: Tensor, direction: int) -> Tensor:
    """Return the gradient of recurrent weights. Before the first step of a row there is only its initial state."""
    kernel, rows, hidden = KERNELS[inputs.cell], inputs.order.nonempty_count, inputs.weights[0][1].shape[-1]
    by_state = kernel.recurrent_columns(by_gates, hidden)
    found = by_state[rows:].t() @ _previous_states(inputs, scanned, direction)
    if inputs.initial:
        found.addmm_(by_state[:rows].t(), inputs.initial[0][direction])
    return kernel.restore_order(found, hidden)


def _previous_states(inputs: LayerInputs, scanned: _Scanned, direction: int) -> Tensor:
    """Return the state before each step, except the first steps of rows."""
    order, hidden = inputs.order, inputs.weights[0][1].shape[-1]
    own = scanned.output[:, direction * hidden : (direction + 1) * hidden]
    return own.index_select(0, order.reversal[order.previous_steps] if direction else order.previous_steps)


def _differentiate_time(
    inputs: LayerInputs, scanned: _Scanned, gradients: Sequence[Tensor], *, by_initial: bool
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Return the gradients of the gates, and of the initial states if needed."""
    kernel, order, directions = KERNELS[inputs.cell], inputs.order, len(inputs.weights)
    # Before anything else: the factors overwrite what they read, so peak memory does not include both.
    factors = kernel.factors(scanned.gates, _factor_input(inputs, scanned), scanned.extras)
    by_output, by_end, *by_extras = gradients
    by_states = _split_directions(by_output, directions, order).index_add_(1, order.sorted_last_steps, by_end)
    by_carry = (torch.zeros_like(by_end), *(gradient.clone() for gradient in by_extras))
    for which in _group_directions(directions, inputs.weights[0][1].shape[-1]):
        kernel.scan_back(
            tuple(factor[which] for factor in factors),
            by_states[which],
            tuple(gradient[which] for gradient in by_carry),
            _recurrent_weights(kernel, inputs.weights, which),
            order.batch_size_list,
            by_initial=by_initial,
        )
    return factors[0], by_carry if by_initial else [None] * len(inputs.initial)


def _split_directions(output: Tensor, directions: int, order: PackingOrder) -> Tensor:
    """Return a copy of the output as directions x steps x hidden, each direction in its reading order."""
    halves = output.chunk(directions, -1)
    return torch.stack([_read_by(direction, half, order) for direction, half in enumerate(halves)])


def _factor_input(inputs: LayerInputs, scanned: _Scanned) -> Tensor:
    """Return what the kernel's factors read besides the gates, in a tensor of its own."""
    kernel, order, initial, directions = KERNELS[inputs.cell], inputs.order, inputs.initial, len(inputs.weights)
    if kernel.factor_input == "state":
        return _split_directions(scanned.output, directions, order)
    found = scanned.gates.new_empty(directions, order.steps, inputs.weights[0][1].shape[-1])
    cells = kernel.factor_input == "previous cell"
    found[:, : order.nonempty_count] = initial[int(cells)] if initial else 0
    for direction, own in enumerate(found):
        own[order.nonempty_count :] = (
            scanned.extras[0][direction].index_select(0, order.previous_steps)
            if cells
            else _previous_states(inputs, scanned, direction)
        )
    return found
