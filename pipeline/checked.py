"""Shape checks at the borders: jaxtyping and beartype where their own hooks do not reach.

jaxtyping's class decorator does not look into attrs classes, and its import hook breaks
`torch.compile`; `checked` wraps the generated `__init__`, or a function, and steps aside
while a graph is compiled.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from types import NoneType, UnionType
from typing import Any, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import jaxtyping
import torch
from beartype import beartype
from beartype.door import is_bearable
from jaxtyping import TypeCheckError
from torch import Tensor

from pipeline.errors import ShapeError

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])

# Typed by hand: its own signature leaves a default without a type.
_jaxtyped: Callable[..., Any] = getattr(jaxtyping, "jaxtyped")  # noqa: B009


def checked(target: F, /) -> F:
    """Check the annotations of a function, or of an attrs class's fields, at every call.

    Axes named in several annotations must agree. A class is changed in place and returned.

    Raises:
        ShapeError: from the wrapped callable, if an argument does not fit its annotation.

    Example:
        >>> from jaxtyping import Float
        >>> from torch import Tensor, zeros
        >>> @checked
        ... def dot(left: Float[Tensor, " time"], right: Float[Tensor, " time"]) -> Tensor:
        ...     return left @ right
        >>> dot(zeros(2), zeros(3))
        Traceback (most recent call last):
        pipeline.errors.ShapeError: dot: right must be Float[Tensor, 'time'], ...
    """
    owner: object = target
    if isinstance(owner, type):
        plain = cast("Callable[..., None]", owner.__dict__["__init__"])
        setattr(owner, "__init__", _checking(plain, owner.__name__))  # noqa: B010 - checkers refuse the assignment
        return target
    return cast("F", _checking(target, getattr(target, "__qualname__", repr(target))))


def _checking(plain: Callable[P, R], owner: str) -> Callable[P, R]:
    typed: Callable[P, R] = _jaxtyped(plain, typechecker=beartype)

    @functools.wraps(plain)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return plain(*args, **kwargs)
        try:
            return typed(*args, **kwargs)
        except TypeCheckError as error:
            bound = inspect.signature(plain).bind(*args, **kwargs)
            raise _explained(plain, owner, bound.arguments) from error

    return call


def _explained(plain: Callable[..., object], owner: str, arguments: Mapping[str, object]) -> ShapeError:
    """Say which argument is at fault: the first that does not fit, given those before it."""
    hints = get_type_hints(plain, include_extras=True)
    with _jaxtyped("context"):
        for name, value in arguments.items():
            if name in hints and not is_bearable(value, hints[name]):
                wanted, came = _spelt(hints[name]), described(value)
                beside = ", ".join(
                    f"{n} {described(v)}" for n, v in arguments.items() if n != name and isinstance(v, Tensor)
                )
                msg = f"{owner}: {name} must be {wanted}, but {came} arrived" + (f", beside {beside}" if beside else "")
                return ShapeError(f"{msg}; axes of one name must have one size.", argument=name)
    return ShapeError(f"{owner}: what it returned does not fit its annotation {_spelt(hints.get('return'))}.")


def _spelt(hint: object) -> str:
    """An annotation as it is written in the source: `Float[Tensor, 'batch time']`."""
    dtype, dims = getattr(hint, "dtype", None), getattr(hint, "dim_str", None)
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return " or ".join(map(_spelt, get_args(hint)))
    if hint is NoneType:
        return "None"
    if dims is None:
        return str(hint).replace("typing.", "").replace("jaxtyping.", "").replace("torch.", "")
    name = dtype.__name__ if isinstance(dtype, type) else str(dtype)
    return f"{name}[Tensor, '{dims}']"


def described(value: object) -> str:
    """What something is, in a few words: `float32 of shape (3, 4)`.

    Example:
        >>> described(torch.zeros(3, 4)), described([1])
        ('float32 of shape (3, 4)', 'a list')
    """
    if isinstance(value, Tensor):
        where = "" if value.device.type == "cpu" else f" on {value.device}"
        return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}{where}"
    if value is None:
        return "None"
    kind = type(value).__name__
    return f"{'an' if kind[0].lower() in 'aeiou' else 'a'} {kind}"
