"""One layer on the packed layout as a function that autograd knows, with a backward pass of its own."""

from collections.abc import Callable, Sequence
from typing import Final, cast

import attrs
import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline_recurrent.engines.again import Again, gradients_again
from pipeline_recurrent.engines.run import Weights
from pipeline_recurrent.engines.scan.kernel import Kernel
from pipeline_recurrent.engines.spent import last_pass

TOGETHER: Final = 256
"""Up to how many hidden features both directions are scanned together: half the calls, as long as the recurrent
weights of both stay in the cache."""


@attrs.frozen(eq=False)
class Plan:
    """What of a layer is no tensor to differentiate by.

    Attributes:
        kernel: the cell.
        order: where the steps stand.
        directions: one, or two.
        states: how many initial states come in: none, one or two.
        again: the same layer of operations that can be differentiated twice.
    """

    kernel: Kernel
    order: Order
    directions: int
    states: int
    again: Again

    def scans(self, hidden: int) -> list[slice | int]:
        """Which directions are scanned together: all, or each by itself."""
        return [slice(0, 2)] if self.directions == 2 and hidden <= TOGETHER else list(range(self.directions))

    def seen_by(self, direction: int, tensor: Tensor) -> Tensor:
        """Packed steps as a direction meets them. Its own inverse."""
        return tensor.index_select(0, self.order.mirrored) if direction else tensor

    def parted(self, tensors: Sequence[Tensor | None]) -> tuple[Tensor, Carry, list[Weights]]:
        """Input, initial states and weights, which go through autograd in one row."""
        x, *rest = tensors
        initial, flat = rest[: self.states], rest[self.states :]
        weights = [cast("Weights", tuple(flat[4 * index : 4 * index + 4])) for index in range(self.directions)]
        return cast("Tensor", x), cast("Carry", tuple(initial)), weights


@attrs.frozen(eq=False)
class Scanned:
    """What a layer made of a batch.

    Attributes:
        gates: directions x steps x (blocks x hidden), as the backward pass needs them.
        extras: directions x steps x hidden each, beside the states.
        output: steps x (directions x hidden), in packed order.
        ended: directions x rows x hidden each.
    """

    gates: Tensor
    extras: Carry
    output: Tensor
    ended: Carry


def scanned(plan: Plan, x: Tensor, initial: Carry, weights: Sequence[Weights]) -> Scanned:
    """A layer forward: the input product of all steps at once, then a loop over time."""
    kernel, order, like = plan.kernel, plan.order, weights[0][1]
    steps, directions, hidden = order.steps, plan.directions, like.shape[-1]
    gates = like.new_empty(directions, steps, kernel.blocks * hidden)
    extras = tuple(like.new_empty(directions, steps, hidden) for _ in range(kernel.extras))
    output = like.new_empty(steps, directions * hidden)
    states = output.view(steps, directions, hidden).transpose(0, 1)
    for direction, own in enumerate(weights):
        kernel.begin(gates[direction], plan.seen_by(direction, x), own)
    for which in plan.scans(hidden):
        kernel.forward(
            gates[which],
            states[which],
            [extra[which] for extra in extras],
            _recurrent(plan, weights, which).mT,
            order.sizes,
            tuple(state[which] for state in initial) or None,
        )
    ended = tuple(tensor.index_select(1, order.ends) for tensor in (states, *extras))
    if directions == 2:
        states[1] = states[1].index_select(0, order.mirrored)
    return Scanned(gates, extras, output, ended)


def _recurrent(plan: Plan, weights: Sequence[Weights], which: slice | int) -> Tensor:
    """The recurrent weights of one direction, or of both."""
    turned = plan.kernel.turned
    return turned(weights[which][1]) if isinstance(which, int) else torch.stack([turned(own[1]) for own in weights])


