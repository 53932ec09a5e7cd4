"""What every stage does where something comes in and goes out: check its type, and poison its padding if asked."""

import functools
import types
from collections.abc import Callable
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import torch
from beartype.door import is_bearable

from pipeline.checks.shapes import described, spelt
from pipeline.checks.switches import SWITCHES
from pipeline.core.padding import look_for_leaks, poisoned
from pipeline.errors import ShapeError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


class _Side:
    """One side of a stage's border: what its annotation lets through."""

    def __init__(self, hint: object) -> None:
        self.hint: Final = hint
        self.classes: Final = _classes(hint)

    def lets_through(self, value: object) -> bool:
        if self.classes is not None:
            return isinstance(value, self.classes)
        return _is_open(self.hint) or is_bearable(value, cast("Any", self.hint))


def bordered(plain: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """A stage's `forward` or `__call__` that checks the type of what comes in and of what it gives.

    Both are read from the annotations. The tensors inside were checked when their batch was made.

    Raises:
        ShapeError: from the wrapped method, if either is of another type.
        PaddingLeakError: under poison, if padding got into what comes out.
    """
    sides: list[tuple[str, _Side, _Side]] = []
    loose: Callable[..., R] = plain

    def poisoned_call(*args: object, **kwargs: object) -> R:
        return loose(*map(poisoned, args), **{name: poisoned(value) for name, value in kwargs.items()})

    @functools.wraps(plain)
    def crossing(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or not (SWITCHES.checks or SWITCHES.poison):
            return plain(self, *args, **kwargs)
        if not sides:
            sides.append(_sides(plain))
        name, before, after = sides[0]
        stage = type(self).__name__
        value: object = args[0] if args else kwargs.get(name)
        if SWITCHES.checks and not before.lets_through(value):
            msg = (
                f"{stage} takes {spelt(before.hint)}, but {described(value)} arrived; "
                "join it behind a stage that gives what it takes."
            )
            raise ShapeError(msg, stage=stage, argument=name)
        result = poisoned_call(self, *args, **kwargs) if SWITCHES.poison else plain(self, *args, **kwargs)
        if SWITCHES.checks and not after.lets_through(result):
            msg = f"{stage} must give {spelt(after.hint)}, as it says, but gave {described(result)}; mend the stage."
            raise ShapeError(msg, stage=stage)
        if SWITCHES.poison:
            look_for_leaks(stage, value, result)
        return result

    return cast("Callable[Concatenate[S, P], R]", crossing)


def _sides(plain: Callable[..., object]) -> tuple[str, _Side, _Side]:
    """The name of a stage's argument, and both sides of its border."""
    code = plain.__code__ if isinstance(plain, types.FunctionType) else None
    name = code.co_varnames[1] if code is not None and code.co_argcount > 1 else "value"
    try:
        hints = get_type_hints(plain, include_extras=True)
    except NameError:
        # Annotations that name what is imported for type checkers alone say nothing here.
        hints = {}
    return name, _Side(hints.get(name, Any)), _Side(hints.get("return", Any))


def _classes(hint: object) -> tuple[type, ...] | None:
    """The classes of an annotation that is made of plain and generic classes alone; None of any other."""
    if isinstance(hint, types.UnionType) or get_origin(hint) is Union:
        parts = [_classes(part) for part in get_args(hint)]
        return None if None in parts else tuple(cls for part in parts for cls in part or ())
    # A shape is a class of jaxtyping's own, of which nothing is an instance by type alone.
    if hasattr(hint, "dim_str"):
        return None
    if hint is None or hint is types.NoneType:
        return (types.NoneType,)
    origin = get_origin(hint) or hint
    return (origin,) if isinstance(origin, type) and origin is not object else None


def _is_open(hint: object) -> bool:
    """Whether an annotation says nothing: anything, or a type variable that the caller fixes."""
    return hint is Any or hint is object or type(hint).__name__ == "TypeVar"
