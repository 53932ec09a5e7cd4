"""Whether all ranks get as many batches, and every row is served once."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from bench.batching.corpus import Corpus, Lengths
from bench.batching.epoch import Batch, Epoch
from bench.batching.figures.figure import Figure
from bench.batching.ways.all import OURS, ways
from bench.batching.ways.way import Room, Way
from bench.record.finding import Finding
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes

ROWS: Final = 1_003
"""17 x 59: they go round for none of these numbers of ranks."""

WORLDS: Final = range(2, 9)

_MOST_ROWS: Final = 200
_MOST_RANKS: Final = 16
_LONGEST: Final = 16

POLICIES: Final[Sequence[Policy]] = (
    Rows(3),
    Budget(64),
    Budget(64, quadratic=16),
    Boundaries((4, 8), max_padded_steps=64),
    Shapes([(4, 16), (8, 8)]),
)
"""One of each kind, with room for few rows."""


def ranks() -> Iterator[Finding]:
    """The worst of all numbers of ranks."""
    lengths, notes = Corpus.sentences(ROWS).lengths, list[str]()
    found = {
        name: [dealt(way, world_size) for world_size in WORLDS] for name, way in ways(lengths, Room(), notes).items()
    }
    point = f"{ROWS:,} rows, ~20, {WORLDS[0]} to {WORLDS[-1]} ranks"
    for name, part in (
        ("batches that a rank is behind another", 0),
        ("empty batches", 1),
        ("rows lost or repeated", 2),
    ):
        worst = {way: max(each[part] for each in worlds) for way, worlds in found.items()}
        yield Figure(name, "number", goal=0).counted(point, worst, notes)


def dealt(way: Way, world_size: int) -> tuple[int, int, int]:
    """By how many batches ranks differ, how many batches are empty, and how many rows are lost or repeated."""
    given: list[list[Batch]] = [list(way.batches(0, rank, world_size)) for rank in range(world_size)]
    counts = [len(batches) for batches in given]
    every = [batch for batches in given for batch in batches]
    return max(counts) - min(counts), sum(not len(batch) for batch in every), Epoch.of(way.lengths, every).astray


def every_world(step: int, policies: Sequence[Policy] = POLICIES) -> Finding:
    """Plans for 1 to 16 ranks of 0 to 200 rows, or of every so many of these, in which anything is amiss.

    Amiss is a rank with fewer batches than another, a batch of none, and a row that is not served once, or once more
    where the plan says that it is repeated.
    """
    lengths = Corpus.sentences(_MOST_ROWS).lengths.clip(1, _LONGEST)
    rows, worlds = range(0, _MOST_ROWS + 1, step), range(1, _MOST_RANKS + 1)
    amiss = sum(
        _amiss(lengths[:few], policy, world_size) for policy in policies for few in rows for world_size in worlds
    )
    point = (
        f"{len(policies) * len(rows) * len(worlds):,} plans of up to {_MOST_ROWS} rows for up to {_MOST_RANKS} ranks"
    )
    return Figure("plans in which anything is amiss", "number", goal=0).counted(point, {OURS: amiss})


def _amiss(lengths: Lengths, policy: Policy, world_size: int) -> bool:
    plan = Plan.of(lengths, policy, world_size=world_size)
    given = [list(plan.rank(rank)) for rank in range(world_size)]
    every = [batch for batches in given for batch in batches]
    served = np.bincount(np.concatenate([plan.order[:0], *every]), minlength=len(lengths))
    wanted = 1 + np.bincount(plan.repeated, minlength=len(lengths))
    uneven = len({len(batches) for batches in given}) > 1
    return uneven or not all(map(len, every)) or not np.array_equal(served, wanted)
