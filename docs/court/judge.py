"""Judge one module by every law."""

import time
from collections.abc import Mapping
from typing import Any, Final, Self

import attrs

from court.case import Case
from court.forms.judge_form import judge_form
from court.verdict import Verdict, judge_law_in_float64
from pipeline.laws.law import get_name
from pipeline.laws.modules import make_adapter
from pipeline.laws.rows import no_gradient_reaches_padding, padding_values_have_no_effect
from pipeline.testing import RAGGED_LAWS

NAN: Final = "nan_in_padding_has_no_effect"
"""The two laws about padding once more, with NaN, infinity and 1e38 in it."""

LAWS: Final = (*(get_name(law) for law in RAGGED_LAWS), NAN)
"""The names of the laws, in the order of the table."""


@attrs.frozen(kw_only=True)
class Judgement:
    """The verdicts on one module.

    Attributes:
        name: the name of the module.
        call: how it is called.
        note: the note of the case.
        verdicts: the verdict of each law, by its name.
        forms: for each other form of the module, by its name, the verdict of each law.
        seconds: how long it took.
    """

    name: str
    call: str
    note: str
    verdicts: Mapping[str, Verdict]
    forms: Mapping[str, Mapping[str, Verdict]]
    seconds: float

    @property
    def obeys(self) -> bool:
        """Whether no law is broken, in any form."""
        judged = [self.verdicts, *self.forms.values()]
        return all(verdict.outcome != "broken" for verdicts in judged for verdict in verdicts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return everything for JSON."""
        return attrs.asdict(self)

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Read the result of `to_dict`."""
        fields: dict[str, Any] = dict(state)
        fields["verdicts"] = _read_verdicts(state["verdicts"])
        fields["forms"] = {form: _read_verdicts(verdicts) for form, verdicts in state["forms"].items()}
        return cls(**fields)


def _read_verdicts(state: Mapping[str, Any]) -> Mapping[str, Verdict]:
    return {law: Verdict(**verdict) for law, verdict in state.items()}


def judge(case: Case) -> Judgement:
    """Judge a module by every law about rows, with ordinary numbers in the padding, and then with NaN in it."""
    start = time.perf_counter()
    ordinary = make_adapter({**case.options, "nan_in_padding": False})
    unsupported = case.find_unsupported()
    verdicts = {
        get_name(law): judge_law_in_float64(law, lambda: ordinary(case.make()), unsupported) for law in RAGGED_LAWS
    }
    with_nan = make_adapter(case.options)
    found = [
        judge_law_in_float64(law, lambda: with_nan(case.make()), unsupported)
        for law in (padding_values_have_no_effect, no_gradient_reaches_padding)
    ]
    verdicts[NAN] = next((verdict for verdict in found if verdict.outcome == "broken"), found[0])
    forms = {form.name: judge_form(case, form) for form in case.forms}
    seconds = time.perf_counter() - start
    return Judgement(name=case.name, call=case.call, note=case.note, verdicts=verdicts, forms=forms, seconds=seconds)
