"""One recurrent layer over packed rows through the compiled kernels, with gradients."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import Function, once_differentiable
from torch.nn.functional import pad
from typing_extensions import override

from pipeline.sequences.order import Order
from pipeline_recurrent.native.library import Job, Kernels, kernels

Cell = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
Weights = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""One direction's weights by torch's names: weight_ih, weight_hh, bias_ih, bias_hh, in torch's gate order."""

CELLS: tuple[Cell, ...] = ("lstm", "gru", "rnn_tanh", "rnn_relu")
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
WORTH_THREADS = 4_000_000
"""Operations below which threads cost more than they bring."""


class Piece(NamedTuple):
    """Gates that lie side by side both in a buffer and in torch's weights: where they begin there, and how many."""

    buffer: int
    torch: int
    gates: int


# A GRU's buffer begins with the new gate, torch's weights with the other two.
FROM_INPUT = {cell: (Piece(0, 0, GATES[cell]),) for cell in CELLS} | {"gru": (Piece(1, 0, 2), Piece(0, 2, 1))}
FROM_STATE = {cell: (Piece(0, 0, GATES[cell]),) for cell in CELLS} | {"gru": (Piece(1, 0, 3),)}


@final
class Plan:
    """What a call is about, apart from its tensors."""

    def __init__(self, cell: Cell, order: Order, directions: int, hidden: int, *, keep: bool, use: Kernels) -> None:
        self.cell: Cell = cell
        self.order = order
        self.directions = directions
        self.hidden = hidden
        self.keep = keep
        self.use = use
        self.count = 2 if cell == "lstm" else 1
        self.gates = GATES[cell]
        # In training a GRU keeps the recurrent part of its new gate as well.
        self.kept = 4 if cell == "gru" and keep else self.gates
        self.wide = -(-hidden // use.lanes) * use.lanes

    def run(self, jobs: Sequence[Job], *, back: bool) -> None:
        """Call the kernels on torch's number of threads: directions side by side, their rows in chunks."""
        threads = torch.get_num_threads()
        if 2 * self.order.steps * self.gates * self.wide * self.hidden * self.directions < WORTH_THREADS:
            threads = 1
        chunks = max(1, min(-(-threads // self.directions), self.order.occupied // 2))
        self.use(jobs, back=back, chunks=chunks, threads=min(threads, chunks * self.directions))

    def job(self, direction: int, states: Tensor, weight: Tensor, *, keep: bool, **tensors: Tensor | None) -> Job:
        """What the kernels need for one direction; each tensor's own part in it by its shape."""
        order, wide = self.order, self.wide
        given: dict[str, int | None] = {name: None if t is None else t.data_ptr() for name, t in tensors.items()}
        return Job(
            cell=CELLS.index(self.cell),
            reverse=direction,
            depth=self.hidden,
            wide=wide,
            times=len(order.batch_sizes),
            rows=order.occupied,
            steps=order.steps,
            keep=keep,
            gate_stride=self.kept * wide,
            state_stride=self.directions * wide,
            alive=order.batch_sizes.data_ptr(),
            weight=weight.data_ptr(),
            states=states.data_ptr() + 4 * direction * wide,
            **given,
        )

    def padded(self, tensor: Tensor) -> Tensor:
        """The last axis, of hidden units, with zeros up to whole vectors."""
        return tensor if self.wide == self.hidden else pad(tensor, (0, self.wide - self.hidden))

    def by_gate(self, weight: Tensor) -> Tensor:
        """Torch's rows, gate by gate, each gate with zeros up to whole vectors."""
        if self.wide == self.hidden:
            return weight
        return pad(weight.reshape(-1, self.hidden, weight.shape[-1]), (0, 0, 0, self.wide - self.hidden)).flatten(0, 1)

    def unpadded(self, rows: Tensor) -> Tensor:
        """Undo `by_gate`."""
        return rows if self.wide == self.hidden else rows.unflatten(0, (-1, self.wide))[:, : self.hidden].flatten(0, 1)

    def packed(self, states: Tensor) -> Tensor:
        """States of rows in reading order, as the kernels want them: by descending length, padded."""
        return self.padded(states.index_select(1, self.order.rows)).contiguous()

    def reading(self, states: Tensor) -> Tensor:
        """Undo `packed`."""
        found = states[..., : self.hidden]
        return torch.empty_like(found, memory_format=torch.contiguous_format).index_copy_(1, self.order.rows, found)


class _Context(Protocol):
    """What `Function` hands from the forward to the backward pass."""

    plan: Plan
    needs_input_grad: Sequence[bool]

    @property
    def saved_tensors(self) -> tuple[Tensor, ...]: ...
    def save_for_backward(self, *tensors: Tensor | None) -> None: ...


def _input_part(plan: Plan, x: Tensor, weights: Weights) -> Tensor:
    """The gates' share that comes from the input, over all real steps at once."""
    w_ih, _, b_ih, b_hh = weights
    bias = x.new_zeros(plan.gates * plan.hidden) if b_ih is None else b_ih
    if b_hh is not None:
        bias = bias + b_hh
        if plan.cell == "gru" and b_ih is not None:  # whose new gate's recurrent bias is scaled by the reset gate
            bias[2 * plan.hidden :] = b_ih[2 * plan.hidden :]
    w_ih, bias, wide = plan.by_gate(w_ih), plan.by_gate(bias.unsqueeze(1)).squeeze(1), plan.wide
    if plan.cell != "gru":
        return torch.addmm(bias, x, w_ih.t())
    gates = x.new_empty(len(x), plan.kept * wide)
    for buffer, first, count in FROM_INPUT["gru"]:
        rows, columns = slice(first * wide, (first + count) * wide), slice(buffer * wide, (buffer + count) * wide)
        torch.addmm(bias[rows], x, w_ih[rows].t(), out=gates[:, columns])
    return gates


def _run(plan: Plan, x: Tensor, initial: Sequence[Tensor], weights: Sequence[Weights]) -> tuple[list[Tensor], ...]:
    """The forward pass: steps and carried states, then what the backward pass needs of it."""
    began = [plan.packed(state) for state in initial]
    ended = [state.clone() for state in began]
    states = x.new_empty(len(x), plan.directions * plan.wide)
    every_gates, every_cells, jobs, alive = [], [], [], []
    for direction, each in enumerate(weights):
        gates = _input_part(plan, x, each)
        w_hh, b_hh = each[1].contiguous(), each[3]
        cells = x.new_empty(len(x), plan.wide) if plan.cell == "lstm" and plan.keep else None
        bias = None
        if plan.cell == "gru":
            bias = plan.padded(x.new_zeros(plan.hidden) if b_hh is None else b_hh[2 * plan.hidden :]).contiguous()
        panels = x.new_empty(plan.gates * plan.wide * plan.wide)
        jobs.append(
            plan.job(
                direction,
                states,
                w_hh,
                keep=plan.keep,
                panels=panels,
                bias=bias,
                gates=gates,
                cells=cells,
                **{f"{name}0": state[direction] for name, state in zip("hc", began, strict=False)},
                **{f"{name}1": state[direction] for name, state in zip("hc", ended, strict=False)},
            )
        )
        alive += [w_hh, bias, panels]  # the kernels see addresses alone: what they belong to has to outlive the call
        every_gates.append(gates)
        every_cells += [] if cells is None else [cells]
    plan.run(jobs, back=False)
    steps = states
    if plan.wide != plan.hidden:
        steps = states.unflatten(1, (plan.directions, plan.wide))[..., : plan.hidden].flatten(1)
    return [steps, *map(plan.reading, ended)], [states, *began, *every_gates, *every_cells]


def _weight_gradient(plan: Plan, pieces: Sequence[Piece], d_gates: Tensor, other: Tensor) -> Tensor:
    """One product over all steps (two for a GRU's input), in torch's gate order."""
    wide = plan.wide
    found = other.new_empty(plan.gates * wide, other.shape[1])
    for buffer, first, count in pieces:
        columns = d_gates[:, buffer * wide : (buffer + count) * wide]
        torch.mm(columns.t(), other, out=found[first * wide : (first + count) * wide])
    return plan.unpadded(found)


def _bias_gradient(plan: Plan, pieces: Sequence[Piece], total: Tensor) -> Tensor:
    parts = {first: total[buffer : buffer + count] for buffer, first, count in pieces}
    return torch.cat([parts[first] for first in sorted(parts)])[:, : plan.hidden].flatten()


@final
class _Layer(Function):
    """The kernels as one differentiable operation: x, initial states and weights in, steps and carried out."""

    @override
    @staticmethod
    def forward(ctx: _Context, plan: Plan, x: Tensor, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        initial = [tensor for tensor in tensors[: plan.count] if tensor is not None]
        flat = iter(tensors[plan.count :])
        weights = [each for each in zip(flat, flat, flat, flat, strict=True)]
        given, kept = _run(plan, x, initial, weights)
        ctx.plan = plan
        # Saved by the official way, all of it: an output that hangs on the context would never be freed.
        ctx.save_for_backward(x, *(tensor for each in weights for tensor in each[:2]), *kept)
        return tuple(given)

    @override
    @staticmethod
    @once_differentiable
    def backward(ctx: _Context, *grads: Tensor) -> tuple[Tensor | None, ...]:
        plan, needed = ctx.plan, ctx.needs_input_grad
        with torch.autocast("cpu", enabled=False):
            return _back(plan, grads, ctx.saved_tensors, needed)


_apply: Callable[..., tuple[Tensor, ...]] = _Layer.apply


def layer(
    cell: Cell,
    x: Float[Tensor, "steps feature"],
    order: Order,
    weights: Sequence[Weights],
    initial: Sequence[Float[Tensor, "directions batch hidden"]],
    *,
    using: str | None = None,
) -> tuple[Float[Tensor, "steps states"], tuple[Float[Tensor, "directions batch hidden"], ...]]:
    """One layer, all its directions: each step's states side by side, and the states in which the rows end.

    Float32 on the CPU. Gradients reach x, the weights and the initial states, from the steps and the carried
    states alike; gradients of gradients raise. The recurrence's bits depend on no thread count; what torch's own
    products do with theirs is torch's affair.

    Args:
        cell: one of lstm, gru, rnn_tanh, rnn_relu.
        x: the input in packed order.
        order: how the steps stand; empty rows have none, and end as they began.
        weights: those of each direction, the backward one last.
        initial: h, and for an LSTM c, with the rows in reading order; the carried states come out likewise.
        using: an instruction set by name instead of this machine's best one.

    Raises:
        UnavailableError: if the kernels are not there; `available` says so before.
    """
    if order.steps == 0:
        return x.new_zeros(0, len(weights) * initial[0].shape[-1]), tuple(initial)
    tensors = [*initial, *(tensor for each in weights for tensor in each)]
    keep = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *tensors))
    plan = Plan(cell, order, len(weights), initial[0].shape[-1], keep=keep, use=kernels(using))
    # The kernels know float32 alone, so autocast must not put another dtype between their products.
    with torch.autocast("cpu", enabled=False):
        if keep:
            steps, *carried = _apply(plan, x.contiguous(), *tensors)
        else:
            (steps, *carried), _ = _run(plan, x.contiguous(), initial, weights)
    return steps, tuple(carried)


def _back(
    plan: Plan, grads: Sequence[Tensor], saved: Sequence[Tensor], needed: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """Gradients in the order of the operation's inputs, None for those that nobody wants."""
    count, directions, wide = plan.count, plan.directions, plan.wide
    x, rest = saved[0], list(saved[1:])
    weights, rest = rest[: 2 * directions], rest[2 * directions :]
    states, began, rest = rest[0], rest[1 : 1 + count], rest[1 + count :]
    every_gates, every_cells = rest[:directions], rest[directions:]

    d_steps = grads[0]
    if wide != plan.hidden:
        d_steps = plan.padded(d_steps.unflatten(1, (directions, plan.hidden))).flatten(1)
    d_steps = d_steps.contiguous()
    d_states = [plan.packed(grad) for grad in grads[1:]]
    jobs, alive, every_d_gates, every_before = [], [], [], []
    for direction in range(directions):
        gates = every_gates[direction]
        d_gates, before = torch.empty_like(gates), x.new_empty(len(x), plan.hidden)
        w_hh, panels = weights[2 * direction + 1].contiguous(), x.new_empty(plan.gates * wide * wide)
        jobs.append(
            plan.job(
                direction,
                states,
                w_hh,
                keep=any(needed[2 : 2 + count]),
                panels=panels,
                gates=gates,
                cells=every_cells[direction] if every_cells else None,
                d_states=d_steps[:, direction * wide :],
                d_gates=d_gates,
                before=before,
                **{f"{name}0": state[direction] for name, state in zip("hc", began, strict=False)},
                **{f"d_{name}": state[direction] for name, state in zip("hc", d_states, strict=False)},
            )
        )
        alive += [w_hh, panels]
        every_d_gates.append(d_gates)
        every_before.append(before)
    plan.run(jobs, back=True)

    d_x: Tensor | None = None
    d_weights: list[Tensor | None] = []
    for direction, d_gates in enumerate(every_d_gates):
        wants = needed[2 + count + 4 * direction :][:4]
        if needed[1]:
            w_ih = plan.by_gate(weights[2 * direction])
            for buffer, first, several in FROM_INPUT[plan.cell]:
                columns = d_gates[:, buffer * wide : (buffer + several) * wide]
                rows = w_ih[first * wide : (first + several) * wide]
                d_x = columns @ rows if d_x is None else d_x.addmm_(columns, rows)
        total = d_gates.sum(0).unflatten(0, (-1, wide)) if wants[2] or wants[3] else None
        d_weights += [
            _weight_gradient(plan, FROM_INPUT[plan.cell], d_gates, x) if wants[0] else None,
            _weight_gradient(plan, FROM_STATE[plan.cell], d_gates, every_before[direction]) if wants[1] else None,
            _bias_gradient(plan, FROM_INPUT[plan.cell], total) if wants[2] and total is not None else None,
            _bias_gradient(plan, FROM_STATE[plan.cell], total) if wants[3] and total is not None else None,
        ]
    return (None, d_x, *(plan.reading(state) for state in d_states), *d_weights)
