"""Encode vectors: one hidden vector per step, and a final state per row."""

from collections.abc import Mapping
from typing import Final, Generic, Literal, cast, final, overload

import attrs
import torch
from torch import Tensor
from typing_extensions import TypeVar, override

from pipeline.checks.hints import describe
from pipeline.checks.switches import checks_enabled
from pipeline.core.stage import ModuleStage, Spec
from pipeline.core.stepping import Memory, Stepping
from pipeline.data.batches import Batch
from pipeline.data.kinds import Hidden, Kind, Vectors
from pipeline.data.rows import FILLER
from pipeline.data.states import Causal, MaybeCausal, S, S_co, States
from pipeline.errors import CompositionError, LengthError, ShapeError
from pipeline.parts.config import POSITIONAL
from pipeline.parts.encoder import Encoder
from pipeline.parts.stepping import EncoderCarry, step_encoder
from pipeline.registry import registry
from pipeline.registry.catalogue import Catalogue
from pipeline.stages.part_stage import PartStage

H_contra = TypeVar("H_contra", bound=Hidden, contravariant=True, default=Vectors)

_PROBE_SIZE: Final = 64
"""An input size for encoders whose size is not known yet; a power of 2, since heads must divide it."""


@final
class Encode(
    PartStage[Encoder[S_co]],
    ModuleStage[Batch[H_contra], States[S_co]],
    Stepping[Batch[H_contra], States[S_co], Memory],
    Generic[S_co, H_contra],
):
    """Encode packed or padded vectors: one hidden vector per step, and each row's final state.

    Args:
        encoder: an encoder, or the name of a registered one.
        kind: the kind of the input; `Vectors` by default. For `Hidden`, such as the output of `Unpack`, the states are
            not causal whatever the encoder, since the input may depend on later steps already.
        causal: for an encoder given by name: check that it is causal, and tell the type checker so.
        name: the stage's name in its chain.
        options: options of the encoder, if it is given by name. `input_size` may be left out; it is then taken from
            the stage before.

    Raises:
        UnknownNameError: if no plugin offers the name.
        UnknownOptionError: if the encoder does not take an option, or needs one that is missing.
        CompositionError: if `causal` is True and the encoder is not causal.

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
        if self.part is not None and self.part.causal and self.part.bidirectional:
            msg = (
                f"encoder {self.part_name!r} declares both causal and bidirectional, but a bidirectional encoder uses "
                "later steps; declare only one of them."
            )
            raise CompositionError(msg, encoder=self.part_name)
        if causal and not self._probe().causal:
            known = f"causal_{encoder}"
            example = known if known in registry().encoders.names() else "lstm"
            msg = (
                f"encoder {encoder!r} must be causal, but its steps depend on later ones; choose a causal one, such as "
                f'"{example}", or leave causal=True out.'
            )
            raise CompositionError(msg, encoder=encoder)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        encoder, options = self.get_part_config()
        return {POSITIONAL: [encoder, self.kind], "name": self.name, **options}

    @override
    def get_catalogue(self) -> Catalogue[Encoder[S_co]]:
        return cast("Catalogue[Encoder[S_co]]", registry().encoders)

    @override
    def build(self, spec: Spec, /) -> Spec:
        encoder = self.make_part(spec)
        return Spec() if encoder is None else Spec(encoder.output_size, encoder.causal and spec.causal is not False)

    @override
    def forward(self, value: Batch[H_contra]) -> States[S_co]:
        """Return the states of a batch.

        Raises:
            CompositionError: if the encoder's input size is not known yet.
            ShapeError: if the batch does not hold vectors, or not of the encoder's input size.
            LengthError: if the batch has empty rows, and the encoder does not support them.
        """
        kind = cast("type[Kind]", value.kind)
        if not issubclass(kind, Hidden):
            msg = f"the input of Encode must be vectors, got {kind.__name__}; embed ids first, with Embed."
            raise ShapeError(msg)
        if not issubclass(kind, self.kind):
            msg = "the input of Encode must be Vectors, got Hidden; make it Encode(..., Hidden), which is not causal."
            raise ShapeError(msg)
        encoder, rows = self.get_part(value.values.shape[-1]), cast("Batch[Vectors]", value)
        # The checks read values, which would break a compiled graph.
        if torch.compiler.is_compiling():
            return encoder(rows)
        self._check_input(encoder, rows)
        states = encoder(rows)
        if checks_enabled():
            self._check_states(encoder, rows, states)
        # An encoder that changes another's steps vouches for its final states.
        return states if states.outdated is None else attrs.evolve(states, outdated=None)

    @override
    def step(self, value: Batch[H_contra], memory: Memory | None, /) -> tuple[States[S_co], Memory]:
        """Return the states of the next steps of each row.

        The encoder starts from its carry; or from a memory of its own, if it is a `Stepping` itself.

        Raises:
            CompositionError: if the encoder is not causal, or is not stateful.
        """
        encoder = self.get_part(value.values.shape[-1])
        if isinstance(encoder, Stepping):
            own = cast("Stepping[Batch[H_contra], States[S_co], Memory]", encoder)
            return own.step(value, memory)
        return step_encoder(encoder, self.part_name, self, value, cast("EncoderCarry | None", memory))

    def _check_input(self, encoder: Encoder[S_co], value: Batch[Vectors]) -> None:
        """Reject a batch that needs what the encoder declares it does not support."""
        if value.initial_carry is not None and not encoder.stateful:
            msg = (
                f"the batch has an initial_carry, but encoder {self.part_name!r} is not stateful and would ignore it; "
                "leave it out, or declare stateful = True in an encoder that starts from batch.initial_carry."
            )
            raise ShapeError(msg, argument="initial")
        if not encoder.empty_rows and int(value.lengths.min()) == 0:
            row = int(value.metadata.row_ids[int(value.lengths.argmin())])
            name = "a filler row" if row == FILLER else f"row {row}"
            msg = (
                f"{name} has no steps, and encoder {self.part_name!r} does not support empty rows; "
                "drop them before Bucket, or choose an encoder that supports them."
            )
            raise LengthError(msg, row=row)

    def _check_states(self, encoder: Encoder[S_co], value: Batch[Vectors], states: object) -> None:
        """Reject states of other rows, or of another size than the encoder declares."""
        if not isinstance(states, States):
            msg = f"encoder {self.part_name!r} must return States, got {describe(states)}; fix its forward."
            raise ShapeError(msg, part=self.part_name)
        steps = cast("States[S_co]", states).steps
        if steps.values.shape[-1] != encoder.output_size:
            msg = (
                f"encoder {self.part_name!r} declares output_size={encoder.output_size}, but returned "
                f"{describe(steps.values)}; declare the size that it returns."
            )
            raise ShapeError(msg, part=self.part_name, output_size=encoder.output_size)
        if steps.metadata is not value.metadata or not _are_equal(steps.lengths, value.lengths):
            msg = (
                f"encoder {self.part_name!r} must return states of the same rows with their metadata; "
                "make them with batch.with_values(hidden), which keeps both."
            )
            raise ShapeError(msg, part=self.part_name)

    def _probe(self) -> Encoder[S_co]:
        """Return the encoder, or, if its size is not known yet, one without memory that declares the same."""
        if self.part is not None:
            return self.part
        # On the meta device nothing is allocated, so this is cheap for an encoder of any size.
        with torch.device("meta"):
            return self.get_catalogue().make(self.part_name, **{**self._options, "input_size": _PROBE_SIZE})


def _are_equal(one: Tensor, other: Tensor) -> bool:
    return one is other or torch.equal(one, other)
