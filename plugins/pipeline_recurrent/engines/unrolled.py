"""A layer as torch operations without in-place changes, for transforms of torch, and its second derivatives."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import linear

from pipeline.extend import Carry, PackingOrder, name_transform
from pipeline_recurrent.engines.engine import Cell, LayerInputs, LayerOutputs, Weights, Zoneout
from pipeline_recurrent.engines.torch_kernels import run_packed_layer


def unroll(inputs: LayerInputs) -> LayerOutputs:
    """Compute a layer in torch operations without writing to any tensor, which all transforms of torch can see through.

    It is two to three times slower than the plain engine, and uses autograd's own backward pass.
    """
    order, outputs, carries = inputs.order, list[Tensor](), list[Carry]()
    initial = inputs.initial_or_zeros()
    for direction, weights in enumerate(inputs.weights):
        steps = inputs.steps.index_select(0, order.reversal) if direction else inputs.steps
        hidden, cells = _unroll_direction(
            inputs.cell, steps, weights, tuple(state[direction] for state in initial), order, inputs.zoneout
        )
        carries.append(tuple(states.index_select(0, order.sorted_last_steps) for states in (hidden, *cells)))
        outputs.append(hidden.index_select(0, order.reversal) if direction else hidden)
    return torch.cat(outputs, dim=-1), tuple(torch.stack(states) for states in zip(*carries, strict=True))


def _unroll_direction(
    cell: Cell, steps: Tensor, weights: Weights, initial: Carry, order: PackingOrder, zoneout: Zoneout | None
) -> tuple[Tensor, Carry]:
    """Return the hidden vectors of one direction, and the cells of an LSTM, in its reading order.

    Zoneout is that of Krueger et al. 2017: the new h is computed from the new c, before any of c is kept.
    """
    w_in, w_state, b_in, b_state = weights
    if steps.is_floating_point():
        by_input = linear(steps, w_in, b_in)
    else:
        # A table has the biases in it: the recurrent one too, but for a GRU's new gate, in which it is added later.
        by_input = w_in.t().index_select(0, steps)
        shared = torch.arange(len(w_state), device=w_state.device) < 2 * w_state.shape[1]
        b_state = None if b_state is None or cell != "gru" else b_state.masked_fill(shared, 0)
    every_h, every_c = list[Tensor](), list[Tensor]()
    h, *rest = initial
    sizes = order.batch_size_list
    kept_h, kept_c = _draw_kept(by_input, w_state.shape[1], sizes, zoneout)
    for time, (rows, x) in enumerate(zip(sizes, by_input.split_with_sizes(sizes), strict=True)):
        h, by_state = h[:rows], linear(h[:rows], w_state, b_state)
        before = h
        if cell == "lstm":
            i, f, g, o = (x + by_state).chunk(4, -1)
            before_c = rest[0][:rows]
            rest = [f.sigmoid() * before_c + i.sigmoid() * g.tanh()]
            h = o.sigmoid() * rest[0].tanh()
            if zoneout is not None:
                rest = [torch.lerp(rest[0], before_c, kept_c[time])]
            every_c.append(rest[0])
        elif cell == "gru":
            (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), by_state.chunk(3, -1)
            n = (xn + (xr + hr).sigmoid() * hn).tanh()
            h = n + (xz + hz).sigmoid() * (h - n)
        else:
            h = (x + by_state).tanh() if cell == "rnn_tanh" else (x + by_state).relu()
        if zoneout is not None:
            h = torch.lerp(h, before, kept_h[time])
        every_h.append(h)
    return torch.cat(every_h), (torch.cat(every_c),) if every_c else ()


def _draw_kept(
    like: Tensor, hidden: int, sizes: Sequence[int], zoneout: Zoneout | None
) -> tuple[Sequence[Tensor], Sequence[Tensor]]:
    """Return for each time how much of h and of c is kept: 0 or 1 at random in training, else the probability."""
    if zoneout is None:
        return (), ()
    if not zoneout.train:
        h, c = (like.new_full((), share) for share in (zoneout.hidden, zoneout.cell))
        return [h] * len(sizes), [c] * len(sizes)
    shape = (len(like), hidden)
    h, c = (torch.bernoulli(like.new_full(shape, share)) for share in (zoneout.hidden, zoneout.cell))
    return h.split_with_sizes(list(sizes)), c.split_with_sizes(list(sizes))


def double_backward(inputs: LayerInputs, gradients: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients of a layer, computed once more by torch's packed kernel, which has second derivatives.

    In a transform of `torch.func`, the layer is unrolled instead.

    Args:
        inputs: the layer.
        gradients: those of its output and of each final state.
        needed: for each of `inputs.tensors`, whether its gradient is needed.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # Views, each a node of its own in the graph: one tensor may be computed from another, or be given twice.
        tensors = [tensor if tensor is None else tensor.view_as(tensor) for tensor in inputs.tensors]
        # Float32 at least: torch's packed kernel computes in one dtype, and second derivatives need more digits.
        wide = [tensor if tensor is None else _widen(tensor) for tensor in tensors]
        inputs = LayerInputs.from_tensors(inputs.cell, inputs.order, len(inputs.weights), wide)
        output, ended = unroll(inputs) if name_transform() else run_packed_layer(inputs)
    needed_tensors = [tensor for tensor, want in zip(tensors, needed, strict=True) if want and tensor is not None]
    gradients = [_widen(gradient) for gradient in gradients]
    found = iter(
        torch.autograd.grad((output, *ended), needed_tensors, gradients, create_graph=create_graph, allow_unused=True)
    )
    return [next(found) if want else None for want in needed]


def _widen(tensor: Tensor) -> Tensor:
    """Return at least float32; ids stay ids."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor
