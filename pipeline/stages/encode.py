"""Vectors to states, by an encoder of one's choice."""

from typing import Final, Literal, cast, final, overload

import torch
from typing_extensions import override

from pipeline.checked import described
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.parts.encoder import Encoder
from pipeline.registry import registry
from pipeline.sequences.batches import Batch
from pipeline.sequences.rows import Vectors
from pipeline.sequences.states import Causal, S_co, Sight, States
from pipeline.stage import Flow, ModuleStage

_PROBE_SIZE = 64


@final
class Encode(ModuleStage[Batch[Vectors], States[S_co]]):
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
        super().__init__()
        self.name = name
        self.encoder: Encoder[S_co] | None = None
        self._named: Final = encoder if isinstance(encoder, str) else type(encoder).__name__
        self._options = options
        if isinstance(encoder, Encoder):
            if options:
                msg = f"options {sorted(options)} go with a registered name; {self._named} was made already."
                raise OptionError(msg)
            self.encoder = encoder
            return
        # Made once without memory, so that a wrong option or a broken promise shows at once, in the right line.
        with torch.device("meta"):
            probe = self._made(cast("int", options.get("input_size", _PROBE_SIZE)))
        if causal and not probe.causal:
            msg = (
                f"encoder {self._named!r} was promised to be causal, but it is not: its steps see later ones; "
                "choose one that reads forward only, such as lstm."
            )
            raise CompositionError(msg, encoder=self._named)
        if "input_size" in options:
            self.encoder = self._made(cast("int", options["input_size"]))

    @property
    def waits(self) -> bool:
        """Whether the encoder is not made yet, for want of its input size."""
        return self.encoder is None

    @override
    def fit(self, flow: Flow, /) -> Flow:
        if self.encoder is None:
            if flow.size is None:
                return Flow()
            self.encoder = self._made(flow.size)
        if flow.size not in (None, self.encoder.input_size):
            msg = (
                f"{flow.size} features come in, but encoder {self._named!r} reads "
                f"input_size={self.encoder.input_size}; make the two equal."
            )
            raise CompositionError(msg, size=flow.size, input_size=self.encoder.input_size)
        return Flow(self.encoder.output_size, self.encoder.causal)

    @override
    def forward(self, value: Batch[Vectors]) -> States[S_co]:
        """The states of a batch.

        Raises:
            CompositionError: if the encoder still waits for its input size.
            ShapeError: if the batch holds no vectors, or not of the size that the encoder reads.
        """
        if self.encoder is None:
            msg = (
                f"encoder {self._named!r} does not know its input size yet; join Encode behind a stage that gives "
                f'vectors, or say it: Encode("{self._named}", input_size=...).'
            )
            raise CompositionError(msg, encoder=self._named)
        if value.kind is not Vectors or value.values.shape[-1] != self.encoder.input_size:
            msg = (
                f"encoder {self._named!r} reads vectors of {self.encoder.input_size} features, but "
                f"{value.kind.__name__} arrived, {described(value.values)}; embed ids first, and keep the sizes equal."
            )
            raise ShapeError(msg, input_size=self.encoder.input_size)
        return self.encoder(value.packed())

    def _made(self, input_size: int) -> Encoder[S_co]:
        options = {**self._options, "input_size": input_size}
        return cast("Encoder[S_co]", registry().encoders.make(self._named, **options))
