"""The types of a stage's input and output, and the axes that their annotations name."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, cast, get_args, get_origin

import attrs
from torch import Tensor
from typing_extensions import get_original_bases

from pipeline.checks.hints import (
    format_hint,
    get_axis_names,
    is_shaped,
    is_type_variable,
    is_unconstrained,
    resolve_hints,
    split_union,
)
from pipeline.core.chain import Chain
from pipeline.core.stage import Stage, StageBase, Stream, TypePreserving
from pipeline.core.suggestions import suggest_fix
from pipeline.data.batches import Packed, Padded, is_batch
from pipeline.data.kinds import Composite, Hidden, Ids, Kind, Nested, Vectors, format_kind, get_kind_class
from pipeline.data.rows import Example, Row
from pipeline.data.states import Causal, MaybeCausal, States
from pipeline.stages.cross_attend import CrossAttend
from pipeline.stages.each_step import EachStep
from pipeline.stages.embed_fields import EmbedFields
from pipeline.stages.fields import Field
from pipeline.stages.input_stage import InputStage
from pipeline.stages.join import Join
from pipeline.stages.pool import Pool

_BASES: Final = cast("Sequence[type]", (Stage, Stream, TypePreserving))


@attrs.frozen
class TypeAndShape:
    """The type and shape of the output of one stage, which is the input of the next.

    Attributes:
        type: the type as it is written: `Padded[Ids]`.
        shape: the axes, a name where the batch decides the size, a number where the model does: `batch x time x 100`.
    """

    type: str
    shape: str = ""

    def __str__(self) -> str:
        return f"{self.type} {self.shape}".rstrip()


@attrs.frozen
class Observed:
    """A value seen in a dry run: its type, and each axis with its size."""

    type: str
    axes: Sequence[tuple[str, int]] = ()


def get_types(part: StageBase) -> tuple[object, object]:
    """Return the types of a stage's input and output, from its base class's arguments or else its annotations.

    Example:
        >>> from pipeline import Bucket, Vectors
        >>> [format_type(hint) for hint in get_types(Bucket(Vectors, rows=2))]
        ['Row[Vectors]', 'list[Row[Vectors]]']
    """
    if isinstance(part, Join | CrossAttend):
        branches = [get_types(branch) for branch in part.branches.values()]
        return branches[0][0], branches[0][1]
    if isinstance(part, Field | EmbedFields):
        takes = _make_batch_type(cast("type[Kind]", cast("Any", part).record))
        return takes, _make_batch_type(part.kind if isinstance(part, Field) else Vectors)
    if isinstance(part, Chain):
        stages = list(part.stages.values())
        return get_types(stages[0])[0], get_types(stages[-1])[1]
    if isinstance(part, EachStep):
        inner = _get_kind(get_types(cast("StageBase", cast("Any", part).inner))[0])
        return _make_batch_type(cast("Any", Nested)[inner]), _make_batch_type(Vectors)
    annotated = _read_annotations(part)
    for base in _BASES:
        if issubclass(type(part), base) and (found := _find_type_arguments(type(part), base, ())):
            takes, gives = (_bind_kind(part, hint) for hint in (found[0], found[-1]))
            # An annotation of a tensor names its axes; the arguments of the base class seldom do.
            return takes, annotated[1] if gives is Tensor and is_shaped(annotated[1]) else gives
    return annotated


def _get_kind(hint: object) -> object:
    """Return the kind of rows of a batch type; of a union, that of its first member."""
    return next(iter(get_args(list_alternatives(hint)[0])), Kind)


def _make_batch_type(kind: type[Kind]) -> object:
    padded, packed = cast("Any", Padded), cast("Any", Packed)
    return padded[kind] | packed[kind]


def may_fit(gives: object, takes: object) -> bool:
    """Return whether an output of one type may be the input of another: False only if no value can have both types.

    Example:
        >>> may_fit(list[Row[Ids]], list[Row[Hidden]]), may_fit(States[MaybeCausal], States[Causal]), may_fit(Any, int)
        (False, True, True)
    """
    # Two unions fit if any of their members do: which member a value belongs to is known only when it exists.
    left, right = split_union(gives), split_union(takes)
    if len(left) > 1 or len(right) > 1:
        return any(may_fit(one, other) for one in left for other in right)
    # Then classes, then their arguments: Padded[Ids] fits Padded[Kind], but not Packed[Ids] or Padded[Vectors].
    origins = [get_origin(hint) or hint for hint in (gives, takes)]
    if not all(isinstance(origin, type) for origin in origins) or any(map(is_shaped, origins)):
        return True
    return _are_related(*origins) and all(map(may_fit, get_args(gives), get_args(takes)))


def explain_misfit(before: Sequence[StageBase], after: Sequence[StageBase]) -> str | None:
    """Return why the last of some stages does not fit the first of others; None if it may.

    Type-preserving stages in between are looked through.

    Example:
        >>> from pipeline import Embed, Pool
        >>> explain_misfit([Embed(9, 4)], [Pool("final")])
        'Embed returns Padded[Vectors] or Packed[Vectors], but Pool takes States; join Encode between them.'
    """
    *between, source = _take_until_typed(reversed(before))
    # The output of a chain that only preserves types is not known.
    if isinstance(source, TypePreserving):
        return None
    gives = get_types(source)[1]
    for stage in (*between, *_take_until_typed(after)):
        takes = get_types(stage)[0]
        if not may_fit(gives, takes) and not (_pools_steps(stage) and may_fit(gives, _make_batch_type(Hidden))):
            names = (type(source).__name__, type(stage).__name__)
            fix = suggest_fix(gives, takes, names[1], "between them")
            return f"{names[0]} returns {format_type(gives)}, but {names[1]} takes {format_type(takes)}; {fix}."
    return None


def _pools_steps(stage: StageBase) -> bool:
    """Return whether a stage is a pooling that also takes vectors which were not encoded."""
    return isinstance(stage, Pool) and not stage.reads_final_states


def _take_until_typed(stages: Iterable[StageBase]) -> list[StageBase]:
    """Return the stages up to the first that does not preserve types."""
    found: list[StageBase] = []
    for stage in stages:
        found.append(stage)
        if not isinstance(stage, TypePreserving):
            break
    return found


def pick_narrower(one: object, other: object) -> object | None:
    """Return the narrower of two types of one class; None if they are of different classes.

    Example:
        >>> from pipeline import Vectors
        >>> format_type(pick_narrower(Packed[Hidden], Packed[Vectors])), pick_narrower(Packed[Ids], States[MaybeCausal])
        ('Packed[Vectors]', None)
    """
    if (get_origin(one) or one) is not (get_origin(other) or other):
        return None
    narrower = all(issubclass(right, left) for left, right in zip(get_args(one), get_args(other), strict=False))
    return other if narrower else one


def list_alternatives(hint: object) -> Sequence[object]:
    """Return the members of a union, or the type itself; type variables are replaced by their bounds."""
    variables: Sequence[Any] = getattr(hint, "__parameters__", ())
    return split_union(_substitute(hint, {variable: variable.__bound__ or Any for variable in variables}))


def format_type(hint: object) -> str:
    """Return a type as it is written, without open type variables and without the `Example` of every input stage.

    Example:
        >>> format_type(States[MaybeCausal]), format_type(str | Example[str]), format_type(Row[Ids] | None)
        ('States', 'str', 'Row[Ids] or None')
    """
    members = split_union(hint)
    if len(members) > 1:
        return " or ".join(dict.fromkeys(format_type(one) for one in members if get_origin(one) is not Example))
    args = [arg for arg in get_args(hint) if not is_type_variable(arg) and arg is not MaybeCausal]
    if get_origin(hint) is None or is_shaped(hint):
        return "Tensor" if is_shaped(hint) else "anything" if is_unconstrained(hint) else format_hint(hint)
    origin = format_type(get_origin(hint))
    return f"{origin}[{', '.join(map(format_type, args))}]" if args else origin


def format_axes(hint: object, sizes: Mapping[str, int]) -> str:
    """Return the axes that a type's annotations name: `batch x time`, `steps x 100`, `batch of time` for lists of rows.

    Example:
        >>> format_axes(list[Row[Hidden]], {"feature": 12}), format_axes(States[Causal], {})
        ('batch of time x 12', 'steps x hidden')
    """
    origin: Any = get_origin(hint) or hint
    args = get_args(hint)
    if origin is list and args:
        inside = format_axes(args[0], sizes)
        return f"batch of {inside}" if inside else ""
    if origin in (Row, Example) and args:
        return format_axes(args[0], sizes)
    if origin is States:
        return format_axes(Packed[Hidden], sizes).replace("feature", "hidden")
    kind = get_kind_class(args[0]) if args else None
    if isinstance(origin, type) and issubclass(origin, Composite | Nested):
        return "time"
    # Ids have no features, and rows with fields have those of each field.
    has_features = not (isinstance(kind, type) and issubclass(kind, Ids | Nested | Composite))
    names = [name for name in _get_axis_names(cast("object", origin)) if name != "feature" or has_features]
    return " x ".join(str(sizes.get(name, name)) for name in names)


def observe(value: object, hint: object) -> Observed:
    """Return the type and the axes of a value; `hint`, its stage's output type, may name the axes of a bare tensor."""
    if isinstance(value, States):
        inside = observe(value.steps, None)
        return Observed("States", [(name.replace("feature", "hidden"), size) for name, size in inside.axes])
    held: object = getattr(value, "values", None)
    if isinstance(value, Tensor):
        return Observed("Tensor", _zip_axes(_get_axis_names(hint), value))
    if not isinstance(held, Tensor):
        return Observed(type(value).__name__)
    if not is_batch(value):
        return Observed(type(value).__name__, _zip_axes(_get_axis_names(type(value)), held))
    axes = _zip_axes(_get_axis_names(type(value)), held)
    # A batch of several fields has no features of its own.
    shown = axes if value.fields is None else axes[:-1]
    kind = format_kind(value.kind) if value.inner is None else f"Nested[{format_kind(value.inner.kind)}]"
    return Observed(f"{type(value).__name__}[{kind}]", shown)


