"""Judge one module by every law."""

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Self

import attrs
from torch import nn

from court.case import Case
from pipeline.laws.law import get_name
from pipeline.laws.modules import make_adapter
from pipeline.laws.rows import no_gradient_reaches_padding, padding_values_have_no_effect
from pipeline.testing import RAGGED_LAWS, Law, LawBrokenError, PlainModule

Outcome = Literal["holds", "broken", "unsupported"]

NAN: Final = "nan_in_padding_has_no_effect"
"""The two laws about padding once more, with NaN, infinity and 1e38 in it."""

LAWS: Final = (*(get_name(law) for law in RAGGED_LAWS), NAN)
"""The names of the laws, in the order of the table."""


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


@attrs.frozen(kw_only=True)
class Judgement:
    """The verdicts on one module.

    Attributes:
        name: the name of the module.
        call: how it is called.
        note: the note of the case.
        verdicts: the verdict of each law, by its name.
        seconds: how long it took.
    """

    name: str
    call: str
    note: str
    verdicts: Mapping[str, Verdict]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`."""
        fields: dict[str, Any] = dict(state)
        fields["verdicts"] = {law: Verdict(**verdict) for law, verdict in state["verdicts"].items()}
        return cls(**fields)


def judge(case: Case) -> Judgement:
    """Judge a module by every law about rows, with ordinary numbers in the padding, and then with NaN in it."""
    start = time.perf_counter()
    ordinary = make_adapter({**case.options, "nan_in_padding": False})
    verdicts = {get_name(law): _judge_law(law, case, ordinary) for law in RAGGED_LAWS}
    with_nan = make_adapter(case.options)
    found = [_judge_law(law, case, with_nan) for law in (padding_values_have_no_effect, no_gradient_reaches_padding)]
    worst = next((verdict for verdict in found if verdict.outcome == "broken"), found[0])
    verdicts[NAN] = worst
    seconds = time.perf_counter() - start
    return Judgement(name=case.name, call=case.call, note=case.note, verdicts=verdicts, seconds=seconds)


def _judge_law(law: Law[PlainModule], case: Case, adapt: Callable[[nn.Module], PlainModule]) -> Verdict:
    name = get_name(law)
    unsupported = dict(case.unsupported)
    if not case.options.get("causal"):
        unsupported["causal_steps_do_not_look_ahead"] = "it is not meant to be causal"
    if name in unsupported:
        return Verdict(outcome="unsupported", reason=unsupported[name])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            law(lambda: adapt(case.make()))
    except LawBrokenError as error:
        found: object = error.details.get("gap")
        gap = found if isinstance(found, float) else None
        reason = str(error).removeprefix(f"law broken: {name}: ")
        # Some modules compute in float32 whatever their weights are.
        return Verdict(outcome="holds" if gap is not None and gap < _FLOAT32 else "broken", reason=reason, gap=gap)
    return Verdict(outcome="holds")
