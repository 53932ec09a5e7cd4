"""What a law is, how a broken one is told, and how all of them are run."""

import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import TypeAlias, TypeVar

import torch
from torch import nn

from pipeline.errors import OptionError, PipelineError

P = TypeVar("P")

Law: TypeAlias = Callable[[Callable[[], P]], None]
"""A function that takes a factory of parts and raises `LawBrokenError` if they break what its docstring states."""


class LawBrokenError(PipelineError, AssertionError):
    """A part that breaks a law; `details` name it as `law`, or, where several were tried, as `laws`."""


class FaultError(PipelineError):
    """What a law found, before the law's name is put to it."""


def law(body: Law[P]) -> Law[P]:
    """Make a law of a function that raises `FaultError`; whatever else the part raises is the law broken as well.

    What torch draws meanwhile is drawn from a seed, and its generator is left as it was found.
    """
    name = name_of(body)

    @functools.wraps(body)
    def tried(make: Callable[[], P]) -> None:
        __tracebackhide__ = True  # pytest then shows the test, not this
        refuse_parts(make, name)
        try:
            with drawing_from(0), torch.enable_grad():
                body(make)
        except Exception as error:  # noqa: BLE001 - what ends a program, or skips a test, is none, and goes through
            raise _broken(name, error) from (error.__cause__ if isinstance(error, FaultError) else error)

    return tried


def refuse_parts(make: object, what: str) -> None:
    """Refuse what is no factory. A module is called like one, and would miss arguments that nobody forgot.

    Raises:
        OptionError: if it is a module, or nothing that can be called.
    """
    if isinstance(make, nn.Module) or not callable(make):
        kind = type(make).__name__
        msg = f"{what} takes a function that makes parts, but a {kind} arrived; write lambda: {kind}(...)."
        raise OptionError(msg, arrived=kind)


@contextmanager
def told(name: str) -> Generator[None]:
    """Turn a fault that is found inside into a broken law of this name.

    Raises:
        LawBrokenError: if there is one.
    """
    try:
        yield
    except FaultError as fault:
        raise _broken(name, fault) from fault.__cause__


def _broken(name: str, error: Exception) -> LawBrokenError:
    if isinstance(error, FaultError):
        return LawBrokenError(f"law broken: {name}: {error}", **{**error.details, "law": name})
    said = " ".join(str(error).split())
    shown = said if len(said) <= 300 else f"{said[:300]} ..."
    return LawBrokenError(f"law broken: {name}: it raised {type(error).__name__}: {shown}", law=name)


@contextmanager
def drawing_from(seed: int) -> Generator[None]:
    """What torch draws on the CPU comes from this seed; afterwards it goes on as if nothing had been drawn."""
    # Not `torch.manual_seed`: it sets the generators of every device, which nobody sets back.
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)


def loosely(value: object) -> object:
    """A value that need not be what its annotation promises: a part may break that, too."""
    return value


def name_of(body: Callable[..., object]) -> str:
    """What a function is called."""
    return str(getattr(body, "__name__", body))


def check(laws: Sequence[Law[P]], make: Callable[[], P], what: str) -> None:
    """Run laws on what a factory makes, and tell of all that are broken at once.

    Raises:
        LawBrokenError: if any is; its `laws` are the names of all that are.
    """
    broken: dict[str, LawBrokenError] = {}
    for each in laws:
        try:
            each(make)
        except LawBrokenError as error:
            broken[name_of(each)] = error
    if broken:
        first = next(each for each in laws if name_of(each) in broken)
        # One fault may break every law, as a factory does that raises: it is told once.
        names: dict[str, list[str]] = {}
        for name, fault in broken.items():
            names.setdefault(str(fault).removeprefix(f"law broken: {name}: "), []).append(name)
        lines = "".join(f"\n- {', '.join(those)}: {said}" for said, those in names.items())
        msg = (
            f"{len(broken)} of {len(laws)} laws of {what} broken; to see where, call one of them with the factory: "
            f"from {first.__module__} import {name_of(first)}.{lines}"
        )
        raise LawBrokenError(msg, laws=tuple(broken)) from broken[name_of(first)]
