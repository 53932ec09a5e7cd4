"""Whether all ranks get as many batches, and every row is served once."""

from collections.abc import Iterator
from typing import Final

from bench.batching.corpus import Corpus
from bench.batching.epoch import Batch, Epoch
from bench.batching.figures.figure import Figure
from bench.batching.ways.all import ways
from bench.batching.ways.way import Room, Way
from bench.record.finding import Finding

ROWS: Final = 1_003
"""17 x 59: they go round for none of these numbers of ranks."""

WORLDS: Final = range(2, 9)


def ranks() -> Iterator[Finding]:
    """The worst of all numbers of ranks."""
    lengths, notes = Corpus.sentences(ROWS).lengths, list[str]()
    found = {name: [dealt(way, world) for world in WORLDS] for name, way in ways(lengths, Room(), notes).items()}
    point = f"{ROWS:,} rows, ~20, {WORLDS[0]} to {WORLDS[-1]} ranks"
    for name, part in (
        ("batches that a rank is behind another", 0),
        ("empty batches", 1),
        ("rows lost or repeated", 2),
    ):
        worst = {way: max(each[part] for each in worlds) for way, worlds in found.items()}
        yield Figure(name, "number", goal=0).counted(point, worst, notes)


def dealt(way: Way, world: int) -> tuple[int, int, int]:
    """By how many batches ranks differ, how many batches are empty, and how many rows are lost or repeated."""
    given: list[list[Batch]] = [list(way.batches(0, rank, world)) for rank in range(world)]
    counts = [len(batches) for batches in given]
    every = [batch for batches in given for batch in batches]
    return max(counts) - min(counts), sum(not len(batch) for batch in every), Epoch.of(way.lengths, every).astray
