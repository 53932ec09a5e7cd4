"""All figures, in the order of the table."""

from collections.abc import Iterator, Sequence
from typing import Final

import attrs

from bench.batching.corpus import CORPORA, Corpus
from bench.batching.figures.loading import loading
from bench.batching.figures.memory import memory
from bench.batching.figures.padding import mates, padding
from bench.batching.figures.planning import planning
from bench.batching.figures.ranks import every_world, ranks
from bench.batching.figures.resuming import resuming, resuming_kept
from bench.batching.figures.tokenizing import tokenizing
from bench.batching.ways.way import Room
from bench.record.finding import Finding
from bench.timing.turns import Turns


@attrs.frozen
class Sizes:
    """How many rows there are.

    Attributes:
        mates: where mates may meet again.
        rivals: where all ways plan, and resume,
        planned: where ours plans alone, and at the most of them its memory is counted,
        kept: and where it reads a plan from its file.
        held: where the memory of all ways is counted.
        loaded: that come out of sampler and collate.
        tokenized: that are texts.
        step: from one number of rows to the next, where plans are made for all numbers of ranks.
    """

    mates: int = 1_000_000
    rivals: int = 1_000_000
    planned: Sequence[int] = (10_000_000,)
    kept: int = 10_000_000
    held: int = 100_000
    loaded: int = 20_000
    tokenized: int = 20_000
    step: int = 1


QUICK: Final = Sizes(
    rivals=100_000, planned=(1_000_000,), kept=1_000_000, held=20_000, loaded=5_000, tokenized=5_000, step=25
)
FULL: Final = Sizes(planned=(10_000_000, 100_000_000), kept=100_000_000, held=1_000_000)


def figures(sizes: Sizes, turns: Turns, own: Corpus | None = None) -> Iterator[Finding]:
    """Every figure: of lengths that are drawn, and of one's own, if there are any."""
    corpora = [Corpus(name, spread.drawn()) for name, spread in CORPORA.items()]
    for corpus in [*corpora, own] if own else corpora:
        yield from padding(corpus)
    yield mates(sizes.mates)
    yield planning(sizes.rivals, turns, rivals=True)
    for rows in sizes.planned:
        yield planning(rows, turns, rivals=False)
    yield from memory(sizes.held, rivals=True)
    yield from memory(max(sizes.planned), rivals=False)
    for room in (Room(max_padded_steps=None), Room()):
        yield loading(sizes.loaded, room, turns)
    yield resuming(sizes.rivals, turns)
    yield resuming_kept(sizes.kept, turns)
    yield from ranks()
    yield every_world(sizes.step)
    yield tokenizing(sizes.tokenized, turns)
