"""Reflection on type hints: their classes, their axes, and how to write them and values in a message."""

from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from torch import Tensor


def resolve_hints(function: Callable[..., object]) -> Mapping[str, object]:
    """Return the annotations of a function; empty if one of them cannot be evaluated.

    An annotation may name anything, for example what is imported under `TYPE_CHECKING` only.
    """
    try:
        return get_type_hints(function, include_extras=True)
    except Exception:  # noqa: BLE001 - evaluating an annotation can raise anything
        return {}


def is_type_variable(hint: object) -> bool:
    """Return whether a hint is a type variable."""
    # By name: in some versions of Python the type variables of typing_extensions are a class of their own.
    return type(hint).__name__ == "TypeVar"


def is_unconstrained(hint: object) -> bool:
    """Return whether a hint accepts any value: `Any`, `object`, or a type variable, which the caller determines."""
    return hint is Any or hint is object or is_type_variable(hint)


def is_shaped(hint: object) -> bool:
    """Return whether a hint is a tensor with named axes, such as `Float[Tensor, "batch time"]`."""
    return hasattr(hint, "dim_str")


def get_axis_names(hint: object) -> Sequence[str]:
    """Return the axes of a tensor hint without jaxtyping's modifiers; empty for any other hint.

    Example:
        >>> from jaxtyping import Shaped
        >>> get_axis_names(Shaped[Tensor, "batch time *feature"]), get_axis_names(int)
        (['batch', 'time', 'feature'], [])
    """
    return str(getattr(hint, "dim_str", "")).replace("*", "").replace("#", "").split()


def split_union(hint: object) -> Sequence[object]:
    """Return the members of a union, or the hint itself if it is not a union.

    Example:
        >>> split_union(int | None), split_union(list[int])
        ((<class 'int'>, <class 'NoneType'>), (list[int],))
    """
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def get_classes(hint: object) -> tuple[type, ...] | None:
    """Return the classes for an `isinstance` check equal to a hint, type arguments ignored; None if impossible.

    Example:
        >>> get_classes(list[int] | None), get_classes(Any)
        ((<class 'list'>, <class 'NoneType'>), None)
    """
    classes: list[type] = []
    for member in split_union(hint):
        origin = NoneType if member is None else get_origin(member) or member
        # A shaped tensor is a class of jaxtyping's, but `isinstance` with it needs its context of axis sizes.
        if is_shaped(member) or is_unconstrained(member) or not isinstance(origin, type):
            return None
        classes.append(origin)
    return tuple(classes)


def format_hint(hint: object) -> str:
    """Return a hint as source code, unions joined by "or".

    Example:
        >>> from jaxtyping import Float
        >>> format_hint(Float[Tensor, "batch time"] | None), format_hint(list[int])
        ("Float[Tensor, 'batch time'] or None", 'list[int]')
    """
    members = split_union(hint)
    if len(members) > 1:
        return " or ".join(map(format_hint, members))
    if hint is NoneType:
        return "None"
    if is_shaped(hint):
        dtype: object = getattr(hint, "dtype", None)
        return f"{dtype.__name__ if isinstance(dtype, type) else dtype}[Tensor, '{getattr(hint, 'dim_str', '')}']"
    if get_origin(hint) is not None:
        return f"{format_hint(get_origin(hint))}[{', '.join(map(format_hint, get_args(hint)))}]"
    if is_type_variable(hint):
        bound: object = getattr(hint, "__bound__", None)
        return str(hint) if bound is None else format_hint(bound)
    return hint.__name__ if isinstance(hint, type) else str(hint)


def describe(value: object) -> str:
    """Return a short description of a value for a message: `float32 of shape (3, 4)`.

    Example:
        >>> import torch
        >>> describe(torch.zeros(3, 4)), describe([1])
        ('float32 of shape (3, 4)', 'a list')
    """
    if isinstance(value, Tensor):
        place = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}{place}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