def combine(one: Observed, other: Observed | None, words: Mapping[int, str]) -> TypeAndShape:
    """Combine observations of two batches: an equal size becomes a number, a different one the name of its axis.

    Args:
        one: the observation of the first batch.
        other: the observation of the second; None if there is only one.
        words: the names of the first batch's sizes, for axes that no annotation names.
    """
    sizes = [size for _, size in (one if other is None else other).axes]
    shown: list[str] = []
    for index, (name, size) in enumerate(one.axes):
        varies = size in words if other is None else index >= len(sizes) or sizes[index] != size
        shown.append((name or words.get(size, "?")) if varies else str(size))
    return TypeAndShape(one.type, " x ".join(shown))


def mark_causal(output: TypeAndShape, known: bool | None, hint: object) -> TypeAndShape:
    """Write `States` as `States[Causal]` if they are causal: as is known, or else as the type says."""
    is_causal = known is True or (known is None and Causal in get_args(hint))
    return attrs.evolve(output, type="States[Causal]") if is_causal and output.type == "States" else output


def _read_annotations(part: StageBase) -> tuple[object, object]:
    plain = getattr(type(part), "forward", None) or type(part).__call__
    hints = {**resolve_hints(plain)}
    gives = hints.pop("return", Any)
    return next(iter(hints.values()), Any), gives


