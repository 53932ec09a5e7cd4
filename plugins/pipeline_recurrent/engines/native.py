"""The native engine: compiled kernels on the packed layout, as a differentiable operation.

A kernel does the recurrent product and the gates of a step in one pass, while the sums are still in registers; see
`native/kernels.c`. The input product and the weight gradients are one torch product each, over all steps.
"""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final, Protocol, cast, final

import torch
from torch import Tensor
from torch.autograd.function import Function
from typing_extensions import override

from pipeline.extend import ShapeError, name_transform
from pipeline_recurrent.engines.engine import (
    STATES,
    AutogradContext,
    LayeredEngine,
    LayerInputs,
    LayerOutputs,
    StackInputs,
    Weights,
    explain_unsupported,
    fill_input_product,
    may_overwrite_saved,
    needs_grad,
    switch_off_autocast,
)
from pipeline_recurrent.engines.native_layout import INPUT_GATES, RECURRENT_GATES, Layout
from pipeline_recurrent.engines.unrolled import double_backward
from pipeline_recurrent.native.library import available, load_kernels

# Under autocast, layers are computed in float32 where bfloat16 would be slower: torch's product of bfloat16 takes 13
# microseconds more than one of float32 to begin, and weights are rounded in every call. In training that depends on the
# batch. In inference it must not, so that a row's result does not depend on the rows beside it. Then only the smallest
# layers are left out, and a lone short row takes up to a third more time than in float32.
MIN_OPERATIONS_FOR_BFLOAT16: Final = 15_000_000
"""In training, of the products of one direction in the forward pass."""
MIN_WEIGHTS_FOR_BFLOAT16: Final = 16_000
"""In inference, in one direction."""


@final
class Native(LayeredEngine):
    """Compiled kernels, for float32 and bfloat16 on a CPU.

    In bfloat16 (that of the weights, or under autocast) the factors of products are rounded to bfloat16 and added up in
    float32, if the processor has instructions for it. States and cells are carried from step to step in float32. Other
    processors compute bfloat16 in float32, as all do float16.

    The recurrence gives the same bits with any number of threads; torch's own products, before and after it, may not.

    Args:
        instruction_set: one by name, instead of the best one of this machine.
    """

    name = "native"

    def __init__(self, instruction_set: str | None = None) -> None:
        self.instruction_set: str | None = instruction_set

    @override
    def unsupported_reason(self, stack: StackInputs) -> str | None:
        if stack.steps.device.type != "cpu":
            return f"it runs on a CPU, but the values are on {stack.steps.device}"
        if stack.dtype.itemsize > 4:
            return f"it computes in float32, but the values are {stack.dtype}"
        return available() or explain_unsupported(stack)

    @override
    def run_layer(self, inputs: LayerInputs) -> LayerOutputs:
        """Compute one layer in float32.

        Raises:
            UnavailableError: if the kernels cannot be used; `available` gives the reason.
            ShapeError: if a tensor does not fit the others in shape, or is not float32 on the CPU.
        """
        return self._compute(inputs, torch.float32, torch.float32)

    @override
    def run_low_layer(self, inputs: LayerInputs, dtype: torch.dtype) -> LayerOutputs:
        """Compute one layer with products in bfloat16, if there are kernels for them; else in float32.

        Raises:
            UnavailableError: if the kernels cannot be used; `available` gives the reason.
            ShapeError: if a tensor does not fit the others in shape, or is not on the CPU.
        """
        own = inputs.weights[0][1].dtype
        pays = own is dtype or _gains_by_rounding(inputs)
        if not pays or not load_kernels(self.instruction_set).computes(dtype):
            return super().run_low_layer(inputs, dtype)
        # Only factors of products are rounded, not biases and states. Their gradients are rounded likewise.
        weights = [
            (w_ih.to(dtype), w_hh.to(dtype), *(None if bias is None else bias.float() for bias in biases))
            for w_ih, w_hh, *biases in inputs.weights
        ]
        # Autocast may stay on: it changes no product of bfloat16.
        initial = tuple(state.float() for state in inputs.initial_or_zeros())
        low = inputs._replace(steps=inputs.steps.to(dtype), weights=cast("Sequence[Weights]", weights), initial=initial)
        output, ended = self._compute(low, dtype, own)
        return output, tuple(state.to(own) for state in ended)

    def _compute(self, inputs: LayerInputs, dtype: torch.dtype, output_dtype: torch.dtype) -> LayerOutputs:
        """Compute one layer with operands of a dtype."""
        inputs = inputs._replace(initial=inputs.initial_or_zeros())
        tensors, kernels = inputs.tensors, load_kernels(self.instruction_set)
        layout = Layout(inputs, kernels, train=needs_grad(tensors), dtype=dtype, output_dtype=output_dtype)
        _check(layout, inputs)
        output, *ended = _apply(layout, inputs, *tensors) if layout.train else _run(layout, inputs)[0]
        return output, tuple(ended)


