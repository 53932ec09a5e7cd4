"""How many bytes a row the batches of an epoch take, as they are made and as they are held."""

import gc
import tracemalloc
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from bench.batching.corpus import Corpus
from bench.batching.figures.figure import Figure
from bench.batching.ways.all import OURS, ways
from bench.batching.ways.ours import Ours
from bench.batching.ways.way import Room, Way
from bench.record.finding import Finding

_MANY: Final = 1_000_000
"""From how many rows on bytes a row are what counts: of few, what is as large for any number of them weighs more."""


def memory(rows: int, *, rivals: bool) -> Iterator[Finding]:
    """In the middle of an epoch, and at the peak up to there."""
    corpus, notes = Corpus.sentences(rows), list[str]()
    made = ways(corpus.lengths, Room(), notes) if rivals else {OURS: Ours(corpus.lengths, Room())}
    measured = {name: inspect_stages(way) for name, way in made.items()}
    goals = (8, 24) if rows >= _MANY else (None, None)
    resting = {name: held / rows for name, (held, _) in measured.items()}
    peaks = {name: most / rows for name, (_, most) in measured.items()}
    yield Figure("bytes a row, resting", "bytes", goal=goals[0]).counted(str(corpus), resting, notes)
    yield Figure("bytes a row, made in", "bytes", goal=goals[1]).counted(str(corpus), peaks, notes)


def inspect_stages(way: Way) -> tuple[int, int]:
    """What is held in the middle of an epoch, and what was held at most until then, beside what was there before.

    Python's and numpy's memory is counted; torch's is not, in which its samplers have a permutation.
    """
    batches = sum(1 for _ in way.drawn(0))
    return _traced(lambda: way.drawn(0), batches // 2)


def _traced(draw: Callable[[], Iterator[object]], batches: int) -> tuple[int, int]:
    gc.collect()
    tracemalloc.start()
    try:
        drawn = draw()
        deque(islice(drawn, batches), maxlen=0)
        gc.collect()
        held, most = tracemalloc.get_traced_memory()
        del drawn
    finally:
        tracemalloc.stop()
    return held, most
