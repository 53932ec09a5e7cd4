"""This library: every registered part and every whole model, in all forms in which users run them."""

from collections.abc import Sequence
from typing import Final

from court.case import Case, Library
from court.libraries.ours.attentions import list_attentions
from court.libraries.ours.embedders import list_embedders
from court.libraries.ours.encoders import list_encoders
from court.libraries.ours.heads import list_heads
from court.libraries.ours.models import list_models
from court.libraries.ours.pools import list_pools
from court.libraries.ours.stages import list_stages

LISTS: Final = (
    list_encoders,
    list_pools,
    list_attentions,
    list_embedders,
    list_stages,
    list_heads,
    list_models,
)
"""The functions that list the parts of each kind, in the order of the page."""


def list_cases() -> Sequence[Case]:
    """Return every part that computes on batches, and whole models."""
    return [part.to_case() for list_parts in LISTS for part in list_parts()]


LIBRARY = Library(
    name="ragged-pipeline",
    packages=["ragged-pipeline"],
    list_cases=list_cases,
    calls="Each part, in the chain of stages that it needs, gets `Padded(Vectors, values, lengths)`, "
    "`Padded(Ids, ids, lengths)`, or the same with pairs, documents or spelled words. Sizes are 4, of 9 ids.",
)
