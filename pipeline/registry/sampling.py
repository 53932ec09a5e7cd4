"""Parts made with small options of our own, to learn what they are before anyone has asked for one."""

import inspect
import random
import typing
import warnings
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import UnionType
from typing import Annotated, Final, Literal, NewType, TypeVar, Union

import numpy as np
import torch

P = TypeVar("P")

_SMALL: Final[Mapping[object, object]] = {int: 4, float: 0.5, bool: False, None: None, type(None): None}
"""One value a type."""

_BY_NAME: Final = {"int": int, "float": float, "bool": bool, "None": None}
"""What an annotation means that is a text and stays one."""

_cuda_is_used: Callable[[], bool] = torch.cuda.is_initialized
"""Torch leaves its type open."""


def sample_options(factory: Callable[..., object], given: Mapping[str, object]) -> dict[str, object] | None:
    """Options with which a factory can be tried: those that it must have and no others.

    Args:
        factory: a class or a function, called with keywords alone.
        given: values of options that are known: of these it gets those that it takes, needed or not.

    Returns:
        Of an option that is not given, a value by its annotation: 4 for `int`, 0.5 for `float`, False for `bool`,
        the first of a `Literal`, the first of a union for which there is one. None if there is no such value, or
        the factory cannot be called by keywords.

    Example:
        >>> def factory(input_size: int, mode: Literal["sum", "max"], *, rate: float, bias: bool = True) -> None: ...
        >>> sample_options(factory, {"input_size": 3, "other": 5})
        {'input_size': 3, 'mode': 'sum', 'rate': 0.5}
        >>> def named(name: str) -> None: ...
        >>> sample_options(named, {}) is None
        True
    """
    options: dict[str, object] = {}
    for name, parameter in _parameters(factory).items():
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        if name in given and parameter.kind is not parameter.POSITIONAL_ONLY:
            options[name] = given[name]
        elif parameter.default is parameter.empty:
            found = _values(parameter.annotation)
            if not found or parameter.kind is parameter.POSITIONAL_ONLY:
                return None
            options[name] = found[0]
    return options


def sample(factory: Callable[..., P], given: Mapping[str, object]) -> P | None:
    """A part with sample options, on torch's `meta` device, where it takes no memory; None if it cannot be made.

    The state of random numbers is afterwards what it was, and no warning is shown.

    Example:
        >>> part = sample(torch.nn.Linear, {"in_features": 3})
        >>> part.out_features, part.weight.is_meta
        (4, True)
        >>> sample(torch.nn.MultiheadAttention, {"embed_dim": 3}) is None  # 3 features for 4 heads
        True
    """
    options = sample_options(factory, given)
    if options is None:
        return None
    with same_random_numbers(), warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            return factory(**options)
        except Exception:  # noqa: BLE001 - what a stranger's factory does not like of our options is no fault
            return None


@contextmanager
def same_random_numbers() -> Generator[None]:
    """Whatever draws from Python, numpy or torch within leaves them as they were.

    Example:
        >>> before = torch.get_rng_state()
        >>> with same_random_numbers():
        ...     drawn = torch.rand(3)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - what others draw from
    cpu = torch.get_rng_state()
    # An accelerator that nobody has used yet is not started for this.
    cuda = torch.cuda.get_rng_state_all() if _cuda_is_used() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        torch.cuda.set_rng_state_all(cuda)


def _parameters(factory: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    """A factory's parameters, their annotations as types where they can be; none if they cannot be read."""
    try:
        return inspect.signature(factory, eval_str=True).parameters
    # To evaluate a text can raise anything: a name behind TYPE_CHECKING is not there.
    except Exception:  # noqa: BLE001
        return _unevaluated(factory)


def _unevaluated(factory: Callable[..., object]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def _values(annotation: object) -> list[object]:
    """A small value of a type, in a list; an empty one if there is none."""
    annotation = _BY_NAME.get(annotation, annotation) if isinstance(annotation, str) else annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return list(arguments[:1])
    if origin is Annotated:
        return _values(arguments[0])
    if origin in {Union, UnionType}:
        # None comes last: it may be legal, and says nothing.
        found = sorted(arguments, key=lambda each: each is type(None))
        return [value for each in found for value in _values(each)][:1]
    if isinstance(annotation, NewType):
        return _values(annotation.__supertype__)
    if isinstance(annotation, type | None) and annotation in _SMALL:
        return [_SMALL[annotation]]
    return []
