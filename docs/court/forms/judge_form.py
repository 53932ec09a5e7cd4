"""Judge a module in another form, by the same laws and by one more: its results are those in float64."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, cast

import torch
from torch import nn

from court.case import Case
from court.forms.form import Form, FormedModule
from court.verdict import Verdict, judge_law
from pipeline.laws.law import allow_rounding, check_equal, get_name, law
from pipeline.laws.modules import make_adapter
from pipeline.laws.parts import LENGTHS, PlainModule, choose_input_size, draw_rows, make_batch, run_rows
from pipeline.testing import RAGGED_LAWS
from pipeline.text import format_error

_Pair: TypeAlias = tuple[PlainModule, PlainModule]


@law
def results_agree_with_float64(make: Callable[[], _Pair]) -> None:
    """Results equal those of the same weights and the same rounded input in float64."""
    found, exact = (part.eval() for part in make())
    exact.double()
    with torch.no_grad():
        for lengths in LENGTHS:
            batch = make_batch(draw_rows(lengths, choose_input_size(exact)), extra=1)
            check_equal(run_rows(found, batch), run_rows(exact, batch), f"rows of lengths {lengths}")


AGREEMENT: Final = get_name(results_agree_with_float64)
"""The name of the additional law."""


def judge_form(case: Case, form: Form) -> Mapping[str, Verdict]:
    """Judge one form of a module by every law, with NaN in the padding."""
    adapt = make_adapter(case.options)
    laws = [*map(get_name, RAGGED_LAWS), AGREEMENT]
    reason = _try(lambda: adapt(form.make()))
    if reason is not None:
        return {name: Verdict(outcome="unsupported", reason=reason) for name in laws}
    unsupported = {**case.find_unsupported(), **form.unsupported}
    with allow_rounding(form.rounding):
        verdicts = {get_name(each): judge_law(each, lambda: adapt(form.make()), unsupported) for each in RAGGED_LAWS}

        def make_pair() -> _Pair:
            module = form.make()
            return adapt(module), adapt(cast("FormedModule", module).make_exact())

        verdicts[AGREEMENT] = judge_law(results_agree_with_float64, make_pair, unsupported)
    return verdicts


def _try(make: Callable[[], nn.Module]) -> str | None:
    """Return why a module cannot be made or called in its form; None if it can."""
    try:
        part = cast("PlainModule", make()).eval()
        part.run_rows(make_batch(draw_rows((3, 2), choose_input_size(part))))
    except Exception as error:  # noqa: BLE001 - the error is the result
        return format_error(error, 400)
    return None