def _gains_by_rounding(inputs: LayerInputs) -> bool:
    """Return whether float32 tensors are faster computed in bfloat16."""
    weights = sum(weight.numel() for weight in inputs.weights[0][:2])
    if needs_grad(inputs.tensors):
        return 2 * weights * inputs.order.steps >= MIN_OPERATIONS_FOR_BFLOAT16
    return weights >= MIN_WEIGHTS_FOR_BFLOAT16


def _check(layout: Layout, inputs: LayerInputs) -> None:
    """Reject tensors that do not fit: the kernels get addresses, and would read whatever is there."""
    x, hidden, rows, steps = inputs.steps, layout.hidden, layout.gates * layout.hidden, layout.order.steps
    factor, term = layout.dtype, torch.float32
    expected: list[tuple[str, Tensor, tuple[int, ...], torch.dtype]] = []
    if x.is_floating_point():
        features = x.shape[-1]
        expected.append(("x", x, (steps, features), factor))
    else:
        features = inputs.weights[0][0].shape[-1]
        if x.shape != (steps,):
            msg = f"x must be {steps} ids, one per step, got {tuple(x.shape)}."
            raise ShapeError(msg, argument="x")
    initial_shape = (layout.directions, layout.order.nonempty_count, hidden)
    expected += [("initial", state, initial_shape, term) for state in inputs.initial]
    for w_ih, w_hh, *biases in inputs.weights:
        expected += [("weight_ih", w_ih, (rows, features), factor), ("weight_hh", w_hh, (rows, hidden), factor)]
        expected += [("bias", bias, (rows,), term) for bias in biases if bias is not None]
    for name, tensor, shape, dtype in expected:
        if tensor.shape != shape or tensor.dtype is not dtype or tensor.device.type != "cpu":
            got = f"{tuple(tensor.shape)} in {tensor.dtype} on {tensor.device}"
            msg = f"{name} must be {shape} in {dtype} on the CPU, got {got}."
            raise ShapeError(msg, argument=name)
    if len(inputs.initial) != STATES[layout.cell]:
        msg = f"initial must be {STATES[layout.cell]} tensor(s) for {layout.cell}, got {len(inputs.initial)}."
        raise ShapeError(msg, argument="initial")


class _Context(AutogradContext, Protocol):
    layout: Layout


