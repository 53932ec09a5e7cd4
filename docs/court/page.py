"""Write the results as a page: laws by modules, and below them each call and what was found."""

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs
import torch

from court.forms_page import write_forms
from court.judge import LAWS, NAN, Judgement
from court.not_tried import NOT_TRIED
from court.text import quote
from court.verdict import Verdict

_HEADINGS: Final[Mapping[str, str]] = {
    "evaluation_is_deterministic": "same bits",
    "padding_values_have_no_effect": "values in padding",
    "no_gradient_reaches_padding": "gradient of padding",
    "causal_steps_do_not_look_ahead": "causal",
    "batchmates_have_no_effect": "batchmates",
    "row_order_has_no_effect": "order",
    "amount_of_padding_has_no_effect": "amount of padding",
    "empty_rows_have_no_effect": "empty rows",
    "training_obeys_laws_of_rows": "training",
    "many_and_long_rows_are_independent": "long rows",
    NAN: "NaN in padding",
}

_INTRODUCTION: Final = """\
# The laws, and who keeps them

Modules of public libraries over rows of unequal length, and those of this library, judged by the same
[laws](testing-modules.md#the-laws): does a row's result depend on its padding, its batchmates or its place? Each module
is called as the documentation of its library says; the calls are below. `nox -s court` installs the libraries, judges
them and writes this page.

- **yes**: the law holds. **no**: it is broken, with the largest difference of numbers that should be equal, if known.
- **·**: the library's documentation, or the form of the call, rules it out; the reason is below.
- Padding holds ordinary numbers. The last column says whether NaN, infinity and 1e38 in it do no harm either, which no
  other library promises.
- Modules are tested in float64 with random weights, so that a difference is not rounding. A module that fails a law may
  still be right for what you do: if all rows have one length, most of these differences vanish.
"""


@attrs.frozen(kw_only=True)
class JudgedLibrary:
    """The results of one library.

    Attributes:
        name: its name.
        versions: the version of each of its packages.
        better: what it does better than this library.
        calls: how all its modules are called, if they are called alike.
        judgements: the results of its modules, by their numbers.
        failure: the reason why it could not be judged; empty if it was.
    """

    name: str
    versions: Mapping[str, str] = attrs.field(factory=dict[str, str])
    better: str = ""
    calls: str = ""
    judgements: Mapping[int, Judgement] = attrs.field(factory=dict[int, Judgement])
    failure: str = ""


def write_page(file: Path, libraries: Sequence[JudgedLibrary]) -> None:
    """Write the page."""
    judged = [library for library in libraries if not library.failure]
    modules = sum(len(library.judgements) for library in judged)
    machine = f"Python {platform.python_version()}, torch {torch.__version__}"
    parts = [
        _INTRODUCTION,
        f"{modules} modules of {len(judged)} libraries; {machine}.\n",
        _make_table(judged),
        *filter(None, (write_forms([*library.judgements.values()]) for library in judged)),
        *(_describe(library) for library in judged),
    ]
    failures = [f"- {library.name}: {quote(library.failure)}" for library in libraries if library.failure]
    failures += [f"- {name}: {reason}." for name, reason in NOT_TRIED.items()]
    parts.append("\n".join(["## Not judged\n", *failures, ""]))
    file.write_text("\n".join(parts), encoding="utf-8")


def _make_table(libraries: Sequence[JudgedLibrary]) -> str:
    lines = [
        f"| library | module | {' | '.join(_HEADINGS[law] for law in LAWS)} |",
        f"| --- | --- |{' --- |' * len(LAWS)}",
    ]
    for library in libraries:
        for judgement in library.judgements.values():
            cells = " | ".join(_format(judgement.verdicts[law]) for law in LAWS)
            lines.append(f"| {library.name} | {judgement.name} | {cells} |")
    return "\n".join([*lines, ""])


def _format(verdict: Verdict) -> str:
    if verdict.outcome == "holds":
        return "yes" if verdict.gap is None else "yes (float32)"
    if verdict.outcome == "unsupported":
        return "·"
    return "**no**" if verdict.gap is None else f"**no** ({verdict.gap:.2g})"


def _describe(library: JudgedLibrary) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in library.versions.items())
    lines = [f"## {library.name}\n", f"{versions}.\n"]
    if library.better:
        lines.append(f"{library.better}\n")
    if library.calls:
        lines.append(f"{library.calls}\n")
    for judgement in library.judgements.values():
        found = [
            f"- {law}: {'' if verdict.outcome == 'broken' else 'not asked, '}{quote(verdict.reason)}"
            for law, verdict in judgement.verdicts.items()
            if verdict.outcome != "holds" and law != "causal_steps_do_not_look_ahead"
        ]
        if library.calls and not found and not judgement.note:
            continue
        lines += [f"### {judgement.name}\n", f"```text\n{judgement.call.strip()}\n```\n"]
        if judgement.note:
            lines.append(f"{judgement.note}\n")
        if found:
            lines.append("\n".join([*found, ""]))
    return "\n".join(lines)
