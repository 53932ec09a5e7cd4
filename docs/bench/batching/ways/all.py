"""All ways, by name."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from bench.absent import AbsentError
from bench.batching.corpus import Lengths
from bench.batching.ways.lhotse import Lhotse
from bench.batching.ways.ours import Ours
from bench.batching.ways.shuffled import Shuffled
from bench.batching.ways.transformers import Transformers
from bench.batching.ways.way import Room, Way

OURS: Final = "ours"

Make: TypeAlias = Callable[[Lengths, Room], Way]

WAYS: Final[Mapping[str, Make]] = {OURS: Ours, "lhotse": Lhotse, "transformers": Transformers, "torch": Shuffled}


def ways(lengths: Lengths, room: Room, notes: list[str]) -> dict[str, Way]:
    """All that are there; that one is absent is noted."""
    found: dict[str, Way] = {}
    for name, make in WAYS.items():
        try:
            found[name] = make(lengths, room)
        except AbsentError as error:
            notes.append(f"{name}: {error}")
    return found
