"""Create sample parts with small options, to read their attributes, without any effect on global state."""

import inspect
import typing
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from types import UnionType
from typing import Annotated, Final, Literal, NewType, TypeVar, Union

import torch

from pipeline.core.contexts import preserve_random_state

P = TypeVar("P")

# The value of a required option, by its type.
_SMALL_VALUES: Final[Mapping[object, object]] = {int: 4, float: 0.5, bool: False, None: None, type(None): None}

# Types of annotations that are strings and cannot be evaluated.
_TYPES_BY_NAME: Final = {"int": int, "float": float, "bool": bool, "None": None}


def sample_options(factory: Callable[..., object], given: Mapping[str, object]) -> dict[str, object] | None:
    """Choose small values for the options that a factory requires.

    Args:
        factory: a class or a function that is called with keywords only.
        given: known values; the factory gets those that it takes, required or not.

    Returns:
        The options. A value that is not given follows from the annotation: 4 for `int`, 0.5 for `float`, False for
        `bool`, the first value of a `Literal`, the first member of a union that has a value. None if some required
        option has no such value, or the factory cannot be called with keywords.

    Example:
        >>> def factory(input_size: int, mode: Literal["sum", "max"], *, rate: float, bias: bool = True) -> None: ...
        >>> sample_options(factory, {"input_size": 3, "other": 5})
        {'input_size': 3, 'mode': 'sum', 'rate': 0.5}
        >>> def named(name: str) -> None: ...
        >>> sample_options(named, {}) is None
        True
    """
    options: dict[str, object] = {}
    for name, parameter in read_parameters(factory).items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        if name in given and parameter.kind is not parameter.POSITIONAL_ONLY:
            options[name] = given[name]
        elif parameter.default is parameter.empty:
            values = _list_small_values(parameter.annotation)
            if not values or parameter.kind is parameter.POSITIONAL_ONLY:
                return None
            options[name] = values[0]
    return options


def make_sample(factory: Callable[..., P], given: Mapping[str, object]) -> P | None:
    """Create a part with sample options on torch's `meta` device, where it needs no memory.

    Returns:
        The part, or None if the factory rejects the options or has no sample options.

    Example:
        >>> part = make_sample(torch.nn.Linear, {"in_features": 3})
        >>> part.out_features, part.weight.is_meta
        (4, True)
        >>> make_sample(torch.nn.MultiheadAttention, {"embed_dim": 3}) is None  # 3 features, 4 heads
        True
    """
    options = sample_options(factory, given)
    if options is None:
        return None
    with preserve_global_state(), torch.device("meta"):
        try:
            return factory(**options)
        except Exception:  # noqa: BLE001 - a plugin may raise anything for options that no user wrote
            return None


@contextmanager
def preserve_global_state() -> Generator[None]:
    """Restore the global state of torch, numpy and Python at the end, and show no warnings until then.

    The state is torch's default dtype, grad mode and thread count, and the random generators of all three.

    Example:
        >>> before = torch.get_rng_state()
        >>> with preserve_global_state():
        ...     drawn = torch.rand(3)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    dtype, grad, threads = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    try:
        with preserve_random_state(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        # Only if it changed, because setting it restarts torch's thread pool.
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def read_parameters(factory: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """Return a factory's parameters, with evaluated annotations if possible; no parameters if they are unreadable."""
    # Evaluating a string may raise anything: a name that is imported under TYPE_CHECKING does not exist.
    with suppress(Exception):
        return inspect.signature(factory, eval_str=True).parameters
    with suppress(TypeError, ValueError):
        return inspect.signature(factory).parameters
    return {}


def _list_small_values(annotation: object) -> list[object]:
    """Return a list of one small value of a type, or an empty list."""
    annotation = _TYPES_BY_NAME.get(annotation, annotation) if isinstance(annotation, str) else annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(arguments[:1])
    if origin is Annotated:
        return _list_small_values(arguments[0])
    if origin in {Union, UnionType}:
        # None is the last choice: it is a legal value, but usually switches the option off.
        members = sorted(arguments, key=lambda member: member is type(None))
        return [value for member in members for value in _list_small_values(member)][:1]
    if isinstance(annotation, NewType):
        return _list_small_values(annotation.__supertype__)
    if isinstance(annotation, type | None) and annotation in _SMALL_VALUES:
        return [_SMALL_VALUES[annotation]]
    return []
