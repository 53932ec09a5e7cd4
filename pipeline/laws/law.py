"""Tools to write laws: the decorator, the comparison of results, gradients, and a function that runs several laws."""

import functools
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from operator import methodcaller
from typing import Final, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from pipeline.core.contexts import seeded
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError, PipelineError
from pipeline.laws.global_state import preserve_state
from pipeline.text import to_one_line

P = TypeVar("P")

Law: TypeAlias = Callable[[Callable[[], P]], None]
"""A function that takes a factory of parts and raises `LawBrokenError` if they break the law in its docstring."""

ROUNDING: Final = 1e-10
"""Allowed difference of two equal float64 results, relative to the largest number in them.

float64 has 16 digits; a sum over some hundred steps in another order loses about three of them. A real mistake changes
results by 1e-3 or more."""

_allowed_rounding: ContextVar[float] = ContextVar("allowed_rounding", default=0.0)

UNREGISTERED: Final = (
    "Usually a tensor that is not a nn.Parameter, a buffer or part of a submodule, so that nn.Module cannot see it."
)
"""A hint, in the messages of several laws."""


class LawBrokenError(PipelineError, AssertionError):
    """A part that breaks a law; `details["law"]` is its name, or `details["laws"]` the names if several were run."""


class FaultError(PipelineError):
    """A violation found by a law. The decorator `law` turns it into a `LawBrokenError` with the law's name."""


def law(body: Law[P]) -> Law[P]:
    """Turn a function that raises `FaultError` into a law. Any other error from the part breaks the law as well.

    torch's random generator is seeded for the body, and restored afterwards.
    """
    name = get_name(body)

    @functools.wraps(body)
    def run_law(make: Callable[[], P]) -> None:
        __tracebackhide__ = True  # pytest then shows the test, not this function
        reject_instance(make, name)
        try:
            # Seeded, so that a law that passes once passes always. With gradients, because some laws differentiate, and
            # the caller may be inside torch.no_grad().
            with preserve_state(), seeded(0), torch.enable_grad():
                body(make)
        except Exception as error:  # noqa: BLE001 - KeyboardInterrupt and pytest.skip are no Exception, and pass through
            raise _make_broken_error(name, error) from (error.__cause__ if isinstance(error, FaultError) else error)

    return run_law


def reject_instance(make: object, caller: str) -> None:
    """Reject a part where a factory is expected. A module is callable too, so the mistake would show up late.

    Raises:
        OptionError: if `make` is a module, or is not callable.
    """
    if isinstance(make, nn.Module) or not callable(make):
        kind = type(make).__name__
        msg = f"{caller} takes a function that creates parts, got a {kind}; write lambda: {kind}(...)."
        raise OptionError(msg, got=kind)


@contextmanager
def report_as_law(name: str) -> Generator[None]:
    """Turn a `FaultError` inside the block into a `LawBrokenError` of that name, for checks that are not laws.

    Raises:
        LawBrokenError: if there is one.
    """
    try:
        yield
    except FaultError as fault:
        raise _make_broken_error(name, fault) from fault.__cause__


def _make_broken_error(name: str, error: Exception) -> LawBrokenError:
    if isinstance(error, FaultError):
        return LawBrokenError(f"law broken: {name}: {error}", **{**error.details, "law": name})
    return LawBrokenError(f"law broken: {name}: it raised {type(error).__name__}: {to_one_line(error, 300)}", law=name)


def as_object(value: object) -> object:
    """Return a value with type `object`.

    A part may return something else than its annotation promises. A type checker would call an `isinstance` check of
    the annotated type redundant.
    """
    return value


def get_name(function: Callable[..., object]) -> str:
    """Return a function's name."""
    return str(getattr(function, "__name__", function))


