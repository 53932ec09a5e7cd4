"""Every registered attention in every stage that takes one."""

from collections.abc import Mapping, Sequence
from typing import Any

from court.libraries.ours.inputs import COUNT, PAIRS, SIZE
from court.libraries.ours.model import Part
from court.libraries.ours.registered import choose_options, list_names, make
from court.libraries.ours.states import AsStates
from pipeline import Attend, AttendEarlier, AttendLocal, CrossAttend, Embed, Encode, Pack, TextPair


def list_attentions() -> Sequence[Part]:
    """Return a part per attention and stage."""
    return [part for name in list_names("attentions") for part in _list_stages(name)]


def _list_stages(name: str) -> Sequence[Part]:
    options = choose_options("attentions", name)
    parts = [
        Part(
            name=f'Attend("{name}")',
            make=lambda: AsStates() >> Attend(name, **options),
            each="step",
        ),
        Part(
            name=f'AttendEarlier("{name}")',
            make=lambda: AsStates() >> AttendEarlier(name, **options),
            each="step",
            causal=True,
        ),
    ]
    # The other stages have code for each class of attentions, of which one is enough.
    if name == _find_first_alike(name):
        parts += _list_other_stages(name, options)
    return parts


def _list_other_stages(name: str, options: Mapping[str, Any]) -> Sequence[Part]:
    parts = [
        Part(
            name=f'Attend("{name}", window=2)',
            make=lambda: AsStates() >> Attend(name, window=2, **options),
            each="step",
        ),
        Part(
            name=f'CrossAttend("{name}")',
            make=lambda: (
                Pack(TextPair)
                >> CrossAttend(
                    TextPair.first >> (Embed(COUNT, SIZE) >> Encode("gru", hidden_size=SIZE)),
                    TextPair.second >> (Embed(COUNT, SIZE) >> Encode("bigru", hidden_size=SIZE // 2)),
                    name,
                    **options,
                )
            ),
            each="step",
            inputs=PAIRS,
        ),
    ]
    if not _describe(name)[1]:  # AttendLocal rejects others
        local = Part(
            name=f'AttendLocal("{name}", window=2)',
            make=lambda: AsStates() >> AttendLocal(name, window=2, **options),
            each="step",
        )
        parts.append(local)
    return parts


def _find_first_alike(name: str) -> str:
    """Return the first registered attention for which stages do the same as for this one."""
    return next(other for other in list_names("attentions") if _describe(other) == _describe(name))


def _describe(name: str) -> tuple[bool, bool]:
    """Return whether scores are inner products, and whether contexts are not means of the keys."""
    attention = make("attentions", name)
    return attention.inner_product, attention.projects_values or attention.overrides_mixing
