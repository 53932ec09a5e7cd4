"""One epoch from texts to a trained model: ours, bucketed, beside random batches and packed torch, written by hand.

The vocabulary is learned before; cutting texts, making batches, the passes and the optimiser's steps are counted.
Our batches have a budget of padded steps: as many as the random ones have on average, padding included, so that both
ask for about as much memory at once. With little padding more rows go into that, and the optimiser takes fewer steps;
so batches of as many rows as the random ones are measured as well.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, TypeVar

import attrs
import torch
from torch import Tensor, nn

from bench.encoders.ours import switched_off
from bench.encoders.point import Point
from bench.epochs.by_hand import ByHand, collated, shuffled, tokenized
from bench.epochs.corpus import Corpus
from bench.epochs.in_stages import in_stages
from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding
from bench.record.sheet import Sheet
from bench.timing.alike import check_alike
from bench.timing.product import PRODUCT, product
from bench.timing.threads import EVERY, on_threads
from bench.timing.turns import Turns, by_turns, first_times
from pipeline import Bucket, Ids, Pad, Padded
from pipeline_recurrent.native import available

B = TypeVar("B")

BY_ROWS: Final = ", by rows"
"""Behind the name of a candidate of ours: in batches of as many rows as the random ones."""


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

    def operations(self, steps: int) -> float:
        """Those of the encoder's products over so many real steps: there is no epoch without them."""
        point = Point("LSTM", learning=True, lengths="~20", rows=self.batch, features=self.embedded, hidden=self.hidden)
        return point.operations(steps)


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
    random_batches = list(shuffled(corpus, sizes.batch, random.Random(0)))
    steps = sum(int(lengths.sum()) for _, lengths, _ in random_batches)
    budget = sum(ids.numel() for ids, _, _ in random_batches) // len(random_batches)
    epochs: dict[str, Callable[[], object]] = {"by hand": _by_hand(corpus, weights, sizes), PRODUCT: product()}
    engines: dict[str, Callable[[], AbstractContextManager[None]]] = {"uncompiled": switched_off}
    if available() is None:
        engines["compiled"] = nullcontext
    for name, those in engines.items():
        # A budget below the longest row is none that a user would take; that row then stands alone.
        epochs[name] = _ours(corpus, weights, Bucket(max_padded_steps=budget, too_long="alone"), those)
        epochs[name + BY_ROWS] = _ours(corpus, weights, Bucket(rows=sizes.batch), those)
    check_alike(_first_batch(corpus, weights, sizes))
    times = by_turns(epochs, turns, first_times(epochs))
    traits = {**attrs.asdict(sizes), "budget": budget}
    return Finding("epoch", str(sizes), threads, traits, times, operations=sizes.operations(steps))


def _first_batch(corpus: Corpus, weights: ByHand, sizes: Sizes) -> dict[str, list[Tensor]]:
    """Loss and gradients of both models over the same rows."""
    rows = list(corpus.tokenize.map(corpus.examples[: sizes.batch]))
    model = in_stages(weights)
    mine, theirs = model(Pad()(rows)).loss(), weights.loss(collated(tokenized(corpus)[: sizes.batch]))
    return {
        "by hand": [theirs, *torch.autograd.grad(theirs, list(weights.parameters()))],
        "ours": [mine, *torch.autograd.grad(mine, list(model.parameters()))],
    }


def _ours(
    corpus: Corpus, weights: ByHand, bucket: Bucket[Ids], engines: Callable[[], AbstractContextManager[None]]
) -> Callable[[], None]:
    """One epoch in batches of rows of like length."""
    data, model = corpus.tokenize >> bucket >> Pad(), in_stages(weights)

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
    headings = ("one epoch", "threads", "by hand", *_HEADED.values(), "share of the matrix peak")
    return Sheet("One epoch, from texts to a trained model", headings, [_cells(each) for each in findings], [_NOTE])


def _cells(finding: Finding) -> list[str]:
    ratios = [finding.ratio("by hand", name) for name in _HEADED]
    cells = ["" if ratio is None else str(ratio) for ratio in ratios]
    shares = [finding.share(name) for name in ("by hand", "uncompiled", "compiled")]
    peak = ", ".join(f"{share:.0%}" for share in shares if share is not None)
    return [finding.point, str(finding.threads), str(finding.times["by hand"]), *cells, peak]


_NOTE: Final = (
    "Above 1, ours is the faster one. By hand: random batches, packed torch. Ours: rows of like length, in batches "
    "with a budget of padded steps, the mean of the random ones', or of as many rows. Shares are those of the "
    "encoder's products over real steps, by hand, without a compiler and with one: at 100% nothing else is done."
)

_HEADED: Final = {
    "uncompiled": "over auto without a compiler",
    "compiled": "over auto",
    f"uncompiled{BY_ROWS}": "without a compiler, by rows",
    f"compiled{BY_ROWS}": "auto, by rows",
}
"""Our candidates, and what their columns are called."""


EPOCH: Final = Measurement("epoch", find, sheet)
