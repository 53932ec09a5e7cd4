"""What an encoder is: real steps in, one hidden vector a step out, and each row's final state."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic

from torch import nn

from pipeline.sequences.batches import Packed
from pipeline.sequences.rows import Vectors
from pipeline.sequences.states import S_co, States


class Encoder(nn.Module, ABC, Generic[S_co]):
    """Reads packed vectors. Its type says how far a step sees: `Encoder[Causal]` never looks ahead.

    Attributes:
        input_size: how many features it reads a step.
        output_size: how many it gives a step.
        causal: whether step t depends on steps up to t alone; must agree with the type.
    """

    input_size: int
    output_size: int
    causal: bool

    if TYPE_CHECKING:

        def __call__(self, batch: Packed[Vectors], /) -> States[S_co]:
            """As `forward`, with the type that `nn.Module` leaves open."""
            ...

    @abstractmethod
    def forward(self, batch: Packed[Vectors]) -> States[S_co]:
        """One hidden vector a real step, in the order of the batch, and each row's final state.

        A row of no steps ends as it began: with its initial state, or zeros.
        """
