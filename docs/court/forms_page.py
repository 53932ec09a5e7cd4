"""The section of the page on the forms in which this library's modules are judged."""

from collections.abc import Mapping, Sequence
from typing import Final

from court.forms.exported import TOLERANCE
from court.forms.precision import ROUNDINGS
from court.judge import Judgement
from court.text import quote
from court.verdict import Verdict

_INTRODUCTION: Final = f"""\
## This library in other forms

Every part that this library registers, and every whole model, is judged in the forms in which it is used as well:

- **float32**: as it is made.
- **bfloat16**: after `module.to(torch.bfloat16)`, with input in bfloat16.
- **autocast**: in float32 under `torch.autocast("cpu", torch.bfloat16)`, as `fit(precision="bfloat16")` runs it.
- **exported**: the file in ONNX that `export` writes, run by onnxruntime. Laws about gradients and training do not
  apply.

All laws of the table are asked, with NaN, infinity and 1e38 in the padding, and one more: results agree with those of
the same weights and the same rounded input in float64. What must have equal bits must have them in every form. Other
differences may be {ROUNDINGS} times the precision's `eps`, relative to the largest number of a row's result, or to 1 if
that is below 1: 0.0000019 in float32, and 0.125 in bfloat16 and under autocast. It is twice the sum of 60 roundings of
random signs, about as many as lie between the input and the result of the laws' rows of 20 steps. In exported models
{TOLERANCE:g} is allowed, as by `export`.

**yes** stands for all laws. **no** names the broken ones, and **·** says that there is no such form; the reasons follow
the table.
"""


def write_forms(judgements: Sequence[Judgement]) -> str:
    """Return the section; empty if no module has other forms."""
    judged = [each for each in judgements if each.forms]
    if not judged:
        return ""
    names = list(dict.fromkeys(form for each in judged for form in each.forms))
    lines = [
        _INTRODUCTION,
        f"| part or model | float64 | {' | '.join(names)} |",
        f"| --- | --- |{' --- |' * len(names)}",
    ]
    reasons: dict[str, list[str]] = {}
    for each in judged:
        forms = {"float64": each.verdicts, **each.forms}
        cells = " | ".join(_format(forms[form]) if form in forms else "·" for form in ("float64", *names))
        lines.append(f"| {quote(each.name)} | {cells} |")
        for form, verdicts in each.forms.items():
            for reason in _list_reasons(verdicts):
                reasons.setdefault(f"{form}: {reason}", []).append(each.name)
    lines.append("")
    lines += [f"- {', '.join(map(quote, parts))}; {reason}" for reason, parts in reasons.items()]
    return "\n".join([*lines, ""])


def _format(verdicts: Mapping[str, Verdict]) -> str:
    if _is_missing(verdicts):
        return "·"
    broken = [law for law, verdict in verdicts.items() if verdict.outcome == "broken"]
    return f"**no**: {', '.join(map(quote, broken))}" if broken else "yes"


def _list_reasons(verdicts: Mapping[str, Verdict]) -> Sequence[str]:
    if _is_missing(verdicts):
        return [quote(next(iter(verdicts.values())).reason)]
    return [f"{quote(law)}: {quote(each.reason)}" for law, each in verdicts.items() if each.outcome == "broken"]


def _is_missing(verdicts: Mapping[str, Verdict]) -> bool:
    """Return whether the module has no such form: then no law is asked."""
    return all(verdict.outcome == "unsupported" for verdict in verdicts.values())
