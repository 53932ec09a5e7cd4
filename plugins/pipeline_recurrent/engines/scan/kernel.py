"""What a cell is to the plain engine: how its gates lie, a loop forward over time, and one backward."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Final, Literal, TypeAlias

import torch
from torch import Tensor

from pipeline.data.batches import Carry
from pipeline_recurrent.engines.product import fill
from pipeline_recurrent.engines.run import Steps, Weights

Product = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Adds the product of the second and third to the first, in place."""


through_sigmoid: Final[Callable[..., Tensor]] = torch.ops.aten.sigmoid_backward.grad_input
"""A gradient times the derivative of a sigmoid, s - s s, in one pass: of the gradient and s, into `grad_input`."""

through_tanh: Final[Callable[..., Tensor]] = torch.ops.aten.tanh_backward.grad_input
"""The same for a tanh t, 1 - t t."""

Beside: TypeAlias = Literal["state", "state before", "cell before"]
"""What a cell's factors look at beside its gates."""


class Kernel(ABC):
    """One kind of cell over the packed layout.

    Gates lie side by side in one tensor of steps x (blocks x hidden), or directions x steps x (blocks x hidden) when
    both directions are scanned together; either way the time steps are stretches of its second-last axis, each of as
    many rows as are still running. The input product fills the last blocks, in torch's order of gates; the recurrent
    one is added to the first. All blocks are filled by both, but for those that stand `apart`: at the front what is
    recurrent alone, at the back what is of the input alone.

    Attributes:
        shared: blocks in which both products are added up.
        apart: blocks for which they are needed one by one: the GRU's new gate.
        extras: tensors of steps x hidden that are kept beside the states: the LSTM's cells.
        beside: what else `factors` looks at.
    """

    shared: ClassVar[int]
    apart: ClassVar[int] = 0
    extras: ClassVar[int] = 0
    beside: ClassVar[Beside]

    @property
    def blocks(self) -> int:
        """How many blocks the gates have."""
        return self.shared + 2 * self.apart

    def of_input(self, gates: Tensor, hidden: int) -> Tensor:
        """The columns that the input product fills."""
        return gates[..., self.apart * hidden :]

    def of_state(self, gates: Tensor, hidden: int) -> Tensor:
        """The columns that the recurrent product is added to."""
        return gates[..., : (self.shared + self.apart) * hidden]

    def turned(self, weight: Tensor) -> Tensor:
        """Recurrent weights, torch's order of gates, in the order of these columns."""
        return weight.roll(self.apart * weight.shape[-1], 0) if self.apart else weight

    def turned_back(self, weight: Tensor, hidden: int) -> Tensor:
        """What lies in the order of these columns, in torch's."""
        return weight.roll(-self.apart * hidden, 0) if self.apart else weight

    def begin(self, gates: Tensor, x: Steps, weights: Weights) -> None:
        """Fill the gates of one direction with all that does not depend on earlier states: one product over all steps.

        Args:
            gates: steps x (blocks x hidden), filled in place.
            x: steps x feature, or ids that are looked up.
            weights: of this direction.
        """
        w_in, w_state, b_in, b_state = weights
        hidden = w_state.shape[-1]
        shared, alone = self.shared * hidden, self.apart * hidden
        bias: Tensor | None = None
        if b_in is not None and b_state is not None:
            bias = torch.cat([b_in[:shared] + b_state[:shared], b_in[shared:]]) if alone else b_in + b_state
        fill(gates[:, alone:], x, w_in, bias)
        gates[:, :alone] = 0 if b_state is None else b_state[shared:]

    @abstractmethod
    def forward(
        self,
        gates: Tensor,
        states: Tensor,
        extras: Sequence[Tensor],
        weight: Tensor,
        sizes: list[int],
        initial: Carry | None,
    ) -> None:
        """Fill the states, and the extras; the gates become what `factors` needs of them.

        Args:
            gates: as `begin` left them.
            states: steps x hidden, or directions before that, filled in place.
            extras: likewise.
            weight: the recurrent weights, hidden x (blocks x hidden), as `turned`.
            sizes: how many rows are running at each time.
            initial: rows x hidden, or directions before that; None for zeros.
        """

    @abstractmethod
    def factors(self, gates: Tensor, beside: Tensor, extras: Sequence[Tensor]) -> Carry:
        """All of the backward pass that depends on no later step: once over all steps, in place where that goes.

        Args:
            gates: as `forward` left them; what is in them is lost.
            beside: what the attribute of this name says, steps x hidden, or directions before that; likewise.
            extras: as `forward` left them; likewise.

        Returns:
            First the factors by which the loss's gradients by states (and cells) become those by the gates, in the
            layout of the gates; then what else `backward` needs.
        """

    @abstractmethod
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
        """Make gradients by the gates of the factors, in place, from the last step to the first.

        Args:
            factors: of the method of this name.
            by_states: gradients by the states, as they come from outside; changed in place.
            carried: zeros that become the gradient by the initial states, rows x hidden; then gradients by what the
                extras ended with, which become those by what they began with.
            weight: the recurrent weights, (blocks x hidden) x hidden, as `turned`.
            sizes: how many rows are running at each time.
            asked: whether anybody asks for gradients by what the rows began with; else those are not to be used.
        """


def product(like: Tensor) -> Product:
    """The product in place that fits tensors of two axes, or of three."""
    return torch.Tensor.addmm_ if like.ndim == 2 else torch.Tensor.baddbmm_


def started(tensor: Tensor, rows: int) -> Tensor:
    """The first rows of a time step: those that are still running at the next."""
    return tensor if tensor.shape[-2] == rows else tensor.narrow(-2, 0, rows)
