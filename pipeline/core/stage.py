"""Base classes of the stages of a pipeline, and the operator `>>` that joins them.

A `Stage` maps one value to one value. A `Stream` maps many values to many, lazily. A `TypePreserving` stage returns
the type that it takes. They are base classes instead of protocols, because to a type checker every `nn.Module` is
callable with anything and would match any protocol.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import attrs
from torch import nn
from typing_extensions import TypeIs, override

from pipeline.core.border import add_border
from pipeline.data.iteration import iterate
from pipeline.data.rows import reject_single_text
from pipeline.errors import CompositionError

if TYPE_CHECKING:
    from pipeline.core.chain import Chain
    from pipeline.core.stream_chain import StreamChain

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
A = TypeVar("A")
C = TypeVar("C")


@attrs.frozen
class Spec:
    """Properties of the data between two stages that are known before any data exists.

    Attributes:
        size: the size of the last axis (feature or hidden); None if it is not known yet.
        causal: whether no step depends on a later one; None if it is not known yet.
        outdated: the stage that changed the steps after the encoder, if one did. The encoder's final states are not
            changed by it, so it has no effect on `Pool("final")`, which rejects it.
        unsized: the field whose size is not known, and is not by joining more stages before it.
    """

    size: int | None = None
    causal: bool | None = None
    outdated: str | None = None
    unsized: str | None = None

    def reject_unsized(self, stage: str) -> None:
        """Reject a stage that waits for an input size which no stage before it can determine.

        Raises:
            CompositionError: naming the field whose size is not known.
        """
        if self.size is None and self.unsized is not None:
            msg = (
                f"{stage} does not know its input size, because the number of features of {self.unsized} is not known; "
                "state it, as in Identity(1) for one number per step, or pass input_size=..."
            )
            raise CompositionError(msg, field=self.unsized)


class StageBase:
    """Base of all stages and streams: a name, and `build`, which infers sizes before any data."""

    name: str | None = None
    """The stage's name in a chain and in its state-dict; the snake-case name of its class if None."""
    stepwise: bool = False
    """Whether each step of its output depends on the same step of its input only, so that `Chain.step` may call it."""
    makes_targets: bool = False
    """Whether it makes the targets of a batch. `fit` calls it before it counts targets; it must have no weights."""

    def __init_subclass__(cls, *, border: bool = True, **options: object) -> None:
        """Add checks around `forward` and `__call__`. Chains opt out with `border=False`: their stages have them."""
        super().__init_subclass__(**options)
        for method in ("forward", "__call__"):
            plain: object = cls.__dict__.get(method)
            if border and inspect.isfunction(plain) and not getattr(plain, "__isabstractmethod__", False):
                setattr(cls, method, add_border(plain))

    def build(self, spec: Spec, /) -> Spec:  # noqa: ARG002 - for stages that override it
        """Receive the spec of the input, create the weights that depend on it, and return the spec of the output.

        `>>` calls it for each stage along the whole chain. By default nothing is known about the output.

        Raises:
            CompositionError: if the stage cannot take such an input; `>>` adds the positions of both stages.
        """
        return Spec()


class Reads(Generic[A]):
    """The type of a stage's input, in a form that a type checker compares exactly; see `Stage.reads`."""

    value: A


