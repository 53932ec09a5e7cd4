"""The LSTM for the plain engine."""

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline_recurrent.engines.scan.kernel import Beside, Kernel, product, started, through_sigmoid, through_tanh


@final
class LSTMKernel(Kernel):
    """Gates i, f, g, o: c = f c' + i g, h = o tanh(c)."""

    shared = 4
    extras = 1
    beside: ClassVar[Beside] = "cell before"

    @override
    def forward(
        self,
        gates: Tensor,
        states: Tensor,
        extras: Sequence[Tensor],
        weight: Tensor,
        sizes: list[int],
        initial: Carry | None,
    ) -> None:
        hidden, add = states.shape[-1], product(gates)
        i, f, g, o = (block.split_with_sizes(sizes, -2) for block in gates.chunk(4, -1))
        both = gates.narrow(-1, 0, 2 * hidden).split_with_sizes(sizes, -2)
        whole, every_h, every_c = (
            gates.split_with_sizes(sizes, -2),
            states.split_with_sizes(sizes, -2),
            extras[0].split_with_sizes(sizes, -2),
        )
        before = initial
        for t, rows in enumerate(sizes):
            h, c = every_h[t], every_c[t]
            if before is not None:
                add(whole[t], started(before[0], rows), weight)
            both[t].sigmoid_()
            g[t].tanh_()
            o[t].sigmoid_()
            torch.mul(i[t], g[t], out=c)
            if before is not None:
                c.addcmul_(f[t], started(before[1], rows))
            torch.tanh(c, out=h).mul_(o[t])
            before = (h, c)

    @override
    def factors(self, gates: Tensor, beside: Tensor, extras: Sequence[Tensor]) -> Carry:
        i, f, g, o = gates.chunk(4, -1)
        cell, forget = extras[0].tanh_(), f.clone(memory_format=torch.contiguous_format)
        through_sigmoid(beside, f, grad_input=f)
        by_i = through_sigmoid(g, i, grad_input=beside)
        through_tanh(i, g, grad_input=g)
        i.copy_(by_i)
        by_cell = through_tanh(o, cell, grad_input=beside)
        through_sigmoid(cell, o, grad_input=o)
        return gates, by_cell, forget

    @override
    def backward(
        self,
        factors: Carry,
        by_states: Tensor,
        carried: Carry,
        weight: Tensor,
        sizes: list[int],
        *,
        asked: bool,
    ) -> None:
        found, cell, forget = factors
        hidden, add = cell.shape[-1], product(found)
        whole, through = found.split_with_sizes(sizes, -2), cell.split_with_sizes(sizes, -2)
        three = found.view(*found.shape[:-1], 4, hidden).narrow(-2, 0, 3).split_with_sizes(sizes, -3)
        last = found.narrow(-1, 3 * hidden, hidden).split_with_sizes(sizes, -2)
        f = forget.split_with_sizes(sizes, -2)
        every_h = by_states.split_with_sizes(sizes, -2)
        first, by_cells = carried
        for t in range(len(sizes) - 1, -1, -1):
            # A row joins at its last step, with the gradient by the cell that it ended with.
            h, c = every_h[t], started(by_cells, sizes[t])
            c.addcmul_(h, through[t])
            three[t].mul_(c.unsqueeze(-2))
            last[t].mul_(h)
            if t or asked:
                c.mul_(f[t])
                add(started(every_h[t - 1] if t else first, sizes[t]), whole[t], weight)
