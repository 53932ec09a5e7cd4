"""Base class of poolings."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor, nn

from pipeline.core.inference import InferenceOptions
from pipeline.data.batches import Layout
from pipeline.data.states import MaybeCausal, States


class Pooling(nn.Module, ABC):
    """Reduces each row's states to one vector; an empty row gives zeros.

    Attributes:
        input_size: the required number of features per step; None if it accepts any number.
        layouts: the layouts that it reads without a copy.
        deterministic: whether vectors have the same bits in every batch; `for_inference` sets it.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` support it on padded states.
    """

    input_size: int | None = None
    layouts: tuple[Layout, ...] = ("packed", "padded")
    exportable: bool = False
    deterministic: bool = False

    # nn.Module declares `__call__` as returning Any, which would hide every type error after a call.
    if TYPE_CHECKING:

        def __call__(self, states: States[MaybeCausal], /) -> Float[Tensor, "batch hidden"]:
            """Call `forward`, with the type that `nn.Module` leaves open."""
            ...

    @abstractmethod
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        """Return one vector per row."""

    def weights(self, states: States[MaybeCausal]) -> Float[Tensor, "batch time"] | None:  # noqa: ARG002 - see below
        """Return the weight of each step in its row's vector, zeros for padding; None, by default, without weights.

        A pooling by attention overrides it, so that `pipe.attention_weights` finds its weights.
        """
        return None

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Compute vectors whose bits do not depend on the batch, if the options say so."""
        self.deterministic = options.deterministic

    def output_size(self, input_size: int) -> int:
        """Return the number of features of the output; by default that of the input."""
        return input_size
