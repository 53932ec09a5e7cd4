"""Turn every field of a row into vectors and join them: one stage per field."""

import inspect
from collections.abc import Callable, Mapping
from typing import Generic, ParamSpec, cast, final

import attrs
import torch
from typing_extensions import TypeVar, override

from pipeline.checks.hints import describe
from pipeline.core.stage import ModuleStage, Spec, Stage
from pipeline.data.batches import Batch, select_field
from pipeline.data.kinds import K, Kind, Vectors
from pipeline.errors import OptionError, ShapeError
from pipeline.parts.config import POSITIONAL
from pipeline.stages.branches import Branching, build_branch, check_vectors, join_features
from pipeline.stages.fields import Fields

F = TypeVar("F", bound=Fields)
P = ParamSpec("P")


@attrs.frozen
class Through:
    """The stage of a field, in the place of the field's sequence."""

    stage: "Stage[Batch[Kind], Batch[Vectors]]"


@attrs.frozen
class Unused:
    """Marks a field that is left out."""


def through(stage: Stage[Batch[K], Batch[Vectors]], /) -> K:
    """Say which stage turns a field into vectors, in `EmbedFields`.

    To a type checker the result is the sequence of the field, so that it fits the signature of the fields' class, as
    the result of `attrs.field` fits an attribute.
    """
    return cast("K", Through(cast("Stage[Batch[Kind], Batch[Vectors]]", stage)))


def unused(kind: type[K], /) -> K:  # noqa: ARG001 - for the type checker
    """Say that `EmbedFields` leaves a field out."""
    return cast("K", Unused())


@final
class EmbedFields(Branching, ModuleStage[Batch[F], Batch[Vectors]], Generic[F]):
    """Turn each field into vectors with a stage of its own, and join the vectors along the feature axis.

    Args:
        record: the class of the fields.
        args: for each field in the order of their declaration, `through(stage)` or `unused(kind)`.
        fields: the same, by the field's name. Its weights have this name in the state-dict.

    Raises:
        TypeError: if the class has no field, or is not decorated as an attrs class.
        OptionError: if a field is missing, is not in the class, or is neither `through` nor `unused`.

    Example:
        >>> from pipeline import Embed, Identity, Ids, Pad, Row
        >>> @attrs.frozen(eq=False)
        ... class Event(Fields):
        ...     code: Ids
        ...     amount: Vectors
        >>> embed = EmbedFields(Event, code=through(Embed(9, 4)), amount=through(Identity()))
        >>> event = Event(Ids(torch.tensor([3, 1])), Vectors(torch.ones(2, 1)))
        >>> embed(Pad(Event)([Row(event)])).values.shape, list(embed.state_dict())
        (torch.Size([1, 2, 5]), ['code.weight'])
    """

    def __init__(self, record: Callable[P, F], /, *args: P.args, **fields: P.kwargs) -> None:
        given: object = record
        if not isinstance(given, type) or not issubclass(given, Fields):
            got = describe(cast("object", record))
            msg = f"record must be a class derived from Fields, got {got}; declare the fields in one."
            raise OptionError(msg, record=record)
        kinds = given.get_kinds()
        try:
            bound = inspect.signature(given).bind(*args, **fields)
        except TypeError as error:
            msg = f"EmbedFields({given.__name__}, ...) must get a stage for each field: {error}; use through or unused."
            raise OptionError(msg) from error
        missing = [name for name in kinds if name not in bound.arguments]
        if missing:
            msg = f"EmbedFields must get a stage for field {missing[0]!r} of {given.__name__}; pass through or unused."
            raise OptionError(msg, field=missing[0])
        stages: dict[str, Stage[Batch[Kind], Batch[Vectors]]] = {}
        for name in kinds:
            choice: object = bound.arguments[name]
            if isinstance(choice, Through):
                stages[name] = choice.stage
            elif not isinstance(choice, Unused):
                msg = f"field {name!r} must be through(stage) or unused(kind), got {describe(choice)}; wrap the stage."
                raise OptionError(msg, field=name)
        if not stages:
            msg = f"EmbedFields must use a field of {given.__name__}, but all are unused; pass through(stage) for one."
            raise OptionError(msg)
        super().__init__(stages)
        self.record: type[Fields] = given

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        branches = cast("Mapping[str, Stage[Batch[Kind], Batch[Vectors]]]", self.branches)
        fields = {name: Through(branches[name]) if name in branches else Unused() for name in self.record.get_kinds()}
        return {POSITIONAL: [self.record], **fields}

    @override
    def build(self, spec: Spec, /) -> Spec:
        total: int | None = 0
        unsized: str | None = None
        for name, stage in self.branches.items():
            field = f"field {name!r} of {self.record.__name__}"
            size = build_branch(stage, Spec(unsized=field), f"field {name!r}").size
            unsized = field if size is None else unsized
            total = None if size is None or total is None else total + size
        return Spec(size=total, unsized=unsized)

    @override
    def forward(self, value: Batch[F]) -> Batch[Vectors]:
        """Return the joined vectors of a batch, in its layout.

        Raises:
            ShapeError: if the batch holds other rows, or a stage returns other than vectors for each step.
        """
        if not issubclass(value.kind, self.record):
            msg = (
                f"EmbedFields takes batches of {self.record.__name__}, got {value.kind.__name__}; "
                "declare both with one class."
            )
            raise ShapeError(msg)
        branches = cast("Mapping[str, Stage[Batch[Kind], Batch[Vectors]]]", self.branches)
        vectors = {name: stage(select_field(value, name)) for name, stage in branches.items()}
        check_vectors(vectors)
        return join_features(value, vectors, lambda values: torch.cat(values, dim=-1))
