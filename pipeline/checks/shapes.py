"""Shape checks at the borders: jaxtyping and beartype where their own hooks do not reach.

jaxtyping's class decorator does not look into attrs classes, and its import hook breaks
`torch.compile`; `checked` wraps the generated `__init__`, or a function, and steps aside
while a graph is compiled.
"""

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from types import NoneType, UnionType
from typing import Any, Final, ParamSpec, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import attrs
import jaxtyping
import torch
from beartype import beartype
from beartype.door import is_bearable
from jaxtyping import TypeCheckError
from torch import Tensor

from pipeline.checks.switches import at_border
from pipeline.errors import ShapeError

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])

_REMEMBERED: Final = 4_096
"""How many looks of arguments are remembered; the shapes of batches are many, but not without end."""

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
        checking = _checking(cast("Callable[..., None]", owner.__dict__["__init__"]), owner.__name__, remembers=True)
        assigning = _assigning(cast("type[attrs.AttrsInstance]", owner))

        @functools.wraps(checking)
        def init(self: object, *args: object, **kwargs: object) -> None:
            if torch.compiler.is_compiling():
                assigning(self, *args, **kwargs)
            else:
                checking(self, *args, **kwargs)

        setattr(owner, "__init__", init)  # noqa: B010 - checkers refuse the assignment
        return target
    return cast("F", _checking(target, getattr(target, "__qualname__", repr(target))))


def _checking(plain: Callable[P, R], owner: str, *, remembers: bool = False) -> Callable[P, R]:
    typed: Callable[P, R] = _jaxtyped(plain, typechecker=beartype)
    passed: set[Hashable] = set()

    @functools.wraps(plain)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not at_border():
            return plain(*args, **kwargs)
        looks = _looks(args, kwargs)
        if remembers and looks in passed:
            return plain(*args, **kwargs)
        try:
            result = typed(*args, **kwargs)
        except TypeCheckError as error:
            bound = inspect.signature(plain).bind(*args, **kwargs)
            raise _explained(plain, owner, bound.arguments) from error
        if len(passed) >= _REMEMBERED:
            passed.clear()
        passed.add(looks)
        return result

    return call


def _looks(args: tuple[object, ...], kwargs: Mapping[str, object]) -> Hashable:
    """All that an annotation asks of arguments: dtypes and shapes of tensors, the types of all else.

    Arguments that look like some that have passed need not be checked again: the check costs ten times as much.
    """
    return (*map(_look, args), *kwargs, *map(_look, kwargs.values()))


def _look(value: object) -> Hashable:
    if isinstance(value, Tensor):
        return value.dtype, value.shape
    if isinstance(value, tuple):
        return tuple(map(_look, cast("tuple[object, ...]", value)))
    return value if isinstance(value, type) else type(value)


def _assigning(cls: type[attrs.AttrsInstance]) -> Callable[..., None]:
    """An `__init__` that a compiler can follow: attrs' own, of a frozen class, goes a way that it refuses."""
    fields = [(field.name, field.alias or field.name, _filling(field.default)) for field in attrs.fields(cls)]
    finish: Callable[[Any], None] | None = getattr(cls, "__attrs_post_init__", None)

    def init(self: object, *args: object, **kwargs: object) -> None:
        for place, (name, alias, fill) in enumerate(fields):
            given = args[place] if place < len(args) else kwargs[alias] if alias in kwargs else fill(self)
            object.__setattr__(self, name, given)
        if finish is not None:
            finish(self)

    return init


def _filling(default: Any) -> Callable[[object], object]:  # noqa: ANN401 - whatever a field defaults to
    """What gives a field its default, the object being made at hand."""
    make: Callable[..., object] | None = getattr(default, "factory", None)
    if make is None:
        return lambda _: default
    return make if default.takes_self else lambda _: make()


def _explained(plain: Callable[..., object], owner: str, arguments: Mapping[str, object]) -> ShapeError:
    """Say which argument is at fault: the first that does not fit, given those before it."""
    hints = get_type_hints(plain, include_extras=True)
    with _jaxtyped("context"):
        for name, value in arguments.items():
            if name in hints and not is_bearable(value, hints[name]):
                wanted, came = spelt(hints[name]), described(value)
                beside = ", ".join(
                    f"{n} {described(v)}" for n, v in arguments.items() if n != name and isinstance(v, Tensor)
                )
                msg = f"{owner}: {name} must be {wanted}, but {came} arrived" + (f", beside {beside}" if beside else "")
                return ShapeError(f"{msg}; axes of one name must have one size.", argument=name)
    return ShapeError(f"{owner}: what it returned does not fit its annotation {spelt(hints.get('return'))}.")


def spelt(hint: object) -> str:
    """An annotation as it is written in the source: `Float[Tensor, 'batch time']`, `States[Causal] or None`."""
    dims: object = getattr(hint, "dim_str", None)
    if isinstance(hint, UnionType) or get_origin(hint) is Union:
        return " or ".join(map(spelt, get_args(hint)))
    if hint is NoneType:
        return "None"
    if dims is not None:
        dtype: object = getattr(hint, "dtype", None)
        return f"{dtype.__name__ if isinstance(dtype, type) else dtype}[Tensor, '{dims}']"
    if get_origin(hint) is not None:
        return f"{spelt(get_origin(hint))}[{', '.join(map(spelt, get_args(hint)))}]"
    # Told by its name: the type variables of typing_extensions are a class of their own in some versions of Python.
    if type(hint).__name__ == "TypeVar":
        bound: object = getattr(hint, "__bound__", None)
        return str(hint) if bound is None else spelt(bound)
    return hint.__name__ if isinstance(hint, type) else str(hint)


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
