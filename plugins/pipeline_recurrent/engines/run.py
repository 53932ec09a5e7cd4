"""What an engine is asked for: one batch through one stack of recurrent layers."""

from collections.abc import Sequence
from typing import Literal, TypeAlias

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from pipeline.data.batches import Carry
from pipeline.data.order import Order

Cell: TypeAlias = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
"""What a layer computes at a step; torch's names for it."""

Weights: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""Of one direction of one layer: input, recurrent, and their biases, or None; shapes and gate order are torch's."""

Steps: TypeAlias = Float[Tensor, "steps feature"] | Int64[Tensor, " steps"]
"""What a layer reads: vectors; or ids, if its input weights hold for each id what they and their biases make of it."""

Answer: TypeAlias = tuple[Float[Tensor, "steps hidden"], Carry]
"""States in packed order, the directions side by side, and what each row ended with, rows in packed order."""


@attrs.frozen(eq=False)
class Run:
    """One batch, the weights of a stack, and where its rows start.

    Attributes:
        cell: what a layer computes at a step.
        steps: the real steps, in packed order; ids, if the first layer's input weights are a table for them.
        order: where they stand.
        weights: for each layer, those of each direction.
        initial: a tensor (or, of an LSTM, two) of layers (x directions) x rows x hidden, of the rows that have steps,
            the longest first; None for zeros.
        dropout: on what goes from one layer to the next; 0 in evaluation.
        norms: for each layer but the last, what normalises its output; or none.
        residual: whether each layer but the first adds what comes in to what it gives.
    """

    cell: Cell
    steps: Steps
    order: Order
    weights: Sequence[Sequence[Weights]]
    initial: Carry | None = None
    dropout: float = 0.0
    norms: Sequence[nn.Module] = ()
    residual: bool = False

    @property
    def layers(self) -> int:
        """How many layers are stacked."""
        return len(self.weights)

    @property
    def directions(self) -> int:
        """One, or two."""
        return len(self.weights[0])

    @property
    def precompute_inputs(self) -> bool:
        """Whether the first layer looks its input products up."""
        return not self.steps.is_floating_point()

    @property
    def dtype(self) -> torch.dtype:
        """What it computes in."""
        return self.weights[0][0][1].dtype if self.precompute_inputs else self.steps.dtype

    @property
    def features(self) -> int:
        """How many features a step has that comes in; none that are multiplied by anything, if it is looked up."""
        return 0 if self.precompute_inputs else self.steps.shape[-1]

    @property
    def hidden(self) -> int:
        """How many features a state has, a direction."""
        return self.weights[0][0][1].shape[-1]

    @property
    def states(self) -> int:
        """How many tensors are carried from step to step."""
        return 2 if self.cell == "lstm" else 1

    @property
    def learning(self) -> bool:
        """Whether gradients will be asked for."""
        return torch.is_grad_enabled() and any(
            tensor is not None and tensor.requires_grad
            for tensor in (
                self.steps,
                *(self.initial or ()),
                *(weight for layer in self.weights for direction in layer for weight in direction),
            )
        )

    def zeros(self) -> Carry:
        """Initial states of zeros, for engines that want them spelt out."""
        shape = (self.layers * self.directions, self.order.occupied, self.hidden)
        return tuple(self.steps.new_zeros(shape, dtype=self.dtype) for _ in range(self.states))
