"""The plain engine: torch operations alone, on the packed layout, and a backward pass of our own."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, final

import torch
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline_recurrent.engines.engine import Layered
from pipeline_recurrent.engines.packed import Packed
from pipeline_recurrent.engines.run import Answer, Cell, Run, Steps, Weights
from pipeline_recurrent.engines.scan.elman import ElmanKernel
from pipeline_recurrent.engines.scan.gru import GRUKernel
from pipeline_recurrent.engines.scan.kernel import Kernel
from pipeline_recurrent.engines.scan.layer import Plan, differentiable, scanned
from pipeline_recurrent.engines.scan.lstm import LSTMKernel
from pipeline_recurrent.engines.why import unusual_dtype

_KERNELS: Final[Mapping[Cell, Kernel]] = {
    "lstm": LSTMKernel(),
    "gru": GRUKernel(),
    "rnn_tanh": ElmanKernel("tanh"),
    "rnn_relu": ElmanKernel("relu"),
}

_PACKED: Final = Packed()
"""Whose operations have second derivatives."""


@final
class Plain(Layered):
    """Needs no compiler: one input product over all real steps, one product in place a step, gates fused.

    In the backward pass all that is not recurrent is done once over all steps, and each weight's gradient is one
    product; autograd's own, a step at a time, is quadratic in the length of the rows.
    """

    name = "plain"

    @override
    def refusal(self, run: Run) -> str | None:
        return unusual_dtype(run)

    @override
    def layer(
        self,
        cell: Cell,
        x: Steps,
        order: Order,
        weights: Sequence[Weights],
        initial: Carry | None,
    ) -> Answer:
        tensors = [x, *(initial or ()), *(weight for own in weights for weight in own)]
        plan = Plan(_KERNELS[cell], order, len(weights), len(initial or ()), partial(_PACKED.layer, cell))
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
            output, *ended = differentiable(plan, *tensors)
            return output, tuple(ended)
        made = scanned(plan, x, initial or (), weights)
        return made.output, made.ended
