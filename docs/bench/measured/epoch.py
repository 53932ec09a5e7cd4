"""One epoch from texts to a trained model: ours, bucketed, beside random batches and packed torch, written by hand.

The vocabulary is learned before; cutting texts, making batches, the passes and the optimiser's steps are counted.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeVar

import attrs
import torch
from torch import Tensor, nn

from bench.encoders.ours import switched_off
from bench.epochs.by_hand import ByHand, collated, shuffled, tokenized
from bench.epochs.corpus import Corpus
from bench.epochs.in_stages import in_stages
from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding
from bench.record.sheet import Sheet
from bench.timing.alike import check_alike
from bench.timing.threads import EVERY, on_threads
from bench.timing.turns import Turns, by_turns, first_times
from pipeline import Bucket, Ids, Pad, Padded
from pipeline_recurrent.native import available

B = TypeVar("B")


@attrs.frozen
class Sizes:
    """Of the texts, the batches and the model."""

    rows: int = 2_000
    words: int = 5_000
    batch: int = 32
    embedded: int = 100
    hidden: int = 128

    def __str__(self) -> str:
        return f"{self.rows:,} rows of ~20 words, batches of {self.batch}, BiLSTM {self.embedded} to h{self.hidden}"


def find(extent: Extent) -> Iterator[Finding]:
    """The same epoch on one thread, and on all."""
    del extent
    for threads in ("one", "all") if EVERY > 1 else ("one",):
        with on_threads(threads) as number:
            yield measured(Sizes(), number, Turns(most=7))


def measured(sizes: Sizes, threads: int, turns: Turns) -> Finding:
    """Loss and gradients of one batch are compared, then epochs take turns."""
    corpus = Corpus.of(sizes.rows, sizes.words)
    torch.default_generator.manual_seed(0)
    weights = ByHand(corpus.tokenize.vocab_size, sizes.embedded, sizes.hidden)
    epochs = {"by hand": _by_hand(corpus, weights, sizes), "uncompiled": _ours(corpus, weights, sizes, switched_off)}
    if available() is None:
        epochs["compiled"] = _ours(corpus, weights, sizes, nullcontext)
    check_alike(_first_batch(corpus, weights, sizes))
    times = by_turns(epochs, turns, first_times(epochs))
    return Finding("epoch", str(sizes), threads, attrs.asdict(sizes), times)


def _first_batch(corpus: Corpus, weights: ByHand, sizes: Sizes) -> dict[str, list[Tensor]]:
    """Loss and gradients of both models over the same rows."""
    rows = list(corpus.tokenize.over(corpus.examples[: sizes.batch]))
    model = in_stages(weights)
    mine, theirs = model(Pad()(rows)).loss(), weights.loss(collated(tokenized(corpus)[: sizes.batch]))
    return {
        "by hand": [theirs, *torch.autograd.grad(theirs, list(weights.parameters()))],
        "ours": [mine, *torch.autograd.grad(mine, list(model.parameters()))],
    }


def _ours(
    corpus: Corpus, weights: ByHand, sizes: Sizes, engines: Callable[[], AbstractContextManager[None]]
) -> Callable[[], None]:
    """One epoch in batches of rows of like length."""
    data, model = corpus.tokenize >> Bucket(rows=sizes.batch) >> Pad(), in_stages(weights)

    def loss(batch: Padded[Ids]) -> Tensor:
        return model(batch).loss()

    trained = _trained(lambda: data(corpus.examples), loss, model)

    def run() -> None:
        with engines():
            trained()

    return run


def _by_hand(corpus: Corpus, weights: ByHand, sizes: Sizes) -> Callable[[], None]:
    """One epoch in batches as they come out of a shuffle."""
    model, order = ByHand(corpus.tokenize.vocab_size, sizes.embedded, sizes.hidden), random.Random(0)
    model.load_state_dict(weights.state_dict())
    return _trained(lambda: shuffled(corpus, sizes.batch, order), model.loss, model)


def _trained(batches: Callable[[], Iterable[B]], loss: Callable[[B], Tensor], model: nn.Module) -> Callable[[], None]:
    """One epoch of whatever batches, by plain gradient descent."""
    optimiser = _descent(model)

    def run() -> None:
        for batch in batches():
            optimiser.zero_grad()
            torch.autograd.backward(loss(batch))
            optimiser.step()

    return run


def _descent(model: nn.Module) -> torch.optim.Optimizer:
    """Plain gradient descent, as its base class: torch leaves the types of its own open."""
    return torch.optim.SGD(model.parameters(), lr=0.01)


def sheet(findings: Sequence[Finding]) -> Sheet:
    """A row for each number of threads."""
    headings = ("one epoch", "threads", "by hand", "over auto without a compiler", "over auto")
    notes = ("Above 1, ours is the faster one. By hand: random batches, packed torch. Ours: rows of like length.",)
    return Sheet("One epoch, from texts to a trained model", headings, [_cells(each) for each in findings], notes)


def _cells(finding: Finding) -> list[str]:
    ratios = [finding.ratio("by hand", name) for name in ("uncompiled", "compiled")]
    cells = ["" if ratio is None else str(ratio) for ratio in ratios]
    return [finding.point, str(finding.threads), str(finding.times["by hand"]), *cells]


EPOCH: Final = Measurement("epoch", find, sheet)
