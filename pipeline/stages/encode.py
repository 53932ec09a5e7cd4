"""Vectors to states, by an encoder of one's choice."""

from typing import Literal, cast, final, overload

import torch
from typing_extensions import override

from pipeline.catalogue import Catalogue
from pipeline.errors import CompositionError, ShapeError
from pipeline.parts.encoder import Encoder
from pipeline.registry import registry
from pipeline.sequences.batches import Batch
from pipeline.sequences.rows import Vectors
from pipeline.sequences.states import Causal, S_co, Sight, States
from pipeline.stage import Flow, ModuleStage
from pipeline.stages.slot import Slot

_PROBE_SIZE = 64


@final
class Encode(Slot[Encoder[S_co]], ModuleStage[Batch[Vectors], States[S_co]]):
    """One hidden vector a step, and each row's final state, from packed or padded vectors.

    Args:
        encoder: an encoder, or the name of a registered one.
        causal: for a name: promise the type checker, and make sure, that no step sees a later one.
        name: what the stage is called in its chain.
        options: for a name: what the encoder takes. Its `input_size` may be left out, and is learned from
            the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the encoder does not take an option, or needs one that is missing.
        CompositionError: if `causal` was promised and the encoder is not.

    Example:
        >>> from pipeline import Embed, Pool
        >>> model = Embed(9, 4) >> Encode("bilstm", hidden_size=5) >> Pool("final")
        >>> model.state_dict()["encode.encoder.rnn.weight_ih_l0"].shape
        torch.Size([20, 4])
    """

    encoder: Encoder[S_co] | None

    @overload
    def __init__(self, encoder: Encoder[S_co], *, name: str | None = None) -> None: ...
    @overload
    def __init__(
        self: "Encode[Causal]", encoder: str, *, causal: Literal[True], name: str | None = None, **options: object
    ) -> None: ...
    @overload
    def __init__(
        self: "Encode[Sight]", encoder: str, *, causal: bool = False, name: str | None = None, **options: object
    ) -> None: ...
    def __init__(
        self, encoder: Encoder[S_co] | str, *, causal: bool = False, name: str | None = None, **options: object
    ) -> None:
        super().__init__(encoder, "encoder", name, options)
        if causal and not self._probe().causal:
            msg = (
                f"encoder {encoder!r} was promised to be causal, but it is not: its steps see later ones; "
                "choose one that reads forward only, such as lstm."
            )
            raise CompositionError(msg, encoder=encoder)

    @override
    def catalogue(self) -> Catalogue[Encoder[S_co]]:
        return cast("Catalogue[Encoder[S_co]]", registry().encoders)

    @override
    def fit(self, flow: Flow, /) -> Flow:
        encoder = self.learn(flow.size)
        return Flow() if encoder is None else Flow(encoder.output_size, encoder.causal)

    @override
    def forward(self, value: Batch[Vectors]) -> States[S_co]:
        """The states of a batch.

        Raises:
            CompositionError: if the encoder still waits for its input size.
            ShapeError: if the batch holds no vectors, or not of the size that the encoder reads.
        """
        if value.kind is not Vectors:
            msg = f"Encode takes vectors, but {value.kind.__name__} arrived; look ids up first, with Embed."
            raise ShapeError(msg)
        return self.ready(value.values.shape[-1])(value.packed())

    def _probe(self) -> Encoder[S_co]:
        """The encoder, or one like it that takes no memory: what it says of itself shows before its size is known."""
        if self.held is not None:
            return self.held
        with torch.device("meta"):
            return self.catalogue().make(self._called, **{**self._options, "input_size": _PROBE_SIZE})
