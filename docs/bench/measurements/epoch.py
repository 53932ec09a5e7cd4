"""Epochs from texts to a trained model: the library with bucketed batches, beside random batches written by hand.

The tokenizer is trained beforehand. Tokenization, batching, forward and backward passes and optimizer steps are timed.

Our batches have a budget of padded steps: the mean number of padded steps of the random batches, so that both take
about the same memory. With less padding, more rows fit into this budget, and an epoch has fewer optimizer steps.
Therefore batches with the same number of rows as the random ones are measured too.

`fit` is measured beside a plain loop over the same batches with the same optimizer. Both tokenize, make batches, clip
gradients and train the same model for the same epochs; their weights are compared to the last bit first. `fit` also
reads the lengths of the rows once, adds up losses and padding, and looks for NaN. Its times are those of the process on
the processor, so that other programs disturb little.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, redirect_stderr
from io import StringIO
from typing import Final, Self, TypeAlias, TypeVar, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from bench.batching.data import draw_texts
from bench.encoders.by_hand import PlainClassifier, load_classifier
from bench.encoders.candidates import disable_native
from bench.encoders.points import Point
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    MATMUL,
    Rounds,
    Step,
    Times,
    check_equal,
    list_threads,
    make_matmul,
    time_interleaved,
    use_threads,
)
from pipeline import (
    Bucket,
    Chain,
    Classify,
    Embed,
    Encode,
    Example,
    Ids,
    Pack,
    Pad,
    Padded,
    Pool,
    Scores,
    StreamChain,
    Tokenize,
)
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


def make_chain(weights: PlainClassifier) -> Model:
    """Return the same model in stages, with the weights of the hand-written one."""
    embed, lstm = weights.embed, weights.lstm
    encode = Encode(LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True))
    model = Pack() >> Embed(embed.num_embeddings, embed.embedding_dim) >> encode >> Pool("max") >> Classify(CLASSES)
    load_classifier(model, weights)
    return model


def measure_epochs(extent: Extent) -> Iterator[Result]:
    """Measure the epoch on one thread and on all; the sizes are the same in every extent."""
    del extent
    for threads in list_threads():
        with use_threads(threads) as number:
            yield measure_epoch(Sizes(), number, Rounds(most=7))


def measure_epoch(sizes: Sizes, threads: int, rounds: Rounds) -> Result:
    """Compare loss and gradients of one batch, then time epochs in interleaved rounds."""
    texts = Texts.draw(sizes.rows, sizes.words)
    torch.default_generator.manual_seed(0)
    # All candidates start from the weights of this model; every epoch continues to train its own copy.
    weights = PlainClassifier(texts.tokenize.vocab_size, sizes.embedding, sizes.hidden, CLASSES)
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
    times = time_interleaved(epochs, rounds)
    parameters = {**attrs.asdict(sizes), "budget": budget}
    return Result("epoch", str(sizes), threads, parameters, times, operations=sizes.count_operations(steps))


def _compute_first_batch(texts: Texts, weights: PlainClassifier, sizes: Sizes) -> dict[str, list[Tensor]]:
    """Compute loss and gradients of both models over the same rows."""
    rows = list(texts.tokenize.map(texts.examples[: sizes.batch]))
    model = make_chain(weights)
    ours, by_hand = model(Pad()(rows)).loss(), weights.compute_loss(collate(tokenize_all(texts)[: sizes.batch]))
    return {
        "by hand": [by_hand, *torch.autograd.grad(by_hand, list(weights.parameters()))],
        "ours": [ours, *torch.autograd.grad(ours, list(model.parameters()))],
    }


def _make_ours(
    texts: Texts, weights: PlainClassifier, bucket: Bucket[Ids], context: Callable[[], AbstractContextManager[None]]
) -> Callable[[], object]:
    """Return an epoch of the chain over bucketed batches."""
    data, model = texts.tokenize >> bucket >> Pad(), make_chain(weights)

    def compute_loss(batch: Padded[Ids]) -> Tensor:
        return model(batch).loss()

    train = make_training(lambda: data(texts.examples), compute_loss, model)

    def run() -> None:
        with context():
            train()

    return run


def _make_by_hand(texts: Texts, weights: PlainClassifier, sizes: Sizes) -> Step:
    """Return an epoch of the hand-written model over random batches."""
    model, order = PlainClassifier(texts.tokenize.vocab_size, sizes.embedding, sizes.hidden, CLASSES), random.Random(0)
    model.load_state_dict(weights.state_dict())
    return make_training(lambda: iterate_random(texts, sizes.batch, order), model.compute_loss, model)


def make_training(batches: Callable[[], Iterable[B]], compute_loss: Callable[[B], Tensor], model: nn.Module) -> Step:
    """Return a training loop over one epoch, which returns the last loss."""
    optimizer = _make_sgd(model)

    def run() -> tuple[Tensor, ...]:
        loss = torch.zeros(())
        for batch in batches():
            optimizer.zero_grad()
            loss = compute_loss(batch)
            torch.autograd.backward(loss)
            optimizer.step()
        return (loss.detach(),)

    return run


def _make_sgd(model: nn.Module) -> torch.optim.Optimizer:
    """Return plain gradient descent: the cost of a larger optimizer would be the same for all, and hide differences."""
    return torch.optim.SGD(model.parameters(), lr=0.01)


_COLUMNS: Final = {
    WITHOUT_NATIVE: "auto without native engine",
    WITH_NATIVE: "auto",
    f"{WITHOUT_NATIVE}{BY_ROWS}": "auto without native engine, by rows",
    f"{WITH_NATIVE}{BY_ROWS}": "auto, by rows",
}
"""The headings of our candidates."""

_EPOCH_NOTE: Final = (
    "Times by hand (random batches, torch's packed kernel), and for ours the speedup; above 1, ours is faster. Our "
    "batches are bucketed: with the mean number of padded steps of the random ones as their budget, or with the same "
    "number of rows. Share of the peak: the encoder's products over real steps, by hand, auto without native engine, "
    "auto; at 100% an epoch would take no time for anything else."
)


def tabulate_epoch(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("one epoch", "threads", "by hand", *_COLUMNS.values(), "share of the matrix peak")
    title = "One epoch, from texts to a trained model"
    return ReportTable(title, headings, [_make_epoch_cells(result) for result in results], [_EPOCH_NOTE])


def _make_epoch_cells(result: Result) -> list[str]:
    ratios = [result.format_ratio("by hand", name) for name in _COLUMNS]
    shares = [result.peak_share(name) for name in ("by hand", WITHOUT_NATIVE, WITH_NATIVE)]
    peak = ", ".join(f"{share:.0%}" for share in shares if share is not None)
    return [result.point, str(result.threads), str(result.times["by hand"]), *ratios, peak]


EPOCH: Final = Measurement("epoch", measure_epochs, tabulate_epoch)


PLAIN, FIT, BAR = "plain loop", "fit", "fit with a bar"
"""The candidates."""

FIT_EPOCHS: Final = 2
FIT_ROUNDS: Final = 11
NORM: Final = 1.0

Pipe: TypeAlias = StreamChain[str | Example[str], Scores[int]]


@attrs.frozen(eq=False)
class Candidate:
    """A pipe with a function that trains it for some epochs."""

    pipe: Pipe
    train: Callable[[], object]


def make_candidates(texts: Texts, sizes: Sizes) -> dict[str, Candidate]:
    """Make pipes with equal weights, each with its way of training."""
    pipes = {name: _make_pipe(texts, sizes) for name in (PLAIN, FIT, BAR)}
    candidates = {PLAIN: Candidate(pipes[PLAIN][0], _make_loop(texts, sizes, pipes[PLAIN][1]))}
    for name in (FIT, BAR):
        candidates[name] = Candidate(pipes[name][0], _make_fit(texts, pipes[name][0], has_bar=name == BAR))
    return candidates


def _make_pipe(texts: Texts, sizes: Sizes) -> tuple[Pipe, Model]:
    torch.default_generator.manual_seed(0)
    encode = Encode(LSTM(sizes.embedding, sizes.hidden, bidirectional=True))
    model = Pack() >> Embed(texts.tokenize.vocab_size, sizes.embedding) >> encode >> Pool("max") >> Classify(CLASSES)
    return texts.tokenize >> Bucket(rows=sizes.batch) >> Pad() >> model, model


def _make_loop(texts: Texts, sizes: Sizes, model: Model) -> Callable[[], None]:
    def train() -> None:
        data = texts.tokenize >> Bucket(rows=sizes.batch) >> Pad()
        optimizer = make_adamw([{"params": list(model.parameters())}])
        weights = list(model.parameters())
        for _ in range(FIT_EPOCHS):
            for batch in data(texts.examples):
                optimizer.zero_grad()
                torch.autograd.backward(model(batch).loss())
                nn.utils.clip_grad_norm_(weights, NORM)
                optimizer.step()

    return train


def _make_fit(texts: Texts, pipe: Pipe, *, has_bar: bool) -> Callable[[], None]:
    def train() -> None:
        # The notes about the machine are for users.
        with redirect_stderr(StringIO()):
            pipe.fit(
                texts.examples,
                epochs=FIT_EPOCHS,
                optimizer=make_adamw,
                weight_decay=0.0,
                max_grad_norm=NORM,
                progress=has_bar,
            )

    return train


def make_adamw(groups: Sequence[dict[str, object]]) -> torch.optim.Optimizer:
    """Return the same AdamW for all: the groups of `fit` differ in their weight decay only, which is 0 here."""
    return torch.optim.AdamW([{**group, "weight_decay": 0.0} for group in groups], lr=1e-3, fused=True)


def measure_fits(extent: Extent) -> Iterator[Result]:
    """Measure on one thread and on all; the sizes are the same in every extent."""
    del extent
    for threads in list_threads():
        with use_threads(threads) as number:
            yield measure_fit(Sizes(), number, FIT_ROUNDS)


def measure_fit(sizes: Sizes, threads: int, rounds: int) -> Result:
    """Train for some epochs, compare the weights, then time further epochs in interleaved rounds."""
    texts = Texts.draw(sizes.rows, sizes.words)
    candidates = make_candidates(texts, sizes)
    for candidate in candidates.values():
        candidate.train()
    check_equal({name: list(each.pipe.parameters()) for name, each in candidates.items()})
    seconds = {name: list[float]() for name in candidates}
    for round_ in range(rounds):
        for name in reversed(candidates) if round_ % 2 else candidates:
            start = time.process_time()
            candidates[name].train()
            seconds[name].append((time.process_time() - start) / FIT_EPOCHS)
    times = {name: Times(each) for name, each in seconds.items()}
    return Result("fit", str(sizes), threads, attrs.asdict(sizes), times)


def tabulate_fit(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("one epoch", "threads", "plain loop", "fit over the plain loop", "with a bar")
    note = "Processor times, with equal batches, optimizers and weights; the ratio of each round, lower is better."
    return ReportTable("An epoch through fit", headings, [_make_fit_cells(result) for result in results], [note])


def _make_fit_cells(result: Result) -> list[str]:
    ratios = [str(result.times[name].divide_by(result.times[PLAIN])) for name in (FIT, BAR)]
    return [result.point, str(result.threads), str(result.times[PLAIN]), *ratios]


FIT_MEASUREMENT: Final = Measurement("fit", measure_fits, tabulate_fit)
"""Epochs through `fit`."""
