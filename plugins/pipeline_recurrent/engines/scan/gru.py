"""The GRU for the plain engine."""

from collections.abc import Sequence
from typing import ClassVar, final

import torch
from torch import Tensor
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline_recurrent.engines.scan.kernel import Beside, Kernel, product, started, through_sigmoid, through_tanh


@final
class GRUKernel(Kernel):
    """The recurrent part m of the new gate, gates r and z, then n = tanh(its input part + r m): h = n + z (h' - n)."""

    shared = 2
    apart = 1
    beside: ClassVar[Beside] = "state before"

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
        m, r, z, n = (block.split_with_sizes(sizes, -2) for block in gates.chunk(4, -1))
        both = gates.narrow(-1, hidden, 2 * hidden).split_with_sizes(sizes, -2)
        three = gates.narrow(-1, 0, 3 * hidden).split_with_sizes(sizes, -2)
        every_h = states.split_with_sizes(sizes, -2)
        before = None if initial is None else initial[0]
        for t, rows in enumerate(sizes):
            earlier = None if before is None else started(before, rows)
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
    def factors(self, gates: Tensor, beside: Tensor, extras: Sequence[Tensor]) -> Carry:
        m, r, z, n = gates.chunk(4, -1)
        update = z.clone(memory_format=torch.contiguous_format)
        # (1 - z)(1 - n n), in which r and m take part as factors of what n is made of.
        by_n = torch.sub(1, z)
        through_tanh(by_n, n, grad_input=by_n)
        through_sigmoid(beside.sub_(n), z, grad_input=z)
        n.copy_(by_n)
        by_m = torch.mul(by_n, r, out=beside)
        through_sigmoid(m.mul_(by_n), r, grad_input=r)
        m.copy_(by_m)
        return gates, update

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
        found, update = factors
        hidden, add = weight.shape[-1], product(found)
        four = found.view(*found.shape[:-1], 4, hidden).split_with_sizes(sizes, -3)
        three = found.narrow(-1, 0, 3 * hidden).split_with_sizes(sizes, -2)
        z = update.split_with_sizes(sizes, -2)
        every_h = by_states.split_with_sizes(sizes, -2)
        for t in range(len(sizes) - 1, -1, -1):
            four[t].mul_(every_h[t].unsqueeze(-2))
            if t or asked:
                earlier = started(every_h[t - 1] if t else carried[0], sizes[t])
                earlier.addcmul_(every_h[t], z[t])
                add(earlier, three[t], weight)
