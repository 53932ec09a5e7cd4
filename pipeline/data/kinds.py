"""The kinds of sequences that a row may hold: ids, vectors, several fields per step, and rows within rows."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Generic, Self, cast, get_args, get_origin, get_type_hints, overload

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import TypeVar, override

from pipeline.checks.hints import describe
from pipeline.data.tensors import copy_if_view, to_ints
from pipeline.errors import ShapeError

if TYPE_CHECKING:
    from pipeline.stages.fields import Field

E = TypeVar("E", bound="Composite")


class Kind:
    """The base of the kinds of sequences: `Ids`, `Hidden`, `Vectors`, `Nested`, and of classes with fields."""

    if TYPE_CHECKING:
        # With this, one annotation `code: Ids` in a class of fields gives two types: `Event.code` is a stage that
        # selects the field, and `event.code` is the sequence.
        @overload
        def __get__(self, row: None, owner: type[E], /) -> "Field[E, Self]": ...
        @overload
        def __get__(self, row: object, owner: type[object], /) -> Self: ...
        def __get__(self, row: object, owner: type[object], /) -> object: ...

    def __len__(self) -> int:
        """Return the number of steps."""
        raise NotImplementedError

    def cut(self, window: slice) -> Self:
        """Return the steps in a window. They are not copied."""
        raise NotImplementedError


@attrs.frozen(eq=False)
class Ids(Kind):
    """A sequence of token ids.

    Attributes:
        values: one id per step.
        offsets: the position of each token in its text, as start and end in characters; a token that is not in
            the text (bos, eos) has an empty span.
    """

    values: Int64[Tensor, " time"]
    offsets: Int64[Tensor, "time 2"] | None = None

    @override
    def __len__(self) -> int:
        # A single number has no steps; Pad rejects it with the row at fault.
        return self.values.shape[0] if self.values.ndim else 0

    @override
    def cut(self, window: slice) -> Self:
        return type(self)(self.values[window], None if self.offsets is None else self.offsets[window])

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[Tensor, Tensor | None]]:
        # A view would be pickled, or deeply copied, with the whole tensor that it belongs to.
        return type(self), (copy_if_view(self.values), None if self.offsets is None else copy_if_view(self.offsets))


@attrs.frozen(eq=False)
class Hidden(Kind):
    """A sequence of vectors that may depend on other steps of their row: the output of an encoder or an attention."""

    values: Float[Tensor, "time feature"]

    @override
    def __len__(self) -> int:
        return self.values.shape[0]

    @override
    def cut(self, window: slice) -> Self:
        return type(self)(self.values[window])

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[Tensor]]:
        return type(self), (copy_if_view(self.values),)


@attrs.frozen(eq=False)
class Vectors(Hidden):
    """A sequence of feature vectors: audio frames, sensor readings, embedded tokens.

    No step depends on another one. Therefore `Vectors` are accepted wherever `Hidden` is, but not the other way
    round: an encoder that reads `Vectors` in one direction is causal.
    """


K = TypeVar("K", bound=Kind)
K_co = TypeVar("K_co", bound=Kind, covariant=True)


@attrs.frozen(eq=False)
class Nested(Kind, Generic[K_co]):
    """A sequence whose steps are sequences themselves: words of characters, documents of sentences.

    Attributes:
        inner: the steps of all inner sequences, one after the other.
        counts: the number of inner steps of each step; on the CPU.

    Raises:
        ShapeError: if the inner steps are not a sequence, or the counts are not theirs.

    Example:
        >>> import torch
        >>> words = Nested(Ids(torch.tensor([7, 4, 4, 9, 2])), torch.tensor([1, 4]))  # "I", "beer"
        >>> len(words), words.cut(slice(1, 2)).inner.values.tolist()
        (2, [4, 4, 9, 2])
    """

    inner: K_co
    counts: Int64[Tensor, " time"]

    def __attrs_post_init__(self) -> None:
        inner = cast("object", self.inner)
        if not isinstance(inner, Kind):
            msg = f"inner must be a sequence, such as Ids or Vectors, got {describe(inner)}; wrap it: Ids(values)."
            raise ShapeError(msg, argument="inner")
        counts = cast("object", self.counts)
        if not isinstance(counts, Tensor) or counts.dtype is not torch.int64 or counts.ndim != 1 or not counts.is_cpu:
            msg = (
                f"counts must be an int64 tensor with one number per step, on the CPU, got {describe(counts)}; "
                "count the inner steps of each step: torch.tensor([2, 3])."
            )
            raise ShapeError(msg, argument="counts")
        if int(self.counts.sum()) != len(self.inner) or bool((self.counts < 0).any()):
            msg = (
                f"counts must be 0 or more and add up to the {len(self.inner)} inner steps, got "
                f"{describe(self.counts)} with a sum of {int(self.counts.sum())}; count the inner steps of each step."
            )
            raise ShapeError(msg, argument="counts")

    @override
    def __len__(self) -> int:
        return self.counts.shape[0]

    @override
    def cut(self, window: slice) -> Self:
        start, stop, _ = window.indices(len(self))
        ends = [0, *to_ints(self.counts.cumsum(0))]
        return type(self)(self.inner.cut(slice(ends[start], ends[max(start, stop)])), self.counts[window])

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[K_co, Tensor]]:
        return type(self), (self.inner, copy_if_view(self.counts))


class Composite(Kind):
    """The base of kinds with several named sequences, each an attribute: `Fields` and `Sides`."""

    __slots__ = ()

    aligned: ClassVar[bool]
    """Whether all sequences have the same number of steps."""

    @classmethod
    def get_kinds(cls) -> Mapping[str, type[Kind]]:
        """Return the kind of each field, in the order of their declaration.

        Raises:
            TypeError: if the class is not an attrs class, has no field, or a field is annotated with something else
                than a kind.
        """
        known: Mapping[str, type[Kind]] | None = cls.__dict__.get("_kinds")
        if known is None:
            fields, hints = get_attrs_fields(cls), get_type_hints(cls)
            if not fields:
                msg = f"{cls.__name__} must have a field; declare each with its kind, as in `code: Ids`."
                raise TypeError(msg)
            known = {field.name: _check_is_kind(cls, field.name, hints.get(field.name)) for field in fields}
            cls._kinds = known
        return known

    _kinds: ClassVar[Mapping[str, type[Kind]]]

    @classmethod
    def has_sides(cls) -> bool:
        """Return whether rows have several sequences, each with its own length: batches are planned by all of them."""
        return not cls.aligned and len(cls.get_kinds()) > 1

    def get_sequences(self) -> dict[str, Kind]:
        """Return the sequence of each field."""
        return {name: cast("Kind", getattr(self, name)) for name in self.get_kinds()}

    @override
    def __len__(self) -> int:
        return max(map(len, self.get_sequences().values()))

    @override
    def cut(self, window: slice) -> Self:
        evolve: Callable[..., Self] = cast("Callable[..., Self]", attrs.evolve)
        return evolve(self, **{name: sequence.cut(window) for name, sequence in self.get_sequences().items()})


def get_attrs_fields(cls: type) -> "tuple[attrs.Attribute[object], ...]":
    """Return the attrs fields of a class.

    Raises:
        TypeError: if it is not an attrs class, or has annotations of its own without being decorated itself.
    """
    # A class derived from an attrs class counts as one for attrs, but without its own fields.
    if not attrs.has(cls) or (inspect.get_annotations(cls) and "__attrs_attrs__" not in cls.__dict__):
        msg = f"{cls.__name__} must be an attrs class; decorate it with @attrs.frozen(eq=False)."
        raise TypeError(msg)
    fields: tuple[attrs.Attribute[object], ...] = attrs.fields(cls)
    return fields


def check_fields(kind: type[Kind]) -> None:
    """Reject a class of fields that declares none, or is not decorated as an attrs class.

    Raises:
        TypeError: naming the class, or its wrong field.
    """
    base = get_kind_class(kind)
    if isinstance(base, type) and issubclass(base, Composite):
        base.get_kinds()


def _check_is_kind(cls: type, name: str, hint: object) -> type[Kind]:
    kind = get_kind_class(hint)
    if not isinstance(kind, type) or not issubclass(kind, Kind) or issubclass(kind, Composite):
        msg = f"field {name!r} of {cls.__name__} must be Ids, Vectors, Hidden or Nested of these, got {hint!r}."
        raise TypeError(msg)
    return cast("type[Kind]", hint)


def count_steps(sequence: Kind) -> tuple[int, ...]:
    """Return the number of steps of a sequence, or of each side, by which batches are planned.

    For a nested sequence, such as a document of sentences, it is the number of inner steps, since they take the memory;
    a step without inner steps counts as one.

    Example:
        >>> import torch
        >>> count_steps(Ids(torch.tensor([5, 6]))), count_steps(Nested(Ids(torch.tensor([5, 6])), torch.tensor([2, 0])))
        ((2,), (3,))
    """
    if isinstance(sequence, Nested):
        counts = cast("Nested[Kind]", sequence).counts
        return (int(counts.clamp(min=1).sum()),)
    if isinstance(sequence, Composite) and sequence.has_sides():
        return tuple(map(len, sequence.get_sequences().values()))
    return (len(sequence),)


def list_lengths(sequences: Sequence[Kind]) -> list[int]:
    """Return the number of steps of each sequence; of one with sides, that of its longest side.

    Example:
        >>> import torch
        >>> list_lengths([Ids(torch.tensor([5, 6])), Ids(torch.tensor([7]))])
        [2, 1]
    """
    if set(map(type, sequences)) == {Ids}:
        # Fast path: one call into C per row, where `len` calls a method in Python.
        ids = [each.values for each in cast("Sequence[Ids]", sequences)]
        if set(map(Tensor.dim, ids)) == {1}:
            return list(map(Tensor.numel, ids))
    return list(map(len, sequences))


def concat_sequences(sequences: Sequence[K]) -> K:
    """Return the steps of several sequences of one kind, at least one, as one sequence.

    Example:
        >>> import torch
        >>> concat_sequences([Ids(torch.tensor([5, 6])), Ids(torch.tensor([7]))]).values.tolist()
        [5, 6, 7]
    """
    first: Kind = sequences[0]
    made: Kind
    if isinstance(first, Ids):
        ids = cast("Sequence[Ids]", sequences)
        spans = [each.offsets for each in ids if each.offsets is not None]
        offsets = torch.cat(spans) if len(spans) == len(ids) else None
        made = Ids(torch.cat([each.values for each in ids]), offsets)
    elif isinstance(first, Nested):
        nested = cast("Sequence[Nested[Kind]]", sequences)
        inner = concat_sequences([each.inner for each in nested])
        made = Nested(inner, torch.cat([each.counts for each in nested]))
    elif isinstance(first, Composite):
        composites = cast("Sequence[Composite]", sequences)
        made = cast("Callable[..., Composite]", type(first))(
            **{name: concat_sequences([getattr(each, name) for each in composites]) for name in first.get_kinds()}
        )
    else:
        vectors = cast("Sequence[Hidden]", sequences)
        made = type(vectors[0])(torch.cat([each.values for each in vectors]))
    return cast("K", made)


def get_kind_class(kind: object) -> object:
    """Return the class of a kind: `Nested` for `Nested[Ids]`."""
    # A class is its own: `get_origin` takes ten times as long, and this runs for every batch that is made.
    return kind if isinstance(kind, type) else get_origin(kind) or kind


def get_inner_kind(kind: type[Kind]) -> type[Kind] | None:
    """Return the kind of the inner sequences: `Ids` for `Nested[Ids]`; None if it is not stated.

    Example:
        >>> get_inner_kind(Nested[Ids]).__name__, get_inner_kind(Ids)
        ('Ids', None)
    """
    return next(iter(cast("tuple[type[Kind], ...]", get_args(kind))), None)


def is_kind(kind: type[Kind], wanted: type[Kind]) -> bool:
    """Return whether sequences of a kind are accepted where another kind is wanted.

    Example:
        >>> is_kind(Vectors, Hidden), is_kind(Hidden, Vectors), is_kind(Nested[Ids], Nested[Vectors])
        (True, False, False)
    """
    if kind is wanted:
        return True
    if not issubclass(cast("type", get_kind_class(kind)), cast("type", get_kind_class(wanted))):
        return False
    inner, wanted_inner = get_inner_kind(kind), get_inner_kind(wanted)
    return inner is None or wanted_inner is None or is_kind(inner, wanted_inner)


def format_kind(kind: type[Kind]) -> str:
    """Return a kind as it is written: `Ids`, `Nested[Ids]`.

    Example:
        >>> format_kind(Nested[Ids])
        'Nested[Ids]'
    """
    inner = get_inner_kind(kind)
    name = cast("type", get_kind_class(kind)).__name__
    return name if inner is None else f"{name}[{format_kind(inner)}]"