def _find_type_arguments(cls: type, base: type, args: Sequence[object]) -> Sequence[object]:
    """Return the type arguments that a class passes to a base class, through all classes between them."""
    # For `class Head(ModuleStage[Pooled, T])` and `Head[Scores]`: T is Scores, so ModuleStage gets Pooled and Scores.
    variables: Sequence[Any] = getattr(cls, "__parameters__", ())
    filled = dict(zip(variables, args, strict=False))
    for parent in get_original_bases(cls):
        origin = get_origin(parent) or parent
        given = [_substitute(arg, filled) for arg in get_args(parent)]
        if origin is base:
            return given
        if (
            isinstance(origin, type)
            and issubclass(origin, base)
            and (found := _find_type_arguments(origin, base, given))
        ):
            return found
    return ()


def _substitute(hint: Any, filled: Mapping[Any, object]) -> Any:  # noqa: ANN401 - annotations may be anything
    if is_type_variable(hint):
        return filled.get(hint, hint)
    variables: Sequence[Any] = getattr(hint, "__parameters__", ())
    if not variables or isinstance(hint, type):
        return hint
    return hint[tuple(filled.get(variable, variable) for variable in variables)]


def _bind_kind(part: StageBase, hint: object) -> object:
    """Replace the type variable of a stage that was made for one kind of rows, such as `Pad(Vectors)`."""
    kind: object = getattr(part, "kind", None) or getattr(part, "record", None)
    base = get_kind_class(kind)
    variables: Sequence[Any] = getattr(hint, "__parameters__", ())
    if isinstance(base, type) and issubclass(base, Kind):
        bounds = {variable: variable.__bound__ for variable in variables}
        return _substitute(hint, {each: kind for each, bound in bounds.items() if bound and issubclass(base, bound)})
    held = cast("Mapping[str, object]", vars(part)).values()
    inner = [cast("StageBase", value) for value in held if isinstance(value, InputStage)]
    if not inner or not variables:
        return hint
    # An input stage around another one: its variables are the input and the kind of the other.
    takes, gives = get_types(inner[0])
    return _substitute(
        hint, {v: list_alternatives(takes)[0] if v.__bound__ is None else _get_kind(gives) for v in variables}
    )


def _are_related(one: Any, other: Any) -> bool:  # noqa: ANN401 - classes of any kind
    if is_unconstrained(one) or is_unconstrained(other) or {one, other} <= {int, float, complex, bool}:
        return True
    # Either may be the subclass: an annotation may promise less, or ask for less, than the value has.
    try:
        return issubclass(one, other) or issubclass(other, one)
    except TypeError:
        # Some protocols and typed dictionaries do not support issubclass.
        return True


def _get_axis_names(owner: object) -> Sequence[str]:
    """Return the names of the axes of a tensor's annotation, or of the annotation of a class's `values`."""
    if isinstance(owner, type) and not is_shaped(owner):
        return get_axis_names(resolve_hints(owner).get("values"))
    return get_axis_names(owner)


def _zip_axes(names: Sequence[str], tensor: Tensor) -> Sequence[tuple[str, int]]:
    padded = [*names, *[""] * (tensor.ndim - len(names))]
    return list(zip(padded, tensor.shape, strict=False))
