"""The outcome of one law for one module."""

import warnings
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeVar

import attrs

from pipeline.laws.law import allow_rounding, get_name
from pipeline.testing import Law, LawBrokenError

P = TypeVar("P")

Outcome = Literal["holds", "broken", "unsupported"]

_FLOAT32: Final = 1e-5
"""A difference below it is the rounding of float32, in a module that does not compute in float64."""


@attrs.frozen(kw_only=True)
class Verdict:
    """The outcome of one law for one module.

    Attributes:
        outcome: whether it holds, is broken, or is documented as unsupported.
        reason: the message of the broken law, or what the documentation says.
        gap: the largest difference of two numbers that should be equal; None if it is not known, or there is none.
    """

    outcome: Outcome
    reason: str = ""
    gap: float | None = None


def judge_law(law: Law[P], make: Callable[[], P], unsupported: Mapping[str, str]) -> Verdict:
    """Return the verdict of one law.

    Args:
        law: the law.
        make: creates the module.
        unsupported: the reasons why laws are not asked, by their names.
    """
    name = get_name(law)
    if name in unsupported:
        return Verdict(outcome="unsupported", reason=unsupported[name])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            law(make)
    except LawBrokenError as error:
        gap: object = error.details.get("gap")
        reason = str(error).removeprefix(f"law broken: {name}: ")
        return Verdict(outcome="broken", reason=reason, gap=gap if isinstance(gap, float) else None)
    return Verdict(outcome="holds")


def judge_law_in_float64(law: Law[P], make: Callable[[], P], unsupported: Mapping[str, str]) -> Verdict:
    """Return the verdict of one law for a module in float64, some of which compute in float32 nevertheless."""
    found = judge_law(law, make, unsupported)
    if found.gap is None or found.gap >= _FLOAT32:
        return found
    # Again, since the law ended at the first difference.
    with allow_rounding(_FLOAT32):
        again = judge_law(law, make, unsupported)
    return attrs.evolve(found, outcome="holds") if again.outcome == "holds" else again
