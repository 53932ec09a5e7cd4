"""The cells of the plain engine in torch operations: a loop forward over time, and one backward.

The loops do only what depends on the step before. Everything else happens once over all steps: the input product before
the forward loop, the derivatives of the gates (`factors`) before the backward loop, the weight gradients after it. In
the loops all operations work in place, on slices made before, so that a step allocates nothing and slices little.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Final, Literal, TypeAlias, final

import torch
from torch import Tensor
from typing_extensions import override

from pipeline.extend import Carry
from pipeline_recurrent.engines.engine import Cell, Steps, Weights, fill_input_product

AddProduct: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Add the matrix product of the second and third tensor to the first, in place."""

# A gradient times the derivative of a sigmoid s, which is s (1 - s), or of a tanh t, which is 1 - t t. Each takes the
# gradient, then s or t, and writes to `grad_input`. They are autograd's own operations: one pass over memory, where the
# formula written out takes three.
_sigmoid_backward: Final[Callable[..., Tensor]] = torch.ops.aten.sigmoid_backward.grad_input
_tanh_backward: Final[Callable[..., Tensor]] = torch.ops.aten.tanh_backward.grad_input

FactorInput: TypeAlias = Literal["state", "previous state", "previous cell"]
"""What a cell's factors are computed from, besides its gates."""


class CellKernel(ABC):
    """One kind of cell over the packed layout.

    Gates lie side by side in one tensor of steps x (blocks x hidden), or directions x steps x (blocks x hidden) when
    both directions are scanned together. Each time step is a slice of the second-last axis, with a row per running
    row. The input product fills the last blocks, in torch's order of gates; the recurrent product is added to the
    first ones. Both fill every block, except the `separate` ones: the first are recurrent only, the last input only.

    Attributes:
        shared: number of blocks that hold the sum of both products.
        separate: number of blocks for which the two products are needed apart: the GRU's new gate.
        extras: number of tensors of steps x hidden that are kept besides the states: the LSTM's cells.
        factor_input: what `factors` reads besides the gates.
    """

    shared: ClassVar[int]
    separate: ClassVar[int] = 0
    extras: ClassVar[int] = 0
    factor_input: ClassVar[FactorInput]

    @property
    def blocks(self) -> int:
        """Number of blocks of gates."""
        return self.shared + 2 * self.separate

    def input_columns(self, gates: Tensor, hidden: int) -> Tensor:
        """The columns that the input product fills."""
        return gates[..., self.separate * hidden :]

    def recurrent_columns(self, gates: Tensor, hidden: int) -> Tensor:
        """The columns to which the recurrent product is added."""
        return gates[..., : (self.shared + self.separate) * hidden]

    def reorder(self, weight: Tensor) -> Tensor:
        """Return recurrent weights with their gates in the order of the recurrent columns."""
        return weight.roll(self.separate * weight.shape[-1], 0) if self.separate else weight

    def restore_order(self, weight: Tensor, hidden: int) -> Tensor:
        """Undo `reorder`."""
        return weight.roll(-self.separate * hidden, 0) if self.separate else weight

    def fill_input(self, gates: Tensor, steps: Steps, weights: Weights) -> None:
        """Fill the gates of one direction with everything that depends on no earlier state.

        Args:
            gates: steps x (blocks x hidden), overwritten.
            steps: steps x feature; or ids.
            weights: those of this direction.
        """
        w_in, w_state, b_in, b_state = weights
        hidden = w_state.shape[-1]
        shared, separate = self.shared * hidden, self.separate * hidden
        bias: Tensor | None = None
        if b_in is not None and b_state is not None:
            bias = torch.cat([b_in[:shared] + b_state[:shared], b_in[shared:]]) if separate else b_in + b_state
        fill_input_product(gates[:, separate:], steps, w_in, bias)
        gates[:, :separate] = 0 if b_state is None else b_state[shared:]

    @abstractmethod
    def scan(
        self,
        gates: Tensor,
        states: Tensor,
        extras: Sequence[Tensor],
        weight: Tensor,
        sizes: list[int],
        initial: Carry,
    ) -> None:
        """Run the forward loop: fill the states and extras. The gates become what `factors` needs.

        Args:
            gates: from `fill_input`.
            states: steps x hidden, or directions x steps x hidden; overwritten.
            extras: likewise.
            weight: reordered recurrent weights, transposed: hidden x (blocks x hidden).
            sizes: number of running rows at each time.
            initial: rows x hidden, or directions x rows x hidden; empty for zeros.
        """

    @abstractmethod
    def factors(self, gates: Tensor, factor_input: Tensor, extras: Sequence[Tensor]) -> Carry:
        """Compute everything in the backward pass that depends on no later step, once over all steps.

        All arguments are overwritten.

        Args:
            gates: from `scan`.
            factor_input: what the attribute of this name says, steps x hidden, or directions x steps x hidden.
            extras: from `scan`.

        Returns:
            First, in the layout of the gates, the factors that turn gradients of the states (and cells) into those of
            the gates; then what else `scan_back` needs.
        """

    @abstractmethod
    def scan_back(
        self,
        factors: Carry,
        by_states: Tensor,
        by_carry: Carry,
        weight: Tensor,
        sizes: list[int],
        *,
        by_initial: bool,
    ) -> None:
        """Run the backward loop, from the last step to the first. The first factors become gradients of the gates.

        Args:
            factors: from the method of this name.
            by_states: gradients of the states from outside; overwritten.
            by_carry: zeros of rows x hidden, which become the gradient of the initial states; then gradients of the
                final extras, which become those of the initial ones.
            weight: reordered recurrent weights, (blocks x hidden) x hidden.
            sizes: number of running rows at each time.
            by_initial: whether the gradients of the initial states are needed; if not, `by_carry` is not valid after.
        """


