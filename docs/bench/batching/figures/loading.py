"""How many rows a second come out of sampler and collate, in this process."""

from collections.abc import Callable
from functools import partial

import attrs
import torch
from torch import Tensor

from bench.batching.corpus import Corpus
from bench.batching.epoch import Epoch
from bench.batching.figures.figure import Figure
from bench.batching.ways.all import OURS, ways
from bench.batching.ways.ours import Ours
from bench.batching.ways.way import Loading, Room
from bench.record.finding import Finding
from bench.timing.alike import check_alike
from bench.timing.turns import Turns, by_turns, first_times
from pipeline.data.order import to_ints


def loading(rows: int, room: Room, turns: Turns) -> Finding:
    """One epoch of each way: that all give the same rows is checked first.

    Ways that count no steps get as many rows a batch as ours have on average.
    """
    corpus, notes = Corpus.sentences(rows), list[str]()
    if room.max_padded_steps is not None:
        batches = len(Epoch.of(corpus.lengths, Ours(corpus.lengths, room).batches(0)).sizes)
        room = attrs.evolve(room, rows=-(-rows // batches))
    ids = drawn(corpus)
    loads = {name: way.loading(ids) for name, way in ways(corpus.lengths, room, notes).items()}
    check_alike({name: [gathered(load)] for name, load in loads.items()}, tolerance=0.0)
    runs: dict[str, Callable[[], object]] = {name: partial(_through, load) for name, load in loads.items()}
    figure = Figure("rows out of sampler and collate", "rate", goal=1.0, at_least=True, over=OURS, count=rows)
    return figure.timed(f"{corpus}, {room} a batch", by_turns(runs, turns, first_times(runs)), notes)


def drawn(corpus: Corpus) -> list[list[int]]:
    """Ids for the rows of a corpus; none is 0, which pads."""
    generator = torch.Generator().manual_seed(0)
    every = torch.randint(1, 5_000, (int(corpus.lengths.sum()),), generator=generator)
    sizes: list[int] = corpus.lengths.tolist()
    return [to_ints(row) for row in torch.split(every, sizes)]


def gathered(load: Loading) -> Tensor:
    """How many rows an epoch has, and sums over their ids: the same in whatever order and batches they come."""
    found = [(len(batch), int(batch.sum()), int((batch.sum(1) ** 2).sum())) for batch in load()]
    return torch.tensor(found).sum(0)


def _through(load: Loading) -> None:
    for _ in load():
        pass
