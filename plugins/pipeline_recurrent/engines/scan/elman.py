"""The plain RNN for the plain engine."""

from collections.abc import Sequence
from typing import ClassVar, Literal, final

import torch
from torch import Tensor
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline_recurrent.engines.scan.kernel import Beside, Kernel, product, started


@final
class ElmanKernel(Kernel):
    """One gate, which is the state: h = tanh or relu of the sum of both products."""

    shared = 1
    beside: ClassVar[Beside] = "state"

    def __init__(self, nonlinearity: Literal["tanh", "relu"]) -> None:
        self.nonlinearity: Literal["tanh", "relu"] = nonlinearity

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
        add, squash = product(gates), self.nonlinearity == "tanh"
        whole, every_h = gates.split_with_sizes(sizes, -2), states.split_with_sizes(sizes, -2)
        before = None if initial is None else initial[0]
        for t, rows in enumerate(sizes):
            if before is not None:
                add(whole[t], started(before, rows), weight)
            before = every_h[t]
            if squash:
                torch.tanh(whole[t], out=before)
            else:
                torch.clamp_min(whole[t], 0, out=before)

    @override
    def factors(self, gates: Tensor, beside: Tensor, extras: Sequence[Tensor]) -> Carry:
        if self.nonlinearity == "relu":
            return ((beside > 0).to(beside.dtype),)
        return (torch.addcmul(beside.new_ones(()), beside, beside, value=-1),)

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
        add = product(factors[0])
        whole, every_h = factors[0].split_with_sizes(sizes, -2), by_states.split_with_sizes(sizes, -2)
        for t in range(len(sizes) - 1, -1, -1):
            whole[t].mul_(every_h[t])
            if t or asked:
                add(started(every_h[t - 1] if t else carried[0], sizes[t]), whole[t], weight)
