"""One recurrent layer over packed rows through the compiled kernels, with gradients."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol, cast, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import Function
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline.errors import ShapeError
from pipeline_recurrent.engines.again import Again, gradients_again
from pipeline_recurrent.engines.product import fill
from pipeline_recurrent.engines.run import Cell, Steps, Weights
from pipeline_recurrent.engines.spent import last_pass
from pipeline_recurrent.native.library import kernels
from pipeline_recurrent.native.plan import FROM_INPUT, FROM_STATE, Piece, Plan


def layer(
    cell: Cell,
    x: Steps,
    order: Order,
    weights: Sequence[Weights],
    initial: Sequence[Float[Tensor, "directions occupied hidden"]] | None = None,
    *,
    using: str | None = None,
    again: Again | None = None,
) -> tuple[Float[Tensor, "steps states"], tuple[Float[Tensor, "directions occupied hidden"], ...]]:
    """One layer, all its directions: each step's states side by side, and the states in which the rows end.

    Float32 on the CPU. Gradients reach x, the weights and the initial states, through the steps and the carried
    states alike; gradients of gradients raise a RuntimeError, unless `again` gives them. The recurrence's bits
    depend on no thread count; what torch's own products do with theirs is torch's affair.

    Args:
        cell: one of lstm, gru, rnn_tanh, rnn_relu.
        x: the input in packed order; ids, if the input weights are a table for them.
        order: where the steps stand.
        weights: those of each direction, the backward one last.
        initial: h, and for an LSTM c, of the rows that have steps, the longest first; None for zeros. The carried
            states come out in the same form.
        using: an instruction set by name instead of this machine's best one.
        again: the same layer, from x, order, weights and initial, of operations that have second derivatives.

    Raises:
        UnavailableError: if the kernels are not there; `available` says so before.
        ShapeError: if a tensor has another shape, dtype or device than the others ask for.
    """
    hidden = weights[0][1].shape[1]
    if initial is None:
        shape = (len(weights), order.occupied, hidden)
        initial = [weights[0][1].new_zeros(shape) for _ in range(2 if cell == "lstm" else 1)]
    tensors = [*initial, *(tensor for each in weights for tensor in each)]
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *tensors))
    plan = Plan(cell, order, len(weights), hidden, keep=keep, kernels=kernels(using), again=again)
    given = _Given(x, tuple(initial), weights)
    _check(plan, given)
    # The kernels know float32 alone: autocast must put no other dtype between their products.
    with torch.autocast("cpu", enabled=False):
        steps, *carried = _apply(plan, given, x, *tensors) if keep else _run(plan, given)[0]
    return steps, tuple(carried)


class _Given(NamedTuple):
    x: Steps
    initial: Carry
    weights: Sequence[Weights]


def _check(plan: Plan, given: _Given) -> None:
    """Refuse what does not fit: the kernels are given addresses, and would read whatever lies there."""
    x, hidden, rows = given.x, plan.hidden, plan.gates * plan.hidden
    steps, read = plan.order.steps, x.shape[-1]
    if not x.is_floating_point():
        read = given.weights[0][0].shape[-1]
        if x.shape != (steps,):
            msg = f"x must be {steps} ids, one a step, but {tuple(x.shape)} arrived."
            raise ShapeError(msg, argument="x")
    named: list[tuple[str, Tensor, tuple[int, ...]]] = [("x", x, (steps, read))] if x.is_floating_point() else []
    named += [("initial", state, (plan.directions, plan.order.occupied, hidden)) for state in given.initial]
    for w_ih, w_hh, *biases in given.weights:
        named += [("weight_ih", w_ih, (rows, read)), ("weight_hh", w_hh, (rows, hidden))]
        named += [("bias", bias, (rows,)) for bias in biases if bias is not None]
    for name, tensor, shape in named:
        if tensor.shape != shape or tensor.dtype is not torch.float32 or tensor.device.type != "cpu":
            came = f"{tuple(tensor.shape)} in {tensor.dtype} on {tensor.device}"
            msg = f"{name} must be {shape} in torch.float32 on the CPU, but {came} arrived."
            raise ShapeError(msg, argument=name)
    if len(given.initial) != plan.states:
        msg = f"initial must be {plan.states} tensor(s) for {plan.cell}, but {len(given.initial)} arrived."
        raise ShapeError(msg, argument="initial")


class _Context(Protocol):
    """What the forward pass leaves for the backward one."""

    plan: Plan
    needs_input_grad: Sequence[bool]

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]: ...
    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


@final
class _Layer(Function):
    """The kernels as one differentiable operation.

    What autograd has to see is passed as plain tensors, x, initial states and weights; they are given a second
    time in their own types.
    """

    @override
    @staticmethod
    def forward(ctx: _Context, plan: Plan, given: _Given, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        answer, kept = _run(plan, given)
        ctx.plan = plan
        # All of it the official way: an output that hung on the context itself would never be freed.
        ctx.save_for_backward(*tensors, *kept)
        return tuple(answer)

    @override
    @staticmethod
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan = ctx.plan
        count = 1 + plan.states + 4 * plan.directions
        tensors = ctx.saved_tensors[:count]
        if torch.is_grad_enabled() and plan.again is not None:
            again, (x, initial, weights) = plan.again, _given(plan, tensors)
            wanted = ctx.needs_input_grad[2:]
            return None, None, *gradients_again(lambda: again(x, plan.order, weights, initial), tensors, grads, wanted)
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            found = [None, None, *_back(plan, grads, ctx.saved_tensors, ctx.needs_input_grad[2:], over=last_pass())]
        if torch.is_grad_enabled():
            # A gradient that said nothing of how it came about would make a penalty on it do nothing, in silence.
            sources = [tensor for tensor in (*grads, *tensors) if tensor is not None]
            found = [None if grad is None else _once(grad, *sources) for grad in found]
        return tuple(found)


@final
class _Once(Function):
    """A gradient as it is; its own gradient, by whatever it was computed from, raises."""

    @override
    @staticmethod
    def forward(ctx: object, grad: Tensor, *sources: Tensor) -> Tensor:
        return grad.view_as(grad)

    @override
    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[Tensor | None, ...]:
        msg = "the native engine gives no gradients of gradients; torch's own kernels do: choose another engine."
        raise RuntimeError(msg)


# Torch leaves the types of `apply` open.
_apply: Callable[..., Sequence[Tensor]] = attrgetter("apply")(_Layer)
_once: Callable[..., Tensor] = attrgetter("apply")(_Once)


def _run(plan: Plan, given: _Given) -> tuple[list[Tensor], list[Tensor]]:
    """The answer, steps and carried states, and what the backward pass needs besides input and weights."""
    x, initial, weights = given
    began = [plan.padded(state).contiguous() for state in initial]
    ended = [state.clone() for state in began]
    like = weights[0][1]
    states = like.new_empty(len(x), plan.directions * plan.wide)
    every: list[dict[str, Tensor]] = []
    for direction, each in enumerate(weights):
        tensors = {
            "states": plan.sides(states, plan.wide)[:, direction],
            "weight": each[1].contiguous(),
            "panels": like.new_empty(plan.gates * plan.wide * plan.wide),
            "gates": _input_part(plan, x, each),
            "h0": began[0][direction],
            "h1": ended[0][direction],
        }
        if plan.cell == "gru":
            bias = like.new_zeros(3 * plan.hidden) if each[3] is None else each[3]
            tensors["bias"] = plan.padded(bias[2 * plan.hidden :]).contiguous()
        if plan.cell == "lstm":
            tensors |= {"c0": began[1][direction], "c1": ended[1][direction]}
            if plan.keep:
                tensors["cells"] = like.new_empty(len(x), plan.wide)
        every.append(tensors)
    if plan.order.steps:
        plan.run([plan.job(n, tensors, keep=plan.keep) for n, tensors in enumerate(every)], back=False)
    steps = plan.unpadded(plan.sides(states, plan.wide)).flatten(1)
    kept = [states, *began, *(tensors[name] for name in ("gates", "cells") for tensors in every if name in tensors)]
    return [steps, *map(plan.unpadded, ended)], kept


def _input_part(plan: Plan, x: Steps, weights: Weights) -> Tensor:
    """What the input gives to the gates of all steps: one product, or one look into a table (for a GRU two)."""
    w_ih, _, b_ih, b_hh = weights
    if not x.is_floating_point():
        return _looked_up(plan, x, w_ih)
    bias = x.new_zeros(plan.gates * plan.hidden) if b_ih is None else b_ih
    if b_hh is not None and plan.cell == "gru":  # whose new gate adds its recurrent bias behind the reset gate
        bias = torch.cat([bias[: 2 * plan.hidden] + b_hh[: 2 * plan.hidden], bias[2 * plan.hidden :]])
    elif b_hh is not None:
        bias = bias + b_hh
    w_ih, bias = plan.padded_rows(w_ih), plan.padded_rows(bias.unsqueeze(1)).squeeze(1)
    if plan.cell != "gru":
        return torch.addmm(bias, x, w_ih.t())
    gates = x.new_empty(len(x), plan.columns)
    for columns, rows in _places(plan, FROM_INPUT):
        fill(gates[:, columns], x, w_ih[rows], bias[rows])
    return gates


def _looked_up(plan: Plan, ids: Tensor, table: Tensor) -> Tensor:
    """The same, of ids and a table of (gates x hidden) x id."""
    gates = table.new_empty(len(ids), plan.columns)
    by_gate, by_id = gates.view(len(ids), -1, plan.wide), table.t().view(-1, plan.gates, plan.hidden)
    for piece in FROM_INPUT[plan.cell]:
        here, there = slice(piece.buffer, piece.buffer + piece.gates), slice(piece.torch, piece.torch + piece.gates)
        torch.index_select(by_id[:, there], 0, ids, out=by_gate[:, here, : plan.hidden])
    by_gate[:, :, plan.hidden :] = 0
    return gates


def _places(plan: Plan, pieces: dict[Cell, tuple[Piece, ...]]) -> list[tuple[slice, slice]]:
    """Columns of a buffer of gates, and the rows of torch's weights, padded, that belong to them."""
    wide = plan.wide
    return [
        (slice(piece.buffer * wide, (piece.buffer + piece.gates) * wide),
         slice(piece.torch * wide, (piece.torch + piece.gates) * wide))
        for piece in pieces[plan.cell]
    ]  # fmt: skip


