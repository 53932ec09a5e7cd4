"""What an encoder is: real steps in, one hidden vector a step out, and each row's final state."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic

from torch import nn

from pipeline.data.batches import Batch
from pipeline.data.rows import Vectors
from pipeline.data.states import S_co, States
from pipeline.parts.capabilities import Layout


class Encoder(nn.Module, ABC, Generic[S_co]):
    """Reads vectors. Its type says how far a step sees: `Encoder[Causal]` never looks ahead.

    What it declares must be true of it: it is tried when a plugin offers the encoder, and the laws of
    `pipeline.testing` hold it against that.

    Attributes:
        input_size: how many features it reads a step.
        output_size: how many it gives a step.
        causal: whether step t depends on steps up to t alone; must agree with the type.
        bidirectional: whether it reads each row from both ends; then it is not causal.
        layouts: which batches it reads as they come; of others it makes a copy first, by `packed()` or `padded()`.
        empty_rows: whether a row may have no steps; if not, `Encode` refuses such a batch.
        stateful: whether it starts from a batch's `initial`, and gives what goes in there as `carried`.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` take it on padded rows.
    """

    input_size: int
    output_size: int
    causal: bool
    bidirectional: bool = False
    layouts: tuple[Layout, ...] = ("packed",)
    empty_rows: bool = True
    stateful: bool = False
    exportable: bool = False

    if TYPE_CHECKING:

        def __call__(self, batch: Batch[Vectors], /) -> States[S_co]:
            """As `forward`, with the type that `nn.Module` leaves open."""
            ...

    @abstractmethod
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """One hidden vector a real step, and each row's final state.

        The batch comes in either layout; `batch.packed()` and `batch.padded()` make the one that is needed, and
        cost nothing where it is that one.

        A row of no steps ends as it began: with its initial state, or zeros.
        """
