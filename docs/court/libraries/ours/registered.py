"""The parts that this library registers, by kind, and their options."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

from court.libraries.ours.inputs import SIZE
from pipeline.extend import registry
from pipeline.registry import Catalogue

PartKind: TypeAlias = Literal["encoders", "attentions", "pools", "heads", "embedders", "stages"]
"""The kinds of registered parts that compute on batches."""

_SMALL: Final[Mapping[str, Any]] = {"input_size": SIZE, "hidden_size": SIZE, "num_heads": 2}
"""The values of options, for the parts that have them."""


def list_names(kind: PartKind) -> Sequence[str]:
    """Return the names of the parts that are installed with this library."""
    return [offer.name for offer in _get_catalogue(kind).offers if offer.plugin.ships_with_library]


def choose_options(kind: PartKind, name: str) -> dict[str, Any]:
    """Return small values for the options of sizes that a part takes."""
    catalogue = _get_catalogue(kind)
    takes = catalogue.parameters(catalogue.offer(name))
    return {option: value for option, value in _SMALL.items() if option in takes}


def make(kind: PartKind, name: str) -> Any:  # noqa: ANN401 - a part of the kind
    """Create a part by its name, with small sizes."""
    return _get_catalogue(kind).make(name, **choose_options(kind, name))


def _get_catalogue(kind: PartKind) -> Catalogue[Any]:
    found: Catalogue[Any] = getattr(registry(), kind)
    return found
