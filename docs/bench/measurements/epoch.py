"""One epoch from texts to a trained model: the library with bucketed batches, beside random batches written by hand.

The tokenizer is trained beforehand. Tokenization, batching, forward and backward passes and optimizer steps are timed.

Our batches have a budget of padded steps: the mean number of padded steps of the random batches, so that both take
about the same memory. With less padding, more rows fit into this budget, and an epoch has fewer optimizer steps.
Therefore batches with the same number of rows as the random ones are measured too.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Self, TypeAlias, TypeVar, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from bench.batching.data import draw_texts
from bench.encoders.candidates import disable_native
from bench.encoders.points import Point
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    ALL_THREADS,
    MATMUL,
    Rounds,
    check_equal,
    make_matmul,
    time_first_runs,
    time_interleaved,
    use_threads,
)
from pipeline import Bucket, Chain, Classify, Embed, Encode, Example, Ids, Pack, Pad, Padded, Pool, Scores, Tokenize
from pipeline_recurrent import LSTM
from pipeline_recurrent.native import available

B = TypeVar("B")

CLASSES: Final = 6

BY_ROWS: Final = ", by rows"
"""Suffix of our candidates whose batches have the same number of rows as the random ones."""

Collated: TypeAlias = tuple[Tensor, Tensor, Tensor]
"""Padded ids, lengths, and targets."""

Model: TypeAlias = Chain[Padded[Ids], Scores[int]]


@attrs.frozen
class Sizes:
    """The sizes of the data, the batches and the model."""

    rows: int = 2_000
    words: int = 5_000
    batch: int = 32
    embedding: int = 100
    hidden: int = 128

    def __str__(self) -> str:
        model = f"BiLSTM, input {self.embedding}, hidden {self.hidden}"
        return f"{self.rows:,} rows of ~20 words, batches of {self.batch}, {model}"

    def count_operations(self, steps: int) -> float:
        """Count the operations of the encoder's products over a number of real steps."""
        point = Point(
            "LSTM", training=True, lengths="~20", rows=self.batch, features=self.embedding, hidden=self.hidden
        )
        return point.count_operations(steps)


@attrs.frozen
class Texts:
    """Texts with classes, and their tokenizer."""

    examples: Sequence[Example[str]]
    tokenize: Tokenize

    @classmethod
    def draw(cls, rows: int, words: int) -> Self:
        """Draw texts and classes, the same at every call, and train the tokenizer."""
        texts, draw = draw_texts(rows, words), random.Random(0)
        examples = [Example(text, target=draw.randrange(CLASSES)) for text in texts]
        return cls(examples, Tokenize.train(texts, offsets=False))


class HandWritten(nn.Module):
    """The model written in torch: embed, pack, LSTM, unpack, mask, maximum over time, linear layer."""

    def __init__(self, vocabulary: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, CLASSES)

    def compute_loss(self, batch: Collated) -> Tensor:
        """Compute the cross-entropy of a batch."""
        ids, lengths, targets = batch
        rows = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        packed = cast("tuple[PackedSequence, object]", self.lstm(rows))[0]
        states, _ = pad_packed_sequence(packed, batch_first=True)
        padding = torch.arange(states.shape[1]) >= lengths.unsqueeze(1)
        scores = cast("Tensor", self.linear(states.masked_fill(padding.unsqueeze(2), -torch.inf).amax(1)))
        return cross_entropy(scores, targets)


def tokenize_all(texts: Texts) -> list[tuple[Tensor, int]]:
    """Return the ids and the target of every text."""
    found = texts.tokenize.tokenizer.encode([example.input for example in texts.examples], offsets=False)
    targets = (cast("int", example.target) for example in texts.examples)
    return [(torch.tensor(tokens.ids), target) for tokens, target in zip(found, targets, strict=True)]


def collate(rows: Sequence[tuple[Tensor, int]]) -> Collated:
    """Pad rows to a batch."""
    ids = [row for row, _ in rows]
    lengths, targets = torch.tensor([len(row) for row in ids]), torch.tensor([target for _, target in rows])
    return pad_sequence(ids, batch_first=True), lengths, targets


def iterate_random(texts: Texts, rows: int, order: random.Random) -> Iterator[Collated]:
    """Tokenize all texts, shuffle them, and yield batches."""
    every = tokenize_all(texts)
    order.shuffle(every)
    for start in range(0, len(every), rows):
        yield collate(every[start : start + rows])


def make_chain(weights: HandWritten) -> Model:
    """Return the same model in stages, with the weights of the hand-written one."""
    embed, lstm = weights.embed, weights.lstm
    encode = Encode(LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True))
    model = Pack() >> Embed(embed.num_embeddings, embed.embedding_dim) >> encode >> Pool("max") >> Classify(CLASSES)
    names = {"embed": "embed", "lstm": "encode.encoder.rnn", "linear": "classify.linear"}
    keys = ((key.partition("."), weight) for key, weight in weights.state_dict().items())
    model.load_state_dict({f"{names[part]}.{rest}": weight for (part, _, rest), weight in keys})
    return model


def measure(extent: Extent) -> Iterator[Result]:
    """Measure the epoch on one thread and on all; the sizes are the same in every extent."""
    del extent
    for threads in ("one", "all") if ALL_THREADS > 1 else ("one",):
        with use_threads(threads) as number:
            yield measure_epoch(Sizes(), number, Rounds(most=7))


