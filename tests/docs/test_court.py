"""The table of the laws has every registered part and every whole model, and shows each broken law."""

from functools import partial
from itertools import chain
from pathlib import Path

import attrs
import pytest
import torch
from torch import Tensor, nn

from court.case import Case
from court.forms.form import Form
from court.forms.judge_form import AGREEMENT, judge_form
from court.forms.precision import list_precisions
from court.judge import Judgement, judge
from court.libraries.ours import LISTS, list_cases
from court.libraries.ours.registered import PartKind, list_names
from court.page import JudgedLibrary, write_page
from pipeline import models


@pytest.mark.parametrize(
    ("kind", "written"), [("encoders", 'Encode("{}")'), ("attentions", 'Attend("{}")'), ("pools", 'Pool("{}")')]
)
def test_every_registered_part_is_judged(kind: PartKind, written: str) -> None:
    """By its name: no list has to be written by hand. Heads, embedders and stages without a place raise KeyError."""
    names = [part.name for part in chain.from_iterable(list_parts() for list_parts in LISTS)]
    assert [name for name in list_names(kind) if not any(written.format(name) in each for each in names)] == []


def test_every_whole_model_is_judged() -> None:
    """In one form of options at least."""
    names = {case.name.split("(")[0] for case in list_cases()}
    assert names >= set(models.__all__)


def test_each_is_judged_in_every_form() -> None:
    """Under a name of its own."""
    cases = list_cases()
    assert len({case.name for case in cases}) == len(cases)
    assert {tuple(form.name for form in case.forms) for case in cases} == {
        ("float32", "bfloat16", "autocast", "exported")
    }


class MeanOverWidth(nn.Module):
    """Divides by the width of the batch, and adds an error in low precision."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.error = error

    def forward(self, values: Tensor, lengths: Tensor) -> Tensor:
        """Return the mean of each row."""
        real = torch.arange(values.shape[1]) < lengths.unsqueeze(1)
        total = (values.masked_fill(~real.unsqueeze(-1), 0) * self.weight).sum(1)
        if self.error:
            low = self.error if values.dtype is torch.bfloat16 else 0.0
            return total / lengths.clamp(min=1).unsqueeze(1) + low
        return total / max(1, values.shape[1])


def make_case(error: float = 0.0) -> Case:
    """Return the module with its forms in lower precision."""
    make = partial(MeanOverWidth, error)
    return Case(
        name="mean", call="mean(values, lengths)", make=make, options={"input_size": 3}, forms=list_precisions(make)
    )


def find_broken(case: Case, form: Form) -> set[str]:
    """Return the names of the broken laws."""
    return {law for law, verdict in judge_form(case, form).items() if verdict.outcome == "broken"}


def test_a_fault_is_found_in_every_precision() -> None:
    """A mean over the width depends on batchmates by far more than by rounding."""
    case = make_case()
    for form in case.forms:
        assert {"amount_of_padding_has_no_effect", "batchmates_have_no_effect"} <= find_broken(case, form)


def test_results_that_are_wrong_in_one_precision_alone_are_found() -> None:
    """The other laws compare results in one precision, and hold."""
    case = make_case(0.5)
    assert [find_broken(case, form) for form in case.forms] == [set(), {AGREEMENT}, set()]


def fail() -> nn.Module:
    """Raise an error, as the export of a part that cannot be exported."""
    raise NotImplementedError("there is no such form")


def test_the_page_names_broken_laws_and_missing_forms(tmp_path: Path) -> None:
    """In the table of forms, with the reason."""
    case = make_case(0.5)
    missing = Form(name="exported", make=fail, rounding=0.0)
    judged = Judgement.from_dict(judge(attrs.evolve(case, forms=[case.forms[1], missing])).to_dict())
    write_page(
        tmp_path / "page.md", [JudgedLibrary(name="mine", judgements={0: judged}), JudgedLibrary(name="b", failure="x")]
    )
    page = (tmp_path / "page.md").read_text()
    assert f"| mean | yes | **no**: {AGREEMENT.replace('_', chr(92) + '_')} | · |" in page
    assert "- mean; exported: NotImplementedError: there is no such form" in page
    assert "- b: x" in page
