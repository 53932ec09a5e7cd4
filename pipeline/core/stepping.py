"""Stages that run step by step: what they remember of the steps so far."""

from abc import ABC, abstractmethod
from typing import Generic, Self, TypeVar

from jaxtyping import Int64
from torch import Tensor

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)


class Memory(ABC):
    """What a stage remembers of the earlier steps of each row.

    A memory is a value: a step returns a new one, and the one before may be used again, to try another token. Tensors
    that both share may be appended to, but what one of them holds is never overwritten.
    """

    __slots__ = ()

    @abstractmethod
    def select(self, rows: Int64[Tensor, " selected"]) -> Self:
        """Return the memory of some rows, by their indices; an index may occur several times. They are on the CPU."""


M = TypeVar("M", bound=Memory)


class Stepping(ABC, Generic[I_contra, O_co, M]):
    """A base class of stages whose output at a step depends on earlier steps too, for `Chain.step`.

    A stage whose output at a step depends on the same step only needs no memory: it declares `stepwise = True`.
    """

    @abstractmethod
    def step(self, value: I_contra, memory: M | None, /) -> tuple[O_co, M]:
        """Return the output for the next steps of each row, and the memory of all steps so far.

        Outputs must equal those of the whole rows at these steps.

        Args:
            value: the next steps of each row, any number of them; none for a row that does not continue.
            memory: what the call before returned; None at the beginning of the rows.

        Raises:
            CompositionError: if the stage cannot run step by step, for example because of its encoder.
        """
