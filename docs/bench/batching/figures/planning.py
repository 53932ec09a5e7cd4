"""How long it takes to know an epoch's batches, held against one sort of its lengths."""

from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, cast

import numpy as np

from bench.batching.corpus import Corpus
from bench.batching.figures.figure import Figure
from bench.batching.ways.all import OURS, ways
from bench.batching.ways.ours import Ours
from bench.batching.ways.way import Room, Way
from bench.record.finding import Finding
from bench.timing.turns import Turns, by_turns, first_times

SORT: Final = "one argsort"

_SORTING: Final = {"AVX512_SKX", "X86_V4", "AVX2", "X86_V3", "ASIMD", "VSX2"}
"""What numpy calls the instructions that it sorts with, from its version 2.0 on."""

_MANY: Final = 1_000_000
"""From how many rows on a plan is to be made sooner than they are sorted; fewer are planned within milliseconds."""


def planning(rows: int, turns: Turns, *, rivals: bool) -> Finding:
    """One plan of so many rows, and one stable argsort; others go through one epoch of their sampler."""
    corpus, notes = Corpus.sentences(rows), list[str]()
    made: Mapping[str, Way] = ways(corpus.lengths, Room(), notes) if rivals else {OURS: Ours(corpus.lengths, Room())}
    runs: dict[str, Callable[[], object]] = {name: partial(_through, way) for name, way in made.items()}
    runs[SORT] = partial(np.argsort, corpus.lengths, kind="stable")
    simd = sorts_with_simd()
    notes.append(f"numpy sorts {'with' if simd else 'without'} SIMD here")
    goal = (0.7 if simd else 2.0) if rows >= _MANY else None
    figure = Figure("planning, in stable argsorts", "ratio", goal=goal, over=SORT)
    return figure.timed(str(corpus), by_turns(runs, turns, first_times(runs)), notes)


def _through(way: Way) -> None:
    deque(way.drawn(0), maxlen=0)


def sorts_with_simd() -> bool:
    """Whether numpy has vector instructions to sort with, and finds them here."""
    said = cast("Mapping[str, Mapping[str, list[str]]]", np.show_config(mode="dicts"))
    extensions = said["SIMD Extensions"]
    return bool(_SORTING & {*extensions.get("baseline", []), *extensions.get("found", [])})