class Layer(torch.autograd.Function):
    """A layer whose backward pass does per step what is recurrent, and all else once over all steps."""

    @staticmethod
    def forward(ctx: FunctionCtx, plan: Plan, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        """Output and ended states of input, initial states and weights, the latter four a direction."""
        x, initial, weights = plan.parted(tensors)
        made = scanned(plan, x, initial, weights)
        save: Callable[..., None] = ctx.save_for_backward
        save(*tensors, made.output, made.gates, *made.extras)
        setattr(ctx, "plan", plan)  # noqa: B010 - torch leaves open what a context holds
        return made.output, *made.ended

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by all that came in."""
        plan: Plan = getattr(ctx, "plan")  # noqa: B009
        saved: tuple[Tensor | None, ...] = getattr(ctx, "saved_tensors")  # noqa: B009
        wanted: tuple[bool, ...] = getattr(ctx, "needs_input_grad")  # noqa: B009
        count = 1 + plan.states + 4 * plan.directions
        tensors, (output, gates, *extras) = saved[:count], cast("list[Tensor]", saved[count:])
        # Gradients that shall be differentiated themselves are made of operations that can be.
        make = _again if torch.is_grad_enabled() else _backward
        if not torch.is_grad_enabled() and not last_pass():
            gates, extras = gates.clone(), [extra.clone() for extra in extras]
        made = Scanned(gates, tuple(extras), output, ())
        return None, *make(plan, tensors, made, gradients, wanted[1:])


differentiable: Final[Callable[..., tuple[Tensor, ...]]] = getattr(Layer, "apply")  # noqa: B009
"""Output and ended states of a plan, and of input, initial states and weights; with gradients."""


def _backward(
    plan: Plan, tensors: Sequence[Tensor | None], made: Scanned, gradients: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients by all tensors: through time once, then a product for each weight. Gates and extras are used up."""
    x, initial, weights = plan.parted(tensors)
    kernel, hidden = plan.kernel, weights[0][1].shape[-1]
    by_gates, by_initial = _through_time(plan, initial, weights, made, gradients, any(wanted[1 : 1 + plan.states]))
    found: list[Tensor | None] = []
    by_x: Tensor | None = None
    # Backwards, since what is turned around must be a tensor of its own, and the rest can be added to that.
    for direction, own in reversed(list(enumerate(weights))):
        by_input, by_state = (part(by_gates[direction], hidden) for part in (kernel.of_input, kernel.of_state))
        w_in, w_state, b_in, b_state = wanted[1 + plan.states + 4 * direction :][:4]
        total = by_gates[direction].sum(0) if b_in or b_state else by_gates.new_empty(0)
        found[:0] = [
            by_input.t() @ plan.seen_by(direction, x) if w_in else None,
            kernel.turned_back(_by_recurrent(plan, by_state, made, initial, direction), hidden) if w_state else None,
            # A copy: who scales gradients in place must not scale one twice.
            kernel.of_input(total, hidden).clone() if b_in else None,
            kernel.turned_back(kernel.of_state(total, hidden), hidden) if b_state else None,
        ]
        if wanted[0]:
            by_x = plan.seen_by(direction, by_input @ own[0]) if by_x is None else by_x.addmm_(by_input, own[0])
    return [by_x, *by_initial, *found]


def _by_recurrent(plan: Plan, by_state: Tensor, made: Scanned, initial: Carry, direction: int) -> Tensor:
    """The gradient by recurrent weights. The first step of a row has only an initial state before it, if that."""
    rows = plan.order.occupied
    found = by_state[rows:].t() @ _earlier(plan, made, direction)
    return found.addmm_(by_state[:rows].t(), initial[0][direction]) if initial else found


def _earlier(plan: Plan, made: Scanned, direction: int) -> Tensor:
    """The state before each step but the first ones of rows."""
    order, hidden = plan.order, made.output.shape[-1] // plan.directions
    own = made.output[:, direction * hidden : (direction + 1) * hidden]
    return own.index_select(0, order.mirrored[order.previous] if direction else order.previous)


def _through_time(
    plan: Plan,
    initial: Carry,
    weights: Sequence[Weights],
    made: Scanned,
    gradients: Sequence[Tensor],
    asked: bool,
) -> tuple[Tensor, Sequence[Tensor | None]]:
    """Gradients by the gates, and by the initial states if they are asked for."""
    kernel, order, hidden = plan.kernel, plan.order, weights[0][1].shape[-1]
    # First of all, so that what they look at is gone before there are gradients.
    factors = kernel.factors(made.gates, _beside(plan, made, initial), made.extras)
    by_output, by_end, *by_extras = gradients
    by_states = _planes(plan, by_output).index_add_(1, order.ends, by_end)
    carried = (torch.zeros_like(by_end), *(gradient.clone() for gradient in by_extras))
    for which in plan.scans(hidden):
        kernel.backward(
            tuple(factor[which] for factor in factors),
            by_states[which],
            tuple(gradient[which] for gradient in carried),
            _recurrent(plan, weights, which),
            order.sizes,
            asked=asked,
        )
    return factors[0], carried if asked else [None] * plan.states


def _planes(plan: Plan, output: Tensor) -> Tensor:
    """A copy of packed steps, directions side by side, as directions x steps x hidden, as each direction met them."""
    halves = output.chunk(plan.directions, -1)
    return torch.stack([plan.seen_by(direction, half) for direction, half in enumerate(halves)])


def _beside(plan: Plan, made: Scanned, initial: Carry) -> Tensor:
    """What the kernel's factors look at beside the gates."""
    kernel, order = plan.kernel, plan.order
    if kernel.beside == "state":
        return _planes(plan, made.output)
    found = made.gates.new_empty(plan.directions, order.steps, made.output.shape[-1] // plan.directions)
    which = 0 if kernel.beside == "state before" else 1
    found[:, : order.occupied] = initial[which] if initial else 0
    for direction, own in enumerate(found):
        own[order.occupied :] = (
            made.extras[0][direction].index_select(0, order.previous) if which else _earlier(plan, made, direction)
        )
    return found


def _again(
    plan: Plan, tensors: Sequence[Tensor | None], _: Scanned, gradients: Sequence[Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    x, initial, weights = plan.parted(tensors)
    return gradients_again(lambda: plan.again(x, plan.order, weights, initial or None), tensors, gradients, wanted)
