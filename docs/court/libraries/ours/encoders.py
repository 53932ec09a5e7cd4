"""Every registered encoder: its hidden vectors, and its final states."""

from collections.abc import Mapping, Sequence
from typing import Final

from court.libraries.ours.model import Part
from court.libraries.ours.registered import choose_options, list_names, make
from pipeline import Encode, Identity, Pool


def list_encoders() -> Sequence[Part]:
    """Return a part per encoder, and the final states of one that reads forward, both ways, and windows."""
    names = list_names("encoders")
    return [*map(_judge_states, names), *map(_judge_final_states, ("lstm", "bigru", "gated_cnn"))]


_NOTES: Final[Mapping[str, str]] = {
    "restarting": "It reads 3 of 4 features. In bfloat16 on CPUs with AMX, torch's product of an odd number of "
    "features lets NaN in a row reach other rows, as in `(values @ weight.T)[0]` for 73 x 5 values that are NaN "
    "from row 1 on: probably it multiplies numbers of the next row by 0. Rows of finite numbers had no effect when "
    "this was tried.",
}
"""What a reader should know of an encoder."""


def _judge_states(name: str) -> Part:
    return Part(
        name=f'Encode("{name}")',
        make=lambda: Identity() >> Encode(name, **choose_options("encoders", name)),
        each="step",
        causal=bool(make("encoders", name).causal),
        note=_NOTES.get(name, ""),
    )


def _judge_final_states(name: str) -> Part:
    return Part(
        name=f'Encode("{name}") >> Pool("final")',
        make=lambda: Identity() >> Encode(name, **choose_options("encoders", name)) >> Pool("final"),
        each="row",
    )
