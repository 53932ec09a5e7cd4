"""The steps of a pipeline, and how `>>` joins them.

A `Stage` takes one thing and gives one; a `Stream` takes many and gives many, lazily; a `TypePreserving`
gives back the very type that it takes. They are base classes, not protocols: every `nn.Module` is
callable with anything as far as a type checker sees, and so would match any protocol.
"""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast, overload

import attrs
from torch import nn
from typing_extensions import TypeIs, override

from pipeline.core.border import bordered
from pipeline.errors import CompositionError

if TYPE_CHECKING:
    from pipeline.core.chain import Chain, StreamChain

I_contra = TypeVar("I_contra", contravariant=True)
O_co = TypeVar("O_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)
A = TypeVar("A")
C = TypeVar("C")


@attrs.frozen
class Spec:
    """What is known, before any data, of what goes from one stage to the next.

    Attributes:
        size: the size of the last axis (feature or hidden); None while it is not known.
        causal: whether a step has seen no later one; None while it is not known.
    """

    size: int | None = None
    causal: bool | None = None


class StageBase:
    """What stages, streams and keeps have in common: a name, and a place for what is known of the flow."""

    name: str | None = None
    """What the part is called in a chain and its state-dict; its class's name in snake case if None."""

    def __init_subclass__(cls, *, border: bool = True, **options: object) -> None:
        """Put a border around what the class computes, unless it leaves that to parts of its own (`border=False`)."""
        super().__init_subclass__(**options)
        for method in ("forward", "__call__"):
            plain: object = cls.__dict__.get(method)
            if border and inspect.isfunction(plain) and not getattr(plain, "__isabstractmethod__", False):
                setattr(cls, method, bordered(plain))

    def build(self, spec: Spec, /) -> Spec:  # noqa: ARG002 - for parts that override it
        """Learn what comes in, make the weights that waited for it, and say what goes out.

        Called by `>>` along the whole chain. A part that does not say gives an unknown flow.

        Raises:
            CompositionError: if what comes in cannot be taken; `>>` adds the places of the two stages.
        """
        return Spec()


class Stage(StageBase, ABC, Generic[I_contra, O_co]):
    """One thing in, one thing out."""

    @abstractmethod
    def __call__(self, value: I_contra, /) -> O_co:
        """What the stage makes of one thing."""

    def map(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """Map the stage over many things, lazily."""
        return map(self, values)

    @overload
    def __rshift__(self, after: "TypePreserving[O_co]", /) -> "Chain[I_contra, O_co]": ...
    @overload
    def __rshift__(self, after: "Stage[O_co, C]", /) -> "Chain[I_contra, C]": ...
    @overload
    def __rshift__(self, after: "Stream[O_co, C]", /) -> "StreamChain[I_contra, C]": ...
    def __rshift__(self, after: Any, /) -> Any:
        return _joined(self, after)

    if TYPE_CHECKING:
        # Here, not in `TypePreserving`: of all the types that a keep before it keeps, the stage says which one comes.
        def __rrshift__(self: "Stage[A, C]", before: "TypePreserving[A]", /) -> "Chain[A, C]": ...


class TypePreserving(StageBase, ABC, Generic[T_contra]):
    """Gives back the very type that it takes, whichever of its types that is.

    Not a `Stage`: `>>` has an overload for it.
    """

    @override
    def build(self, spec: Spec, /) -> Spec:
        return spec

    # A stage after it has a say in the type, by `Stage.__rrshift__`.
    def __rshift__(self, after: "TypePreserving[T_contra]", /) -> "TypePreserving[T_contra]":
        return cast("TypePreserving[T_contra]", _joined(self, after))

    if TYPE_CHECKING:
        # Of two in a row, the narrower says what both keep.
        def __rrshift__(self: "TypePreserving[A]", before: "TypePreserving[A]", /) -> "TypePreserving[A]": ...


class Stream(StageBase, ABC, Generic[I_contra, O_co]):
    """Many things in, many out, lazily. A stage before or after it is mapped over it."""

    @abstractmethod
    def __call__(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """What the stream makes of many things, lazily."""

    def predict_batches(self, values: Iterable[I_contra], /) -> Iterator[O_co]:
        """As a call, for prediction: nothing shuffled, nothing left out, and little held back."""
        return self(values)

    @overload
    def __rshift__(self, after: "TypePreserving[O_co]", /) -> "StreamChain[I_contra, O_co]": ...
    @overload
    def __rshift__(self, after: "Stage[O_co, C] | Stream[O_co, C]", /) -> "StreamChain[I_contra, C]": ...
    def __rshift__(self, after: Any, /) -> Any:
        return _joined(self, after)


class ModuleStage(nn.Module, Stage[I_contra, O_co]):
    """A stage that is an ordinary `nn.Module`: it has weights, or works on tensors alone."""

    if TYPE_CHECKING:

        @override
        def __call__(self, value: I_contra, /) -> O_co: ...

    @abstractmethod
    @override
    def forward(self, value: I_contra) -> O_co: ...


def is_stream(part: object) -> TypeIs[Stream[Any, Any]]:
    """Whether a part takes many things at a time."""
    return isinstance(part, Stream)


def _joined(before: StageBase, after: object) -> StageBase:
    # Here and not above: a chain is made of stages, and is one.
    from pipeline.core.chain import join  # noqa: PLC0415

    if not isinstance(after, StageBase):
        msg = (
            f"`{type(before).__name__} >> ...` joins stages, but {type(after).__name__} is none; "
            "derive it from Stage, ModuleStage, Stream or TypePreserving, or wrap an encoder in Encode, a pool in Pool."
        )
        raise CompositionError(msg, after=type(after).__name__)
    return join(before, after)
