"""What is computed for nothing, and whether length became an order: figures of epochs alone, which are never noisy."""

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from bench.batching.corpus import BUDGET, Corpus
from bench.batching.epoch import Epoch
from bench.batching.figures.figure import Figure
from bench.batching.ways.all import OURS, ways
from bench.batching.ways.ours import OnePool
from bench.batching.ways.sorted_once import sorted_once
from bench.batching.ways.way import Room
from bench.record.finding import Finding

FAIRSEQ: Final = "fairseq's cut"
EIGHTS: Final = "the same in multiples of 8 rows"

_MANY: Final = 100_000
"""From how many rows on the default is to waste little;"""

_VERY_MANY: Final = 1_000_000
"""and from how many on mates are to meet seldom."""


def padding(corpus: Corpus) -> Iterator[Finding]:
    """Of two epochs of each way."""
    notes: list[str] = []
    made = ways(corpus.lengths, Room(), notes)
    this, following = (
        {name: Epoch.of(corpus.lengths, way.batches(number)) for name, way in made.items()} for number in (0, 1)
    )
    over = Figure("largest batch, in budgets", "ratio", goal=1.0)
    most = {name: int(epoch.padded.max()) / BUDGET for name, epoch in this.items()}
    yield over.counted(str(corpus), most, notes)
    once = Figure("rows left out or served twice", "number", goal=0)
    yield once.counted(str(corpus), {name: epoch.astray for name, epoch in this.items()}, notes)
    yield _one_pool(corpus)
    share = Figure("padded share, as it comes", "share", goal=0.02 if len(corpus.lengths) >= _MANY else None)
    yield share.counted(str(corpus), {name: epoch.wasted for name, epoch in this.items()}, notes)
    random = Figure("correlation of adjacent batches", "ratio", goal=max(0.05, 2 / len(this[OURS].sizes) ** 0.5))
    yield random.counted(str(corpus), {name: abs(epoch.correlation) for name, epoch in this.items()}, notes)
    yield _mates(len(corpus.lengths)).counted(str(corpus), _again(this, following), notes)


def _one_pool(corpus: Corpus) -> Finding:
    """The least padding, beside fairseq's; batches that are smaller pad less, so it is said how many there are."""
    lengths = corpus.lengths
    epochs = {
        OURS: Epoch.of(lengths, OnePool(lengths, Room()).batches(0)),
        FAIRSEQ: Epoch.of(lengths, sorted_once(lengths, BUDGET)),
        EIGHTS: Epoch.of(lengths, sorted_once(lengths, BUDGET, multiple=8)),
    }
    figure = Figure("padded share, one pool", "share", goal=epochs[FAIRSEQ].wasted)
    batches = ", ".join(f"{len(epoch.sizes):,}" for epoch in epochs.values())
    return figure.counted(str(corpus), {name: epoch.wasted for name, epoch in epochs.items()}, [f"{batches} batches"])


def mates(rows: int) -> Finding:
    """Whether mates meet again among so many rows; ours alone, since others take minutes."""
    corpus = Corpus.sentences(rows)
    plans = ways(corpus.lengths, Room(), [])[OURS]
    this, following = ({OURS: Epoch.of(corpus.lengths, plans.batches(number))} for number in (0, 1))
    return _mates(rows).counted(str(corpus), _again(this, following))


def _mates(rows: int) -> Figure:
    figure = Figure("mates that meet again", "share")
    return attrs.evolve(figure, goal=0.03) if rows >= _VERY_MANY else figure


def _again(this: Mapping[str, Epoch], following: Mapping[str, Epoch]) -> dict[str, float]:
    return {name: epoch.mates_again(following[name]) for name, epoch in this.items()}