def check_laws(laws: Sequence[Law[P]], make: Callable[[], P], parts: str, constant: str) -> None:
    """Run all laws, and report every broken one in a single error.

    Args:
        laws: the laws of one kind of part.
        make: creates a part.
        parts: the word for such parts, in the message.
        constant: the name of `laws` in `pipeline.testing`, for the message.

    Raises:
        LawBrokenError: if a law is broken; `details["laws"]` has the names of all broken ones.
    """
    broken: dict[str, LawBrokenError] = {}
    for each in laws:
        try:
            each(make)
        except LawBrokenError as error:
            broken[get_name(each)] = error
    if broken:
        # One fault may break every law, for example a factory that raises: report it once.
        names: dict[str, list[str]] = {}
        for name, fault in broken.items():
            names.setdefault(str(fault).removeprefix(f"law broken: {name}: "), []).append(name)
        lines = "".join(f"\n- {', '.join(those)}: {message}" for message, those in names.items())
        msg = (
            f"{len(broken)} of {len(laws)} laws of {parts} are broken; to run one by itself, take it from "
            f"pipeline.testing.{constant}.{lines}"
        )
        raise LawBrokenError(msg, laws=tuple(broken)) from next(iter(broken.values()))


@contextmanager
def allow_rounding(rounding: float) -> Generator[None]:
    """Allow larger differences inside the block, for modules that compute in less than float64.

    Results that must be bitwise equal must still be so.

    Args:
        rounding: the relative difference that every comparison allows at least.
    """
    token = _allowed_rounding.set(rounding)
    try:
        yield
    finally:
        _allowed_rounding.reset(token)


def check_equal(
    found: Sequence[Tensor], wanted: Sequence[Tensor], condition: str, *, fix: str = "", rounding: float = ROUNDING
) -> None:
    """Check that two lists of results, one per row, are equal.

    Args:
        found: the results under test.
        wanted: the expected results.
        condition: the situation in which they were computed, for the message.
        fix: the usual cause and its fix, for the message.
        rounding: the allowed relative difference; 0 for bitwise equality. `allow_rounding` increases it if it is
            above 0.

    Raises:
        FaultError: if they differ. NaN equals nothing.
    """
    hint = f" {fix}" if fix else ""
    if rounding:
        rounding = max(rounding, _allowed_rounding.get())
    if len(found) != len(wanted):
        msg = f"{condition}: got {len(found)} results, expected {len(wanted)}.{hint}"
        raise FaultError(msg)
    for index, (ours, other) in enumerate(zip(found, wanted, strict=True)):
        if ours.shape != other.shape:
            msg = f"{condition}: result {index} has shape {tuple(ours.shape)}, expected {tuple(other.shape)}.{hint}"
            raise FaultError(msg, row=index)
        if not other.numel():
            continue
        gap = (ours - other).detach().abs()
        # Relative to the largest expected number, but never below 1: a result near 0 is often the difference of larger
        # numbers, and has their rounding error.
        allowed = rounding * max(1.0, float(other.detach().abs().max()))
        # `<=` is False for NaN, so NaN never counts as equal.
        equal = gap <= allowed
        if not bool(equal.all()):
            at = tuple(to_ints((~equal).nonzero()[0]))
            limit = f"the allowed difference is {allowed:.2g}" if rounding else "they must be bitwise equal"
            got, expected = (float(tensor.detach()[at]) for tensor in (ours, other))
            msg = (
                f"{condition}: result {index} is {got:.6g} at {at}, expected {expected:.6g}; {int((~equal).sum())} of "
                f"its {equal.numel()} numbers differ, and {limit}.{hint}"
            )
            raise FaultError(msg, row=index, gap=float(gap.max()))


to_list: Callable[[Tensor], list[float]] = methodcaller("tolist")
"""Convert a tensor to a list, for a message; torch does not annotate `tolist`."""


def compute_weighted_sum(results: Sequence[Tensor]) -> Tensor:
    """Sum all numbers with different weights, so that two swapped numbers, or gradients, change the sum."""
    flat = torch.cat([result.flatten() for result in results])
    return (flat * torch.linspace(-1, 1, len(flat), dtype=flat.dtype)).sum()


def compute_gradients(results: Sequence[Tensor], inputs: Sequence[Tensor]) -> Sequence[Tensor]:
    """Return the gradients of the results' weighted sum; zeros for inputs that do not influence it."""
    # One backward pass for all results. A gradient for each result would take one pass per number.
    total = compute_weighted_sum(results)
    needed = [tensor for tensor in inputs if tensor.requires_grad]  # a part may have frozen weights
    if not total.requires_grad or not needed:
        return [torch.zeros_like(tensor) for tensor in inputs]
    found = iter(torch.autograd.grad(total, needed, allow_unused=True, materialize_grads=True))
    return [next(found) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in inputs]