def _choose_product(like: Tensor) -> AddProduct:
    """Return the in-place product for one direction (two axes) or both (three)."""
    return torch.Tensor.addmm_ if like.ndim == 2 else torch.Tensor.baddbmm_


def _first_rows(tensor: Tensor, rows: int) -> Tensor:
    """Return the rows of a time step that are still running at the next one: in packed order, the first."""
    return tensor if tensor.shape[-2] == rows else tensor.narrow(-2, 0, rows)


@final
class LSTMKernel(CellKernel):
    """Gates i, f, g, o: c = f c' + i g, h = o tanh(c)."""

    shared = 4
    extras = 1
    factor_input: ClassVar[FactorInput] = "previous cell"

    @override
    def scan(
        self,
        gates: Tensor,
        states: Tensor,
        extras: Sequence[Tensor],
        weight: Tensor,
        sizes: list[int],
        initial: Carry,
    ) -> None:
        hidden, add = states.shape[-1], _choose_product(gates)
        i, f, g, o = (block.split_with_sizes(sizes, -2) for block in gates.chunk(4, -1))
        # Input and forget gate are neighbours: one sigmoid for both.
        both = gates.narrow(-1, 0, 2 * hidden).split_with_sizes(sizes, -2)
        whole = gates.split_with_sizes(sizes, -2)
        every_h, every_c = (tensor.split_with_sizes(sizes, -2) for tensor in (states, extras[0]))
        before = initial
        for t, rows in enumerate(sizes):
            h, c = every_h[t], every_c[t]
            if before:
                add(whole[t], _first_rows(before[0], rows), weight)
            both[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(i[t], g[t], out=c)
            if before:
                c.addcmul_(f[t], _first_rows(before[1], rows))
            torch.tanh(c, out=h).mul_(o[t])
            before = (h, c)

    @override
    def factors(self, gates: Tensor, factor_input: Tensor, extras: Sequence[Tensor]) -> Carry:
        # With dc the gradient of c and dh that of h, the gradients of the sums in the gates are
        #   i: dc g i(1-i)    f: dc c' f(1-f)    g: dc i (1-g g)    o: dh tanh(c) o(1-o)
        # and dc += dh o (1 - tanh(c)^2). Each factor of dc or dh is written over a tensor that is not read again.
        i, f, g, o = gates.chunk(4, -1)
        cell, forget = extras[0].tanh_(), f.clone(memory_format=torch.contiguous_format)
        _sigmoid_backward(factor_input, f, grad_input=f)
        by_i = _sigmoid_backward(g, i, grad_input=factor_input)
        _tanh_backward(i, g, grad_input=g)
        i.copy_(by_i)
        by_cell = _tanh_backward(o, cell, grad_input=factor_input)
        _sigmoid_backward(cell, o, grad_input=o)
        return gates, by_cell, forget

    @override
    def scan_back(
        self,
        factors: Carry,
        by_states: Tensor,
        by_carry: Carry,
        weight: Tensor,
        sizes: list[int],
        *,
        by_initial: bool,
    ) -> None:
        found, cell, forget = factors
        hidden, add = cell.shape[-1], _choose_product(found)
        whole, through = found.split_with_sizes(sizes, -2), cell.split_with_sizes(sizes, -2)
        # The gates i, f and g are multiplied by dc in one operation, o by dh in another.
        three = found.view(*found.shape[:-1], 4, hidden).narrow(-2, 0, 3).split_with_sizes(sizes, -3)
        last = found.narrow(-1, 3 * hidden, hidden).split_with_sizes(sizes, -2)
        f = forget.split_with_sizes(sizes, -2)
        every_h = by_states.split_with_sizes(sizes, -2)
        by_first, by_cells = by_carry
        for t in range(len(sizes) - 1, -1, -1):
            # Gradients of cells need one buffer of rows x hidden, not one per step: a row joins at its last step,
            # where the buffer still holds the gradient of its final cell.
            h, c = every_h[t], _first_rows(by_cells, sizes[t])
            c.addcmul_(h, through[t])
            three[t].mul_(c.unsqueeze(-2))
            last[t].mul_(h)
            if t or by_initial:
                c.mul_(f[t])
                add(_first_rows(every_h[t - 1] if t else by_first, sizes[t]), whole[t], weight)


@final
class GRUKernel(CellKernel):
    """Blocks m (the recurrent part of n), r, z and n: n = tanh(input part + r m), h = n + z (h' - n)."""

    shared = 2
    separate = 1
    factor_input: ClassVar[FactorInput] = "previous state"

    @override
    def scan(
        self,
        gates: Tensor,
        states: Tensor,
        extras: Sequence[Tensor],
        weight: Tensor,
        sizes: list[int],
        initial: Carry,
    ) -> None:
        hidden, add = states.shape[-1], _choose_product(gates)
        m, r, z, n = (block.split_with_sizes(sizes, -2) for block in gates.chunk(4, -1))
        both = gates.narrow(-1, hidden, 2 * hidden).split_with_sizes(sizes, -2)
        three = gates.narrow(-1, 0, 3 * hidden).split_with_sizes(sizes, -2)
        every_h = states.split_with_sizes(sizes, -2)
        before = initial[0] if initial else None
        for t, rows in enumerate(sizes):
            earlier = None if before is None else _first_rows(before, rows)
            if earlier is not None:
                add(three[t], earlier, weight)
            both[t].sigmoid_()
            new = n[t].addcmul_(r[t], m[t]).tanh_()
            before = every_h[t]
            if earlier is None:
                torch.addcmul(new, z[t], new, value=-1, out=before)
            else:
                torch.lerp(new, earlier, z[t], out=before)

    @override
    def factors(self, gates: Tensor, factor_input: Tensor, extras: Sequence[Tensor]) -> Carry:
        # With dh the gradient of h, the gradients of the sums in the blocks are
        #   n: dh (1-z)(1-n n)    m: that times r    r: that times m r(1-r)    z: dh (h'-n) z(1-z)
        m, r, z, n = gates.chunk(4, -1)
        update = z.clone(memory_format=torch.contiguous_format)
        by_n = torch.sub(1, z)
        _tanh_backward(by_n, n, grad_input=by_n)
        _sigmoid_backward(factor_input.sub_(n), z, grad_input=z)
        n.copy_(by_n)
        by_m = torch.mul(by_n, r, out=factor_input)
        _sigmoid_backward(m.mul_(by_n), r, grad_input=r)
        m.copy_(by_m)
        return gates, update

    @override
    def scan_back(
        self,
        factors: Carry,
        by_states: Tensor,
        by_carry: Carry,
        weight: Tensor,
        sizes: list[int],
        *,
        by_initial: bool,
    ) -> None:
        found, update = factors
        hidden, add = weight.shape[-1], _choose_product(found)
        four = found.view(*found.shape[:-1], 4, hidden).split_with_sizes(sizes, -3)
        three = found.narrow(-1, 0, 3 * hidden).split_with_sizes(sizes, -2)
        z = update.split_with_sizes(sizes, -2)
        every_h = by_states.split_with_sizes(sizes, -2)
        for t in range(len(sizes) - 1, -1, -1):
            four[t].mul_(every_h[t].unsqueeze(-2))
            if t or by_initial:
                earlier = _first_rows(every_h[t - 1] if t else by_carry[0], sizes[t])
                earlier.addcmul_(every_h[t], z[t])
                add(earlier, three[t], weight)


@final
class ElmanKernel(CellKernel):
    """One gate, which is the state: h = tanh or relu of the sum of both products."""

    shared = 1
    factor_input: ClassVar[FactorInput] = "state"

    def __init__(self, nonlinearity: Literal["tanh", "relu"]) -> None:
        self.nonlinearity: Literal["tanh", "relu"] = nonlinearity

    @override
    def scan(
        self,
        gates: Tensor,
        states: Tensor,
        extras: Sequence[Tensor],
        weight: Tensor,
        sizes: list[int],
        initial: Carry,
    ) -> None:
        add, is_tanh = _choose_product(gates), self.nonlinearity == "tanh"
        whole, every_h = gates.split_with_sizes(sizes, -2), states.split_with_sizes(sizes, -2)
        before = initial[0] if initial else None
        for t, rows in enumerate(sizes):
            if before is not None:
                add(whole[t], _first_rows(before, rows), weight)
            before = every_h[t]
            if is_tanh:
                torch.tanh(whole[t], out=before)
            else:
                torch.clamp_min(whole[t], 0, out=before)

    @override
    def factors(self, gates: Tensor, factor_input: Tensor, extras: Sequence[Tensor]) -> Carry:
        if self.nonlinearity == "relu":
            return ((factor_input > 0).to(factor_input.dtype),)
        return (torch.addcmul(factor_input.new_ones(()), factor_input, factor_input, value=-1),)

    @override
    def scan_back(
        self,
        factors: Carry,
        by_states: Tensor,
        by_carry: Carry,
        weight: Tensor,
        sizes: list[int],
        *,
        by_initial: bool,
    ) -> None:
        add = _choose_product(factors[0])
        whole, every_h = factors[0].split_with_sizes(sizes, -2), by_states.split_with_sizes(sizes, -2)
        for t in range(len(sizes) - 1, -1, -1):
            whole[t].mul_(every_h[t])
            if t or by_initial:
                add(_first_rows(every_h[t - 1] if t else by_carry[0], sizes[t]), whole[t], weight)


KERNELS: Final[Mapping[Cell, CellKernel]] = {
    "lstm": LSTMKernel(),
    "gru": GRUKernel(),
    "rnn_tanh": ElmanKernel("tanh"),
    "rnn_relu": ElmanKernel("relu"),
}
