"""What a stage's class says of what comes in and goes out: types, and the axes that their annotations name."""

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Final, Union, cast, get_args, get_origin, get_type_hints

import attrs
from torch import Tensor
from typing_extensions import get_original_bases

from pipeline.checks.shapes import spelt
from pipeline.core.stage import Stage, StageBase, Stream, TypePreserving
from pipeline.data.batches import Packed, is_batch
from pipeline.data.rows import Example, Hidden, Ids, Kind, Row
from pipeline.data.states import Causal, MaybeCausal, States

_BASES: Final = cast("Sequence[type]", (Stage, Stream, TypePreserving))


@attrs.frozen
class Flowing:
    """What goes from one stage to the next.

    Attributes:
        type: as it is written: `Padded[Ids]`.
        shape: its axes, by name where the batch decides, by number where the model does: `batch x time x 100`.
    """

    type: str
    shape: str = ""

    def __str__(self) -> str:
        return f"{self.type} {self.shape}".rstrip()


@attrs.frozen
class Look:
    """What something is: its type, and each axis with its size."""

    type: str
    axes: Sequence[tuple[str, int]] = ()


def types_of(part: StageBase) -> tuple[object, object]:
    """What a stage takes and what it gives, by the arguments of its base class, else by its annotations.

    Example:
        >>> from pipeline import Bucket, Vectors
        >>> [named(hint) for hint in types_of(Bucket(Vectors, rows=2))]
        ['Row[Vectors]', 'list[Row[Vectors]]']
    """
    written = _annotated(part)
    for base in _BASES:
        if issubclass(type(part), base) and (found := _arguments(type(part), base, ())):
            takes, gives = (_of_kind(part, hint) for hint in (found[0], found[-1]))
            # An annotation of a tensor names its axes; the base class seldom does.
            return takes, written[1] if gives is Tensor and hasattr(written[1], "dim_str") else gives
    return written


def fits(gives: object, takes: object) -> bool:
    """Whether what a stage gives may be what the next one takes: False only where no value could be both.

    Example:
        >>> fits(list[Row[Ids]], list[Row[Hidden]]), fits(States[MaybeCausal], States[Causal]), fits(Any, int)
        (False, True, True)
    """
    left, right = _members(gives), _members(takes)
    if len(left) > 1 or len(right) > 1:
        return any(fits(one, other) for one in left for other in right)
    origins = [get_origin(hint) or hint for hint in (gives, takes)]
    if not all(isinstance(origin, type) for origin in origins) or any(hasattr(hint, "dim_str") for hint in origins):
        return True
    if not _related(*origins):
        return False
    return all(map(fits, get_args(gives), get_args(takes)))


def narrower(one: object, other: object) -> object | None:
    """Of two types of one class, the one that says more; None if they are of different ones.

    Example:
        >>> from pipeline import Vectors
        >>> named(narrower(Packed[Hidden], Packed[Vectors])), narrower(Packed[Ids], States[MaybeCausal])
        ('Packed[Vectors]', None)
    """
    if (get_origin(one) or one) is not (get_origin(other) or other):
        return None
    says_more = all(issubclass(right, left) for left, right in zip(get_args(one), get_args(other), strict=False))
    return other if says_more else one


def candidates(hint: object) -> Sequence[object]:
    """The types that an annotation allows, one by one; type variables stand for their bounds."""
    variables: Sequence[Any] = getattr(hint, "__parameters__", ())
    bounds = {variable: variable.__bound__ or Any for variable in variables}
    return _members(_substituted(hint, bounds))


def named(hint: object) -> str:
    """A type as it is written, without what is left open, and without the `Example` that every door takes too.

    Example:
        >>> named(States[MaybeCausal]), named(str | Example[str]), named(Row[Ids] | None)
        ('States', 'str', 'Row[Ids] or None')
    """
    members = _members(hint)
    if len(members) > 1:
        return " or ".join(dict.fromkeys(named(one) for one in members if get_origin(one) is not Example))
    args = [arg for arg in get_args(hint) if not _is_variable(arg) and arg is not MaybeCausal]
    if get_origin(hint) is None or hasattr(hint, "dim_str"):
        return "Tensor" if hasattr(hint, "dim_str") else "anything" if _is_open(hint) else spelt(hint)
    origin = named(get_origin(hint))
    return f"{origin}[{', '.join(map(named, args))}]" if args else origin


def axes_of(hint: object, sizes: Mapping[str, int]) -> str:
    """The axes that a type's annotations name: `batch x time`, `steps x 100`, `batch of time` for rows in a list.

    Example:
        >>> axes_of(list[Row[Hidden]], {"feature": 12}), axes_of(States[Causal], {})
        ('batch of time x 12', 'steps x hidden')
    """
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin is list and args:
        inside = axes_of(args[0], sizes)
        return f"batch of {inside}" if inside else ""
    if origin in (Row, Example) and args:
        return axes_of(args[0], sizes)
    if origin is States:
        return axes_of(Packed[Hidden], sizes).replace("feature", "hidden")
    names = [name for name in _axis_names(origin) if not (name == "feature" and Ids in args)]
    return " x ".join(str(sizes.get(name, name)) for name in names)


