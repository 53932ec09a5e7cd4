"""Vectors to states, by an encoder of one's choice."""

from typing import Final, Generic, Literal, cast, final, overload

import torch
from torch import Tensor
from typing_extensions import TypeVar, override

from pipeline.checks.shapes import described
from pipeline.checks.switches import at_border
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Batch
from pipeline.data.rows import FILLER, Hidden, Kind, Vectors
from pipeline.data.states import Causal, MaybeCausal, S, S_co, States
from pipeline.errors import CompositionError, LengthError, ShapeError
from pipeline.parts.encoder import Encoder
from pipeline.registry import registry
from pipeline.registry.catalogue import Catalogue
from pipeline.stages.part_stage import PartStage

H_contra = TypeVar("H_contra", bound=Hidden, contravariant=True, default=Vectors)

_PROBE_SIZE = 64


@final
class Encode(PartStage[Encoder[S_co]], ModuleStage[Batch[H_contra], States[S_co]], Generic[S_co, H_contra]):
    """One hidden vector a step, and each row's final state, from packed or padded vectors.

    Args:
        encoder: an encoder, or the name of a registered one.
        kind: what it reads; vectors if left out. Over `Hidden`, such as what `Unpack` makes of states, no encoder
            counts as causal: the steps may have seen the future already.
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
    def __init__(self: "Encode[S, Vectors]", encoder: Encoder[S], /, *, name: str | None = None) -> None: ...
    @overload
    def __init__(
        self: "Encode[MaybeCausal, Hidden]",
        encoder: Encoder[MaybeCausal],
        kind: type[Hidden],
        /,
        *,
        name: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self: "Encode[Causal, Vectors]",
        encoder: str,
        /,
        *,
        causal: Literal[True],
        name: str | None = None,
        **options: object,
    ) -> None: ...
    @overload
    def __init__(
        self: "Encode[MaybeCausal, Vectors]",
        encoder: str,
        /,
        *,
        causal: bool = False,
        name: str | None = None,
        **options: object,
    ) -> None: ...
    @overload
    def __init__(
        self: "Encode[MaybeCausal, Hidden]",
        encoder: str,
        kind: type[Hidden],
        /,
        *,
        causal: bool = False,
        name: str | None = None,
        **options: object,
    ) -> None: ...
    def __init__(
        self,
        encoder: Encoder[MaybeCausal] | str,
        kind: type[Hidden] = Vectors,
        /,
        *,
        causal: bool = False,
        name: str | None = None,
        **options: object,
    ) -> None:
        super().__init__(cast("Encoder[S_co] | str", encoder), "encoder", name, options)
        self.kind: Final = kind
        if self.held is not None and self.held.causal and self.held.bidirectional:
            msg = (
                f"encoder {self.part_name!r} declares that it is causal and bidirectional, but who reads from both ends "
                "sees the future; declare one of them."
            )
            raise CompositionError(msg, encoder=self.part_name)
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
    def build(self, spec: Spec, /) -> Spec:
        encoder = self.make_part(spec.size)
        return Spec() if encoder is None else Spec(encoder.output_size, encoder.causal and spec.causal is not False)

    @override
    def forward(self, value: Batch[H_contra]) -> States[S_co]:
        """The states of a batch.

        Raises:
            CompositionError: if the encoder still waits for its input size.
            ShapeError: if the batch holds no vectors, or not of the size that the encoder reads.
        """
        kind = cast("type[Kind]", value.kind)
        if not issubclass(kind, Hidden):
            msg = f"Encode takes vectors, but {kind.__name__} arrived; look ids up first, with Embed."
            raise ShapeError(msg)
        if not issubclass(kind, self.kind):
            msg = "Encode was made for Vectors, but Hidden arrived; make it Encode(..., Hidden), which is not causal."
            raise ShapeError(msg)
        encoder, rows = self.get_part(value.values.shape[-1]), cast("Batch[Vectors]", value)
        if torch.compiler.is_compiling():
            return encoder(rows)
        self._check_taken(encoder, rows)
        states = encoder(rows)
        if at_border():
            self._check_given(encoder, rows, states)
        return states

    def _check_taken(self, encoder: Encoder[S_co], value: Batch[Vectors]) -> None:
        """Refuse what the encoder says that it cannot do."""
        if value.initial_carry is not None and not encoder.stateful:
            msg = (
                f"the batch has initial states, but encoder {self.part_name!r} is not stateful and would not start from "
                "them; leave them out, or declare stateful = True in an encoder that reads batch.initial."
            )
            raise ShapeError(msg, argument="initial")
        if not encoder.empty_rows and int(value.lengths.min()) == 0:
            row = int(value.metadata.row_ids[int(value.lengths.argmin())])
            which = "a row that fills the batch up" if row == FILLER else f"row {row}"
            msg = (
                f"{which} has no steps, and encoder {self.part_name!r} takes no empty rows; "
                "leave them out before Bucket, or choose an encoder that does."
            )
            raise LengthError(msg, row=row)

    def _check_given(self, encoder: Encoder[S_co], value: Batch[Vectors], states: object) -> None:
        """Refuse states that are not of these rows, or not of the size that the encoder declares."""
        if not isinstance(states, States):
            msg = f"encoder {self.part_name!r} must give States, but gave {described(states)}; mend its forward."
            raise ShapeError(msg, part=self.part_name)
        steps = cast("States[S_co]", states).steps
        if steps.values.shape[-1] != encoder.output_size:
            msg = (
                f"encoder {self.part_name!r} declares output_size={encoder.output_size}, but gave "
                f"{described(steps.values)}; declare what it gives."
            )
            raise ShapeError(msg, part=self.part_name, output_size=encoder.output_size)
        if steps.metadata is not value.metadata or not _alike(steps.lengths, value.lengths):
            msg = (
                f"encoder {self.part_name!r} gave states of other rows than came in, or lost their metadata; "
                "make them with batch.with_values(hidden), which keeps all that rides along."
            )
            raise ShapeError(msg, part=self.part_name)

    def _probe(self) -> Encoder[S_co]:
        """The encoder, or one like it that takes no memory: what it says of itself shows before its size is known."""
        if self.held is not None:
            return self.held
        with torch.device("meta"):
            return self.catalogue().make(self.part_name, **{**self._options, "input_size": _PROBE_SIZE})


def _alike(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)
