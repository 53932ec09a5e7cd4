"""How long it takes to stand in the middle of an epoch again."""

import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from typing import Final

import numpy as np

from bench.batching.corpus import Corpus
from bench.batching.epoch import Batch
from bench.batching.figures.figure import Figure
from bench.batching.ways.all import OURS, ways
from bench.batching.ways.ours import Ours
from bench.batching.ways.way import Room, Way
from bench.record.finding import Finding
from bench.timing.alike import UnequalError
from bench.timing.turns import Turns, by_turns, first_times
from pipeline.batching import Plan

PLAN: Final = "one planning"

_CLOSE: Final = 1.1
"""One planning, but for what a busy machine adds to either."""

_CHECKED: Final = 10_000
"""Of how many rows the rest of an epoch is compared: of many more, others need minutes for it."""


def resuming(rows: int, turns: Turns) -> Finding:
    """To the first batch of what is left behind the middle of the epoch."""
    corpus, notes = Corpus.sentences(rows), list[str]()
    few = Corpus.sentences(min(rows, _CHECKED)).lengths
    runs: dict[str, Callable[[], object]] = {}
    for name, way in ways(corpus.lengths, Room(), notes).items():
        small = ways(few, Room(), [])[name]
        batches = list(small.batches(0))
        middle = len(batches) // 2
        if not alike(small.resumed(0, middle), batches[middle:]):
            if name == OURS:
                raise UnequalError("what is left of a plan must be its rest, but is something else; mend it.")
            notes.append(f"{name} goes on with other batches")
        runs[name] = partial(_first, way, middle * rows // len(few))
    runs[PLAN] = partial(Ours(corpus.lengths, Room()).plan, 0)
    figure = Figure("resuming in the middle", "seconds", goal=_CLOSE, over=PLAN)
    return figure.timed(str(corpus), by_turns(runs, turns, first_times(runs)), notes)


def resuming_kept(rows: int, turns: Turns) -> Finding:
    """The same, from a plan that was kept as a file."""
    corpus = Corpus.sentences(rows)
    plan = Ours(corpus.lengths, Room()).plan(0)
    middle = len(plan) // 2
    cursor = plan.cursor(middle)
    with tempfile.TemporaryDirectory() as folder:
        path = plan.save(folder)
        if not alike(Plan.read(path).left(cursor), islice(plan, middle, None)):
            raise UnequalError("what is left of a kept plan must be its rest, but is something else; mend it.")

        def first() -> object:
            return Plan.read(path).left(cursor)[0].tolist()

        runs = {OURS: first}
        times = by_turns(runs, turns, first_times(runs))
    return Figure("resuming from the kept file", "seconds", goal=0.1).timed(str(corpus), times)


def alike(some: Iterable[Batch], others: Iterable[Batch]) -> bool:
    """Whether batches are the same, row by row."""
    one, other = list(some), list(others)
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def _first(way: Way, steps: int) -> object:
    return next(way.resumed(0, steps))