@final
class _NativeLayer(Function):
    """The kernels as one differentiable operation.

    Autograd needs the tensors as plain arguments; `inputs` holds the same ones.
    """

    @override
    @staticmethod
    def forward(ctx: _Context, layout: Layout, inputs: LayerInputs, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        results, buffers = _run(layout, inputs)
        ctx.layout = layout
        # Every tensor through save_for_backward: an output kept on the context itself would be a cycle, never freed.
        ctx.save_for_backward(*tensors, *buffers)
        return tuple(results)

    @override
    @staticmethod
    def backward(ctx: _Context, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layout, needed, saved = ctx.layout, ctx.needs_input_grad[2:], ctx.saved_tensors
        inputs = LayerInputs.from_tensors(layout.cell, layout.order, layout.directions, saved[: len(needed)])
        # Grad mode is on in a backward pass if its gradients will be differentiated themselves. A backward pass for a
        # batch of gradients is a transform, though the forward pass was none.
        with switch_off_autocast("cpu"):
            if torch.is_grad_enabled() or name_transform(*gradients):
                return None, None, *double_backward(inputs, gradients, needed)
            buffers = cast("Sequence[Tensor]", saved[len(needed) :])
            return None, None, *_differentiate(layout, inputs, gradients, buffers, needed)


# Torch leaves the type of `apply` open.
_apply: Callable[..., Sequence[Tensor]] = attrgetter("apply")(_NativeLayer)


def _run(layout: Layout, inputs: LayerInputs) -> tuple[list[Tensor], list[Tensor]]:
    """Return output and final states; and the buffers of the backward pass: states, initial states, gates, cells."""
    initial = [layout.pad(state).contiguous() for state in inputs.initial]
    ended = [state.clone() for state in initial]
    # The first step's operand, too.
    initial[0] = initial[0].to(layout.dtype)
    like, steps = inputs.weights[0][1], layout.order.steps
    states = like.new_empty(steps, layout.directions * layout.wide)
    # The kernels write an output of its own if it is more exact than the states, or not filled up as these are.
    has_output = layout.output_dtype is not layout.dtype or (layout.wide != layout.hidden and not layout.low)
    shape = steps, layout.directions * layout.hidden
    output = like.new_empty(shape, dtype=torch.float32) if has_output else states
    gates = [_input_product(layout, inputs.steps, own) for own in inputs.weights]
    has_cells = layout.cell == "lstm" and layout.train
    cells = [like.new_empty(steps, layout.wide, dtype=torch.float32) for _ in inputs.weights] if has_cells else []
    # Contiguous copies must outlive the call, so all tensors stay in this list.
    tensors: list[dict[str, Tensor]] = []
    for direction, (_, w_hh, b_ih, b_hh) in enumerate(inputs.weights):
        own = {
            "states": layout.split_directions(states, layout.wide)[:, direction],
            "weight": w_hh.contiguous(),
            "panels": like.new_empty(layout.count_panel_numbers(backward=False)),
            "gates": gates[direction],
            "h0": initial[0][direction],
            "h1": ended[0][direction],
        }
        if has_output:
            own["output"] = layout.split_directions(output, layout.hidden)[:, direction]
        if layout.low:
            own["bias"] = _arrange_biases(layout, b_ih, b_hh)
        elif layout.cell == "gru":
            bias = like.new_zeros(layout.hidden) if b_hh is None else b_hh[2 * layout.hidden :]
            own["bias"] = layout.pad(bias).contiguous()
        if layout.cell == "lstm":
            own |= {"c0": initial[1][direction], "c1": ended[1][direction]}
        if cells:
            own["cells"] = cells[direction]
        tensors.append(own)
    layout.run(tensors, backward=False, keep=layout.train)
    if not has_output and layout.wide != layout.hidden:
        output = layout.unpad(layout.split_directions(states, layout.wide)).flatten(1)
    return [output, *map(layout.unpad, ended)], [states, *initial, *gates, *cells]


def _input_product(layout: Layout, x: Tensor, weights: Weights) -> Tensor:
    """Return a buffer of gates with the input's part of all steps: one product or look-up, or two for a GRU.

    Biases are in it, but not those of products in bfloat16, which would be rounded with it: the kernel adds them.
    """
    w_ih, _, b_ih, b_hh = weights
    if not x.is_floating_point():
        return _look_up(layout, x, w_ih)
    w_ih, bias = layout.pad_rows(w_ih), None
    if not layout.low:
        bias = x.new_zeros(layout.gates * layout.hidden) if b_ih is None else b_ih
        if b_hh is not None and layout.cell == "gru":
            # The new gate's recurrent bias is inside the product with the reset gate: the kernel adds it.
            bias = torch.cat([bias[: 2 * layout.hidden] + b_hh[: 2 * layout.hidden], bias[2 * layout.hidden :]])
        elif b_hh is not None:
            bias = bias + b_hh
        bias = layout.pad_rows(bias.unsqueeze(1)).squeeze(1)
    gates = x.new_empty(len(x), layout.columns)
    for columns, rows in layout.slices(INPUT_GATES):
        fill_input_product(gates[:, columns], x, w_ih[rows], None if bias is None else bias[rows])
    return gates


def _arrange_biases(layout: Layout, *biases: Tensor | None) -> Tensor:
    """Return the biases that the kernel adds, in the order of the gates in their buffer."""
    zeros = torch.zeros(layout.gates * layout.hidden, dtype=torch.float32, device="cpu")
    by_input, by_state = (zeros if bias is None else bias for bias in biases)
    total, new = by_input + by_state, 2 * layout.hidden
    if layout.cell == "gru":
        total = torch.cat([by_input[new:], total[:new], by_state[new:]])
    return layout.pad(total.view(-1, layout.hidden)).flatten()


def _look_up(layout: Layout, ids: Tensor, table: Tensor) -> Tensor:
    """Return the same as `_input_product`, for ids and a table of (gates x hidden) x id."""
    gates = table.new_empty(len(ids), layout.columns)
    by_gate, by_id = gates.view(len(ids), -1, layout.wide), table.t().view(-1, layout.gates, layout.hidden)
    for buffer, torch_gate, count in INPUT_GATES[layout.cell]:
        torch.index_select(
            by_id[:, torch_gate : torch_gate + count], 0, ids, out=by_gate[:, buffer : buffer + count, : layout.hidden]
        )
    by_gate[:, :, layout.hidden :] = 0
    return gates


def _differentiate(
    layout: Layout,
    inputs: LayerInputs,
    gradients: Sequence[Tensor],
    buffers: Sequence[Tensor],
    needed: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of all tensors, None where not needed.

    The gradients of the gates are written over the gates if nothing reads these again.
    """
    x, weights, directions, lstm = inputs.steps, inputs.weights, layout.directions, layout.cell == "lstm"
    first, count = 1 + len(inputs.initial), 4 * directions
    states, initial, gates, cells = buffers[0], buffers[1:first], buffers[first:][:directions], buffers[-directions:]
    overwrite = may_overwrite_saved()
    by_states = gradients[0].float().contiguous()
    by_carry = [layout.pad(grad).clone(memory_format=torch.contiguous_format) for grad in gradients[1:]]
    tensors: list[dict[str, Tensor]] = []
    for direction, own in enumerate(weights):
        here: dict[str, Tensor] = {
            "states": layout.split_directions(states, layout.wide)[:, direction],
            "weight": own[1].contiguous(),
            "panels": x.new_empty(layout.count_panel_numbers(backward=True)),
            "gates": gates[direction],
            "d_states": layout.split_directions(by_states, layout.hidden)[:, direction],
            "d_gates": gates[direction] if overwrite else torch.empty_like(gates[direction]),
            "before": x.new_empty(len(x), layout.hidden),
            "h0": initial[0][direction],
            "d_h": by_carry[0][direction],
            "d_bias": by_states.new_zeros(layout.order.nonempty_count, layout.columns),
        }
        if lstm:
            here |= {"cells": cells[direction], "c0": initial[1][direction], "d_c": by_carry[1][direction]}
        tensors.append(here)
    layout.run(tensors, backward=True, keep=any(needed[count + 1 :]))

    by_x: Tensor | None = None
    by_weights: list[Tensor | None] = []
    for direction, here in enumerate(tensors):
        if needed[count]:
            w_ih = layout.pad_rows(weights[direction][0])
            for columns, rows in layout.slices(INPUT_GATES):
                product = here["d_gates"][:, columns], w_ih[rows]
                by_x = torch.mm(*product) if by_x is None else by_x.addmm_(*product)
        factors, by_biases = (x, here["before"]), here["d_bias"].sum(0)
        by_weights += _weight_gradients(layout, here["d_gates"], factors, by_biases, needed[4 * direction :])
    by_initial = [
        layout.unpad(grad) if want else None for grad, want in zip(by_carry, needed[count + 1 :], strict=True)
    ]
    return [*by_weights, by_x, *by_initial]


def _weight_gradients(
    layout: Layout, by_gates: Tensor, factors: tuple[Tensor, Tensor], by_biases: Tensor, needed: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of one direction: products of the gates' gradients with the input or the previous states."""
    found: list[Tensor | None] = [None] * 4
    for kind, (ranges, factor) in enumerate(zip((INPUT_GATES, RECURRENT_GATES), factors, strict=True)):
        if needed[kind]:
            weight = factor.new_empty(layout.gates * layout.wide, factor.shape[1])
            for columns, rows in layout.slices(ranges):
                torch.mm(by_gates[:, columns].t(), factor, out=weight[rows])
            found[kind] = layout.unpad_rows(weight)
        if needed[2 + kind]:
            bias = by_biases.new_empty(layout.gates * layout.wide)
            for columns, rows in layout.slices(ranges):
                bias[rows] = by_biases[columns]
            found[2 + kind] = layout.unpad(bias.view(layout.gates, layout.wide)).flatten()
    return found