def _given(plan: Plan, tensors: Sequence[Tensor | None]) -> _Given:
    """Input, initial states and weights, which go through autograd in one row."""
    x, *rest = tensors
    initial, flat = rest[: plan.states], rest[plan.states :]
    weights = [cast("Weights", tuple(flat[4 * index : 4 * index + 4])) for index in range(plan.directions)]
    return _Given(cast("Tensor", x), cast("Carry", tuple(initial)), weights)


def _back(
    plan: Plan, grads: Sequence[Tensor], saved: Sequence[Tensor | None], needed: Sequence[bool], *, over: bool
) -> list[Tensor | None]:
    """Gradients of x, the initial states and the weights, None for those that nobody asks for.

    The gates' are written over the gates, if nobody needs these any more: each is read before it is written.
    """
    count, directions = plan.states, plan.directions
    given = 1 + count + 4 * directions
    x, _, weights = _given(plan, saved[:given])
    queue = iter(cast("Sequence[Tensor]", saved[given:]))
    states, *began = [next(queue) for _ in range(1 + count)]
    every: list[dict[str, Tensor]] = [{"gates": next(queue)} for _ in range(directions)]

    d_steps = plan.padded(plan.sides(grads[0].contiguous(), plan.hidden)).view_as(states)
    d_ended = [plan.padded(grad).clone(memory_format=torch.contiguous_format) for grad in grads[1:]]
    for direction, tensors in enumerate(every):
        tensors |= {
            "states": plan.sides(states, plan.wide)[:, direction],
            "weight": weights[direction][1].contiguous(),
            "panels": x.new_empty(plan.gates * plan.wide * plan.wide),
            "d_states": plan.sides(d_steps, plan.wide)[:, direction],
            "d_gates": tensors["gates"] if over else torch.empty_like(tensors["gates"]),
            "before": x.new_empty(len(x), plan.hidden),
            "h0": began[0][direction],
            "d_h": d_ended[0][direction],
        }
        if plan.cell == "lstm":
            tensors |= {"cells": next(queue), "c0": began[1][direction], "d_c": d_ended[1][direction]}
    if plan.order.steps:
        keep = any(needed[1 : 1 + count])
        plan.run([plan.job(n, tensors, keep=keep) for n, tensors in enumerate(every)], back=True)

    d_x: Tensor | None = None
    d_weights: list[Tensor | None] = []
    for direction, tensors in enumerate(every):
        d_gates, wanted = tensors["d_gates"], needed[1 + count + 4 * direction :][:4]
        if needed[0]:
            w_ih = plan.padded_rows(weights[direction][0])
            for columns, rows in _places(plan, FROM_INPUT):
                product = d_gates[:, columns], w_ih[rows]
                d_x = torch.mm(*product) if d_x is None else d_x.addmm_(*product)
        d_weights += _weight_gradients(plan, d_gates, (x, tensors["before"]), wanted)
    d_initial = [plan.unpadded(grad) if wanted else None for grad, wanted in zip(d_ended, needed[1:], strict=False)]
    return [d_x, *d_initial, *d_weights]


def _weight_gradients(
    plan: Plan, d_gates: Tensor, others: tuple[Tensor, Tensor], wanted: Sequence[bool]
) -> list[Tensor | None]:
    """Of one direction: each one product of all steps' gates with what they met, input or state before."""
    found: list[Tensor | None] = [None] * 4
    total = d_gates.sum(0) if wanted[2] or wanted[3] else None
    for kind, (pieces, other) in enumerate(zip((FROM_INPUT, FROM_STATE), others, strict=True)):
        places = _places(plan, pieces)
        if wanted[kind]:
            weight = other.new_empty(plan.gates * plan.wide, other.shape[1])
            for columns, rows in places:
                torch.mm(d_gates[:, columns].t(), other, out=weight[rows])
            found[kind] = plan.unpadded_rows(weight)
        if wanted[2 + kind] and total is not None:
            bias = total.new_empty(plan.gates * plan.wide, 1)
            for columns, rows in places:
                bias[rows, 0] = total[columns]
            found[2 + kind] = plan.unpadded_rows(bias).squeeze(1)
    return found