class Stage(StageBase, ABC, Generic[I_contra, O_co]):
    """Maps one value to one value."""

    @abstractmethod
    def __call__(self, value: I_contra, /) -> O_co:
        """Return the output for one value."""

    def map(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """Map the stage over many values, lazily. Override it if several values at a time are faster."""
        # Not `map`: a StopIteration of the stage's own would end it silently; a generator raises an error (PEP 479).
        reject_single_text(values)
        return (self(value) for value in iterate(values))

    if TYPE_CHECKING:
        # A stage is contravariant in its input: of two stages with different inputs a type checker infers that both
        # take `Never`, and accepts them as branches of one `Join`. The result of this method is invariant.
        def reads(self: "Stage[A, Any]") -> Reads[A]: ...  # noqa: D102

    @overload
    def __rshift__(self, after: "TypePreserving[O_co]", /) -> "Chain[I_contra, O_co]": ...
    @overload
    def __rshift__(self, after: "Stage[O_co, C]", /) -> "Chain[I_contra, C]": ...
    @overload
    def __rshift__(self, after: "Stream[O_co, C]", /) -> "StreamChain[I_contra, C]": ...
    def __rshift__(self, after: Any, /) -> Any:
        return _join(self, after)

    if TYPE_CHECKING:
        # Defined here and not in `TypePreserving`: among the types that the stage before preserves, this stage
        # determines which one flows.
        def __rrshift__(self: "Stage[A, C]", before: "TypePreserving[A]", /) -> "Chain[A, C]": ...


class TypePreserving(StageBase, ABC, Generic[T_contra]):
    """Returns a value of the type that it takes, for each of the types that it takes.

    It is not a `Stage`: `>>` has an overload for it.
    """

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    # `Stage.__rrshift__` gives the type of the chain if a stage follows.
    def __rshift__(self, after: "TypePreserving[T_contra]", /) -> "TypePreserving[T_contra]":
        return cast("TypePreserving[T_contra]", _join(self, after))

    if TYPE_CHECKING:
        # Of two in a row, the narrower one determines the types that both preserve.
        def __rrshift__(self: "TypePreserving[A]", before: "TypePreserving[A]", /) -> "TypePreserving[A]": ...


class Stream(StageBase, ABC, Generic[I_contra, O_co]):
    """Maps many values to many, lazily, for example rows to batches. Other stages of its chain are mapped over it."""

    @abstractmethod
    def __call__(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """Yield the outputs for many values, lazily."""

    def predict_batches(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """Yield the outputs for prediction: without shuffling, without dropping any, and buffering little."""
        return self(values)

    def predict_alone(self, value: I_contra, /) -> O_co | None:  # noqa: ARG002 - for streams that override it
        """Return the output for a prediction with one input; None, by default, to call `predict_batches` for it.

        Override it if that is faster. `predict_batches` must yield exactly this output.
        """
        return None

    @overload
    def __rshift__(self, after: "TypePreserving[O_co]", /) -> "StreamChain[I_contra, O_co]": ...
    @overload
    def __rshift__(self, after: "Stage[O_co, C] | Stream[O_co, C]", /) -> "StreamChain[I_contra, C]": ...
    def __rshift__(self, after: Any, /) -> Any:
        return _join(self, after)


class ModuleStage(nn.Module, Stage[I_contra, O_co]):
    """A stage that is an ordinary `nn.Module`: it has weights, or computes on tensors only."""

    if TYPE_CHECKING:

        @override
        def __call__(self, value: I_contra, /) -> O_co: ...

    @abstractmethod
    @override
    def forward(self, value: I_contra) -> O_co: ...


def is_stream(stage: object) -> TypeIs[Stream[Any, Any]]:
    """Return whether a stage is a stream."""
    return isinstance(stage, Stream)


def _join(before: StageBase, after: object) -> StageBase:
    # Imported here because a chain is made of stages and is itself a stage.
    from pipeline.core.join import join  # noqa: PLC0415
    from pipeline.core.untrained import warn_of_one_step  # noqa: PLC0415

    if not isinstance(after, StageBase):
        msg = (
            f"`{type(before).__name__} >> ...` must be followed by a stage, got {type(after).__name__}; derive it from "
            "Stage, ModuleStage, Stream or TypePreserving, or wrap an encoder in Encode and a pooling in Pool."
        )
        raise CompositionError(msg, after=type(after).__name__)
    chain = join(before, after)
    # Not when a saved chain is loaded: then it was joined before.
    warn_of_one_step(chain, stacklevel=3)
    return chain
