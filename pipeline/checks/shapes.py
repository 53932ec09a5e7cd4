"""Shape checks of functions and attrs classes, on jaxtyping and beartype.

jaxtyping's class decorator does not check attrs classes, and its import hook breaks `torch.compile`. The decorator
`checked` wraps a function, or the generated `__init__` of an attrs class, and does nothing while a graph is traced.
"""

import functools
import inspect
import random
import sys
from collections.abc import Callable, Hashable, Mapping
from operator import attrgetter
from typing import Any, Final, ParamSpec, TypeVar, cast, get_type_hints

import attrs
import jaxtyping
import torch
from beartype import beartype
from beartype.door import is_bearable
from jaxtyping import TypeCheckError
from torch import Tensor

from pipeline.checks.hints import describe, format_hint, is_shaped, split_union
from pipeline.checks.switches import SWITCHES
from pipeline.errors import ShapeError

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., object])

_CACHED_SIGNATURES: Final = 4_096
"""The size at which the cache of valid signatures is cleared. Batches have many shapes, but rarely thousands."""

# Typed by hand: torch has no type for it.
_is_tracing: Final[Callable[[], bool]] = attrgetter("jit.is_tracing")(torch)

# Typed by hand: jaxtyping's own signature leaves a default without a type.
_jaxtyped: Callable[..., Any] = getattr(jaxtyping, "jaxtyped")  # noqa: B009


def checked(target: F, /) -> F:
    """Check the annotations of a function, or of an attrs class's fields, at every call.

    Axes that occur in several annotations must have one size. A class is changed in place and returned.

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
        pipeline.errors.ShapeError: dot: right must be Float[Tensor, 'time'], got float32 of shape (3,) ...
    """
    owner: object = target
    if not isinstance(owner, type):
        return cast("F", _check_calls(target, getattr(target, "__qualname__", repr(target))))
    traceable = _make_traceable_init(cast("type[attrs.AttrsInstance]", owner))
    init = _check_calls(cast("Callable[..., None]", owner.__dict__["__init__"]), owner.__name__, traceable)
    setattr(owner, "__init__", init)  # noqa: B010 - type checkers reject the plain assignment
    return target


def _check_calls(plain: Callable[P, R], owner: str, traceable: Callable[P, R] | None = None) -> Callable[P, R]:
    """Wrap a function so that its arguments and result are checked.

    Args:
        plain: the function; for a class its `__init__`.
        owner: its name, or that of its class, for errors.
        traceable: for a class, an `__init__` to use while a graph is traced.
    """
    # jaxtyping and beartype take ten times as long as building a batch does. Their verdict depends only on dtypes,
    # shapes and types of the arguments. So an `__init__`, which returns nothing that needs a check, is not checked
    # again if a call with the same signature passed before.
    typed: Callable[P, R] = _jaxtyped(plain, typechecker=beartype)
    passed: set[Hashable] = set()

    @functools.wraps(plain)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling():
            return (traceable or plain)(*args, **kwargs)
        if not SWITCHES.checks:
            return plain(*args, **kwargs)
        signature = None if traceable is None else (tuple(kwargs), _get_signature((*args, *kwargs.values())))
        if signature in passed:
            return plain(*args, **kwargs)
        # beartype checks an item at random of each sequence. Without this, the user's own random numbers would depend
        # on the signatures that are new, and so on where training was resumed.
        state = random.getstate()
        try:
            result = typed(*args, **kwargs)
        except TypeCheckError as error:
            bound = inspect.signature(plain).bind(*args, **kwargs)
            raise _explain(plain, owner, bound.arguments) from error
        finally:
            random.setstate(state)
        # In a trace of torch.jit the sizes of a shape are tensors: remembered, they would break a later compilation.
        if signature is not None and not _is_tracing():
            if len(passed) >= _CACHED_SIGNATURES:
                passed.clear()
            passed.add(signature)
        return result

    return call


def _get_signature(values: tuple[object, ...]) -> Hashable:
    """Return all that an annotation can check of arguments: dtypes and shapes of tensors, types of other values."""
    # By exact type first: it is faster than `isinstance`, and this runs for every batch that is made.
    return tuple(
        [
            (value.dtype, value.shape)
            if type(value) is Tensor
            else (_OPAQUE[type(value)] if type(value) in _OPAQUE else _get_other_signature(value))
            for value in values
        ]
    )


_OPAQUE: Final[dict[type, Hashable]] = {}
"""Classes that occurred, of whose objects an annotation can check the class only; each is its own value."""


def _get_other_signature(value: object) -> Hashable:
    if isinstance(value, Tensor):
        return value.dtype, value.shape
    if isinstance(value, tuple):
        return _get_signature(cast("tuple[object, ...]", value))
    if isinstance(value, type):
        return value
    cls: type = type(value)
    return _OPAQUE.setdefault(cls, cls)


def _make_traceable_init(cls: type[attrs.AttrsInstance]) -> Callable[..., None]:
    """Return an `__init__` that torch.compile can trace, unlike the one that attrs makes for frozen classes."""
    fields = [(field.name, field.alias or field.name, _make_default(field.default)) for field in attrs.fields(cls)]
    finish: Callable[[Any], None] | None = getattr(cls, "__attrs_post_init__", None)

    def init(self: object, *args: object, **kwargs: object) -> None:
        for index, (name, alias, default) in enumerate(fields):
            value = args[index] if index < len(args) else kwargs[alias] if alias in kwargs else default(self)
            object.__setattr__(self, name, value)
        if finish is not None:
            finish(self)

    return init


def _make_default(default: Any) -> Callable[[object], object]:  # noqa: ANN401 - a field's default may be anything
    """Return a function from the instance under construction to a field's default."""
    factory: Callable[..., object] | None = getattr(default, "factory", None)
    if factory is None:
        return lambda _: default
    return factory if default.takes_self else lambda _: factory()


def _explain(plain: Callable[..., object], owner: str, arguments: Mapping[str, object]) -> ShapeError:
    """Return an error that names the first argument that does not fit, given the arguments before it."""
    # The `__init__` that attrs makes has globals of its own, without the names of the class's module.
    hints = get_type_hints(plain, vars(sys.modules[plain.__module__]), include_extras=True)
    with _jaxtyped("context"):
        for name, value in arguments.items():
            if name in hints and not is_bearable(value, hints[name]):
                msg = f"{owner}: {name} must be {format_hint(hints[name])}, got {describe(value)}"
                with _jaxtyped("context"):
                    fits_alone = is_bearable(value, hints[name])
                if fits_alone:
                    others = [f"{n} {describe(v)}" for n, v in arguments.items() if n != name and isinstance(v, Tensor)]
                    fix = f" beside {', '.join(others)}; axes of one name must have one size"
                elif any(map(is_shaped, split_union(hints[name]))):
                    fix = "; pass a tensor of this dtype with these axes"
                else:
                    fix = "; pass a value of this type"
                return ShapeError(f"{msg}{fix}.", argument=name)
    return ShapeError(f"{owner}: the result must be {format_hint(hints.get('return'))}; correct the return value.")
