"""Rows with several fields: the base classes of their declaration, and the stages that select and combine fields."""

import inspect
from collections.abc import Callable
from typing import ClassVar, Generic, cast, final

from typing_extensions import TypeVar, override

from pipeline.checks.hints import describe
from pipeline.core.stage import ModuleStage, Spec
from pipeline.data.batches import Batch, select_field
from pipeline.data.kinds import Composite, K, Kind, get_attrs_fields
from pipeline.errors import OptionError, ShapeError

E = TypeVar("E", bound=Composite)


class _FieldsBase(Composite):
    """Turns each annotated field into a stage when it is read from the class, and checks the sequences of a row."""

    __slots__ = ()

    @classmethod
    def __attrs_init_subclass__(cls) -> None:
        for name in (field.name for field in get_attrs_fields(cls)):
            if name.startswith("_") or hasattr(Fields, name):
                msg = (
                    f"field {name!r} of {cls.__name__} must have a public name that the base class does not use; "
                    "rename it."
                )
                raise OptionError(msg, field=name)
            # The fields of a base class have their descriptors there.
            if not isinstance(inspect.getattr_static(cls, name, None), _FieldAccess):
                setattr(cls, name, _FieldAccess(name, cls.__dict__.get(name)))

    def __attrs_post_init__(self) -> None:
        for name in (field.name for field in get_attrs_fields(type(self))):
            value: object = getattr(self, name)
            if not isinstance(value, Kind):
                msg = (
                    f"field {name!r} of {type(self).__name__} must be a sequence, such as Ids or Vectors, got "
                    f"{describe(value)}; `through` and `unused` are for EmbedFields({type(self).__name__}, ...)."
                )
                raise ShapeError(msg, field=name)


class Fields(_FieldsBase):
    """Base of your own attrs class for steps with several fields: events, sensor readings with times, tagged words.

    Declare each field with its kind. All fields of a row have one length. On the class, a field is a stage that
    selects it: `Event.code >> Embed(9, 4)`. On a row it is the sequence: `event.code.values`.

    Raises:
        ShapeError: for a row, if a field is no sequence, or fields have unequal lengths.

    Example:
        >>> import attrs, torch
        >>> from pipeline import Ids, Vectors
        >>> @attrs.frozen(eq=False)
        ... class Event(Fields):
        ...     code: Ids
        ...     amount: Vectors
        >>> event = Event(Ids(torch.tensor([3, 1])), Vectors(torch.ones(2, 1)))
        >>> len(event), event.amount.values.shape
        (2, torch.Size([2, 1]))
    """

    __slots__ = ()
    aligned: ClassVar[bool] = True

    @override
    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        lengths = {name: len(sequence) for name, sequence in self.get_sequences().items()}
        if len(set(lengths.values())) > 1:
            got = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            msg = (
                f"the fields of {type(self).__name__} must have one value per step each, but {got}; "
                "for sequences of different lengths derive the class from Sides."
            )
            raise ShapeError(msg, lengths=lengths)


class Sides(_FieldsBase):
    """Base of your own attrs class for rows with several sequences, each with its own length: pairs of texts.

    Declare each side with its kind. On the class, a side is a stage that selects it: `Pair.premise >> Embed(9, 4)`.
    The length of a row is that of its longest side.

    Raises:
        ShapeError: for a row, if a side is no sequence.

    Example:
        >>> import attrs, torch
        >>> from pipeline import Ids
        >>> @attrs.frozen(eq=False)
        ... class Pair(Sides):
        ...     premise: Ids
        ...     hypothesis: Ids
        >>> len(Pair(Ids(torch.tensor([3, 1])), Ids(torch.tensor([4]))))
        2
    """

    __slots__ = ()
    aligned: ClassVar[bool] = False


class _FieldAccess:
    """Descriptor of a field: the sequence on a row, and the stage that selects it on the class."""

    def __init__(self, name: str, slot: object) -> None:
        self._name = name
        # Classes with slots store the value in a descriptor of their own, others in the instance's dictionary.
        self._get = cast("Callable[[object], object] | None", getattr(slot, "__get__", None))
        self._set = cast("Callable[[object, object], None] | None", getattr(slot, "__set__", None))

    def __get__(self, row: object | None, owner: type[Composite]) -> object:
        if row is None:
            return Field[Composite, Kind](owner, self._name)
        return cast("object", row.__dict__[self._name]) if self._get is None else self._get(row)

    def __set__(self, row: object, value: object) -> None:
        if self._set is None:
            row.__dict__[self._name] = value
        else:
            self._set(row, value)


@final
class Field(ModuleStage[Batch[E], Batch[K]], Generic[E, K]):
    """Select one field of a batch; written as the attribute of its class: `Event.code`.

    Args:
        record: the class with the field.
        field: the field's name.

    Raises:
        ShapeError: for a batch of another class.
    """

    def __init__(self, record: type[E], field: str) -> None:
        super().__init__()
        self.record = record
        self.field = field
        self.kind: type[Kind] = record.get_kinds()[field]
        self.stepwise: bool = record.aligned

    @override
    def build(self, spec: Spec, /) -> Spec:
        return Spec(unsized=f"field {self.field!r} of {self.record.__name__}")

    @override
    def forward(self, value: Batch[E]) -> Batch[K]:
        """Return the batch of the field, with the metadata of the whole batch."""
        if not issubclass(value.kind, self.record):
            msg = (
                f"{self.record.__name__}.{self.field} takes batches of {self.record.__name__}, got "
                f"{value.kind.__name__}; select a field of the class that Pad made."
            )
            raise ShapeError(msg, field=self.field)
        return cast("Batch[K]", select_field(value, self.field))

    @override
    def extra_repr(self) -> str:
        return f"{self.record.__name__}.{self.field}"
