"""Every registered pooling, on vectors that stand for hidden vectors."""

from collections.abc import Sequence

from court.libraries.ours.model import Part
from court.libraries.ours.registered import choose_options, list_names
from court.libraries.ours.states import AsStates
from pipeline import Pool


def list_pools() -> Sequence[Part]:
    """Return a part per pooling. The final state is that of an encoder, and is judged there."""
    return [_judge(name) for name in list_names("pools") if name != "final"]


def _judge(name: str) -> Part:
    return Part(
        name=f'Pool("{name}")',
        make=lambda: AsStates() >> Pool(name, **choose_options("pools", name)),
        each="row",
    )