def measure_epoch(sizes: Sizes, threads: int, rounds: Rounds) -> Result:
    """Compare loss and gradients of one batch, then time epochs in interleaved rounds."""
    texts = Texts.draw(sizes.rows, sizes.words)
    torch.default_generator.manual_seed(0)
    # All candidates start from the weights of this model; every epoch continues to train its own copy.
    weights = HandWritten(texts.tokenize.vocab_size, sizes.embedding, sizes.hidden)
    random_batches = list(iterate_random(texts, sizes.batch, random.Random(0)))
    steps = sum(int(lengths.sum()) for _, lengths, _ in random_batches)
    budget = sum(ids.numel() for ids, _, _ in random_batches) // len(random_batches)
    epochs: dict[str, Callable[[], object]] = {"by hand": _make_by_hand(texts, weights, sizes), MATMUL: make_matmul()}
    contexts: dict[str, Callable[[], AbstractContextManager[None]]] = {WITHOUT_NATIVE: disable_native}
    if available() is None:
        contexts[WITH_NATIVE] = nullcontext
    for name, context in contexts.items():
        # The budget can be smaller than the longest row here, since it is a mean: such a row is a batch of its own.
        epochs[name] = _make_ours(texts, weights, Bucket(max_padded_steps=budget, too_long="alone"), context)
        epochs[name + BY_ROWS] = _make_ours(texts, weights, Bucket(rows=sizes.batch), context)
    check_equal(_compute_first_batch(texts, weights, sizes))
    times = time_interleaved(epochs, rounds, time_first_runs(epochs))
    parameters = {**attrs.asdict(sizes), "budget": budget}
    return Result("epoch", str(sizes), threads, parameters, times, operations=sizes.count_operations(steps))


def _compute_first_batch(texts: Texts, weights: HandWritten, sizes: Sizes) -> dict[str, list[Tensor]]:
    """Compute loss and gradients of both models over the same rows."""
    rows = list(texts.tokenize.map(texts.examples[: sizes.batch]))
    model = make_chain(weights)
    ours, by_hand = model(Pad()(rows)).loss(), weights.compute_loss(collate(tokenize_all(texts)[: sizes.batch]))
    return {
        "by hand": [by_hand, *torch.autograd.grad(by_hand, list(weights.parameters()))],
        "ours": [ours, *torch.autograd.grad(ours, list(model.parameters()))],
    }


def _make_ours(
    texts: Texts, weights: HandWritten, bucket: Bucket[Ids], context: Callable[[], AbstractContextManager[None]]
) -> Callable[[], None]:
    """Return an epoch of the chain over bucketed batches."""
    data, model = texts.tokenize >> bucket >> Pad(), make_chain(weights)

    def compute_loss(batch: Padded[Ids]) -> Tensor:
        return model(batch).loss()

    train = _make_training(lambda: data(texts.examples), compute_loss, model)

    def run() -> None:
        with context():
            train()

    return run


def _make_by_hand(texts: Texts, weights: HandWritten, sizes: Sizes) -> Callable[[], None]:
    """Return an epoch of the hand-written model over random batches."""
    model, order = HandWritten(texts.tokenize.vocab_size, sizes.embedding, sizes.hidden), random.Random(0)
    model.load_state_dict(weights.state_dict())
    return _make_training(lambda: iterate_random(texts, sizes.batch, order), model.compute_loss, model)


def _make_training(
    batches: Callable[[], Iterable[B]], compute_loss: Callable[[B], Tensor], model: nn.Module
) -> Callable[[], None]:
    """Return a training loop over one epoch."""
    optimizer = _make_optimizer(model)

    def run() -> None:
        for batch in batches():
            optimizer.zero_grad()
            torch.autograd.backward(compute_loss(batch))
            optimizer.step()

    return run


def _make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Return plain gradient descent: the cost of a larger optimizer would be the same for all, and hide differences."""
    return torch.optim.SGD(model.parameters(), lr=0.01)


_COLUMNS: Final = {
    WITHOUT_NATIVE: "auto without native engine",
    WITH_NATIVE: "auto",
    f"{WITHOUT_NATIVE}{BY_ROWS}": "auto without native engine, by rows",
    f"{WITH_NATIVE}{BY_ROWS}": "auto, by rows",
}
"""The headings of our candidates."""

_NOTE: Final = (
    "Times by hand (random batches, torch's packed kernel), and for ours the speedup; above 1, ours is faster. Our "
    "batches are bucketed: with the mean number of padded steps of the random ones as their budget, or with the same "
    "number of rows. Share of the peak: the encoder's products over real steps, by hand, auto without native engine, "
    "auto; at 100% an epoch would take no time for anything else."
)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("one epoch", "threads", "by hand", *_COLUMNS.values(), "share of the matrix peak")
    title = "One epoch, from texts to a trained model"
    return ReportTable(title, headings, [_make_cells(result) for result in results], [_NOTE])


def _make_cells(result: Result) -> list[str]:
    ratios = [result.time_ratio("by hand", name) for name in _COLUMNS]
    cells = ["" if ratio is None else str(ratio) for ratio in ratios]
    shares = [result.peak_share(name) for name in ("by hand", WITHOUT_NATIVE, WITH_NATIVE)]
    peak = ", ".join(f"{share:.0%}" for share in shares if share is not None)
    return [result.point, str(result.threads), str(result.times["by hand"]), *cells, peak]


EPOCH: Final = Measurement("epoch", measure, tabulate)
