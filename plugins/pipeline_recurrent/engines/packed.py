"""Torch's own packed kernels: on a CPU for what no other engine takes, on a GPU cuDNN's."""

from collections.abc import Callable, Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from pipeline.data.batches import Carry
from pipeline.data.order import Order
from pipeline_recurrent.engines.engine import Layered
from pipeline_recurrent.engines.run import Answer, Cell, Run, Steps, Weights
from pipeline_recurrent.engines.why import precompute_inputs


class Kernels(Layered):
    """Torch's kernels on packed rows: the whole stack in one call, if nothing of ours stands between its layers."""

    @override
    def run(self, run: Run) -> Answer:
        if run.norms or run.residual:
            return super().run(run)
        weights = [own for layer in run.weights for own in layer]
        return called(
            run.cell,
            run.steps,
            run.order,
            weights,
            run.initial or run.zeros(),
            layers=run.layers,
            dropout=run.dropout,
            learning=run.learning,
        )

    @override
    def layer(
        self,
        cell: Cell,
        x: Steps,
        order: Order,
        weights: Sequence[Weights],
        initial: Carry | None,
    ) -> Answer:
        shape = (len(weights), order.occupied, weights[0][1].shape[-1])
        started = initial or tuple(x.new_zeros(shape) for _ in range(2 if cell == "lstm" else 1))
        return called(cell, x, order, weights, started, learning=torch.is_grad_enabled())


@final
class Packed(Kernels):
    """The engine that takes all that torch's modules take."""

    name = "packed"

    @override
    def refusal(self, run: Run) -> str | None:
        return precompute_inputs(run)


_acceptable: Callable[[Tensor], bool] = getattr(torch.backends.cudnn, "is_acceptable")  # noqa: B009
"""Torch leaves its type open."""


@final
class CuDNN(Kernels):
    """Torch's kernels on a GPU, where they are cuDNN's (or, on AMD's, MIOpen's)."""

    name = "cudnn"

    @override
    def refusal(self, run: Run) -> str | None:
        device = run.steps.device
        if device.type != "cuda":
            return f"it runs on a GPU, but the values are on {device}"
        if not _acceptable(run.steps):
            return f"cuDNN is absent, switched off, or does not take {run.steps.dtype}"
        return precompute_inputs(run)


def called(
    cell: Cell,
    x: Float[Tensor, "steps feature"],
    order: Order,
    weights: Sequence[Weights],
    initial: Carry,
    *,
    learning: bool,
    layers: int = 1,
    dropout: float = 0.0,
) -> Answer:
    """Torch's call of each kind of cell, whose states are two tensors for an LSTM and one for the others."""
    flat = [weight for own in weights for weight in own if weight is not None]
    biases = weights[0][2] is not None
    training, both = learning or dropout > 0, len(weights) == 2 * layers
    if cell == "lstm":
        steps, *ended = torch.lstm(x, order.batch_sizes, list(initial), flat, biases, layers, dropout, training, both)
        return steps, tuple(ended)
    call = torch.gru if cell == "gru" else torch.rnn_tanh if cell == "rnn_tanh" else torch.rnn_relu
    steps, end = call(x, order.batch_sizes, initial[0], flat, biases, layers, dropout, training, both)
    return steps, (end,)