def look(value: object, hint: object) -> Look:
    """What a value is. `hint` is what its stage promised, which may name the axes of a bare tensor."""
    if isinstance(value, States):
        inside = look(value.steps, None)
        return Look("States", [(name.replace("feature", "hidden"), size) for name, size in inside.axes])
    held: object = getattr(value, "values", None)
    if isinstance(value, Tensor):
        return Look("Tensor", _axes(_axis_names(hint), value))
    if not isinstance(held, Tensor):
        return Look(type(value).__name__)
    kind = f"[{value.kind.__name__}]" if is_batch(value) else ""
    return Look(f"{type(value).__name__}{kind}", _axes(_axis_names(type(value)), held))


def merged(one: Look, other: Look | None, words: Mapping[int, str]) -> Flowing:
    """What is the same at two sizes of batch is a number; what is not keeps its name.

    Args:
        one: the look at one size.
        other: the look at another; None if there is none.
        words: the names of sizes of the first batch, for axes that no annotation names.
    """
    sizes = [size for _, size in (one if other is None else other).axes]
    shown: list[str] = []
    for index, (name, size) in enumerate(one.axes):
        varies = size in words if other is None else index >= len(sizes) or sizes[index] != size
        shown.append((name or words.get(size, "?")) if varies else str(size))
    return Flowing(one.type, " x ".join(shown))


def causal(flowing: Flowing, known: bool | None, hint: object) -> Flowing:
    """The same, marked if it holds states that have seen nothing later: as is known, or else as the type says."""
    said = known is True or (known is None and Causal in get_args(hint))
    return attrs.evolve(flowing, type="States[Causal]") if said and flowing.type == "States" else flowing


def _annotated(part: StageBase) -> tuple[object, object]:
    plain = getattr(type(part), "forward", None) or type(part).__call__
    try:
        hints = get_type_hints(plain, include_extras=True)
    except Exception:  # noqa: BLE001 - a stranger's annotation may name anything
        return Any, Any
    gives = hints.pop("return", Any)
    return next(iter(hints.values()), Any), gives


def _arguments(cls: type, base: type, args: Sequence[object]) -> Sequence[object]:
    """What a class gives as the type arguments of a base class, through all classes between them."""
    variables: Sequence[Any] = getattr(cls, "__parameters__", ())
    filled = dict(zip(variables, args, strict=False))
    for parent in get_original_bases(cls):
        origin = get_origin(parent) or parent
        given = [_substituted(arg, filled) for arg in get_args(parent)]
        if origin is base:
            return given
        if isinstance(origin, type) and issubclass(origin, base) and (found := _arguments(origin, base, given)):
            return found
    return ()


def _substituted(hint: Any, filled: Mapping[Any, object]) -> Any:  # noqa: ANN401 - annotations may be anything
    if _is_variable(hint):
        return filled.get(hint, hint)
    variables: Sequence[Any] = getattr(hint, "__parameters__", ())
    if not variables or isinstance(hint, type):
        return hint
    return hint[tuple(filled.get(variable, variable) for variable in variables)]


def _of_kind(part: StageBase, hint: object) -> object:
    """The annotation of a stage that was made for one kind of rows."""
    kind: object = getattr(part, "kind", None)
    if not (isinstance(kind, type) and issubclass(kind, Kind)):
        return hint
    variables: Sequence[Any] = getattr(hint, "__parameters__", ())
    return _substituted(hint, {v: kind for v in variables if v.__bound__ is not None and issubclass(kind, v.__bound__)})


def _members(hint: object) -> Sequence[object]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else [hint]


def _related(one: Any, other: Any) -> bool:  # noqa: ANN401 - classes of any kind
    if _is_open(one) or _is_open(other) or {one, other} <= {int, float, complex, bool}:
        return True
    try:
        return issubclass(one, other) or issubclass(other, one)
    except TypeError:
        # Some protocols and typed dictionaries refuse the question.
        return True


def _is_open(hint: object) -> bool:
    return hint is Any or hint is object or _is_variable(hint)


def _is_variable(hint: object) -> bool:
    # typing's own, and the one of typing_extensions, which may have a default.
    return type(hint).__name__ == "TypeVar"


def _axis_names(owner: object) -> Sequence[str]:
    """The names of the axes of a tensor's annotation, or of a class's `values`."""
    dims: object = getattr(owner, "dim_str", None)
    if dims is None and isinstance(owner, type) and owner is not NoneType:
        try:
            dims = getattr(get_type_hints(owner, include_extras=True).get("values"), "dim_str", None)
        except Exception:  # noqa: BLE001 - a stranger's annotation may name anything
            return ()
    return str(dims or "").replace("*", "").replace("#", "").split()


def _axes(names: Sequence[str], tensor: Tensor) -> Sequence[tuple[str, int]]:
    padded = [*names, *[""] * (tensor.ndim - len(names))]
    return list(zip(padded, tensor.shape, strict=False))
