"""What a pooling is: an encoder's states in, one vector a row out."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.data.states import MaybeCausal, States
from pipeline.parts.capabilities import Layout


class Pooling(nn.Module, ABC):
    """Makes one vector of each row's steps; zeros of a row that has none.

    Attributes:
        input_size: how many features a step must have; None if any number will do.
        layouts: which states it reads as they come; of others it makes a copy first.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` take it on padded states.
    """

    input_size: int | None = None
    layouts: tuple[Layout, ...] = ("packed", "padded")
    exportable: bool = False

    if TYPE_CHECKING:

        def __call__(self, states: States[MaybeCausal], /) -> Float[Tensor, "batch hidden"]:
            """As `forward`, with the type that `nn.Module` leaves open."""
            ...

    @abstractmethod
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        """One vector a row."""

    def output_size(self, input_size: int) -> int:
        """How many features come out when so many come in: as many, unless overridden."""
        return input_size
