"""Rows with several fields: epochs beside ones by hand.

Words with their characters: a tagger with LSTMs in both directions over the characters of each word and over the words.
By hand, as in most code of users, the characters of all words of a batch are padded and packed, and the words of a
sentence are padded and packed again. In stages, each distinct word of a batch is encoded once. Words are drawn as
frequently as those of a text, by Zipf's law, and frequent words are short.

Events with an id, two numbers and a time per step: a classifier, and the cost of checks. By hand, every field is padded
with `pad_sequence`, and the joined vectors are packed with `pack_padded_sequence`.

Both epochs of each train the same model on the same batches.
"""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial
from typing import Final, TypeAlias, TypeVar, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence

from bench.encoders.by_hand import load_weights, pool_max, run_packed
from bench.measurements.epoch import make_training
from bench.measurements.packing import disable_checks
from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import (
    Quartiles,
    Rounds,
    Step,
    Times,
    check_equal,
    list_threads,
    time_interleaved,
    use_threads,
)
from pipeline import (
    Bucket,
    Chain,
    Classify,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    Identity,
    Ids,
    Nested,
    Pack,
    Pad,
    Padded,
    Pool,
    Row,
    Scores,
    SpelledWord,
    StepScores,
    Tag,
    Vectors,
    through,
)
from pipeline_embeddings import CharacterLSTM
from pipeline_recurrent import LSTM

B = TypeVar("B")


def _time_both(
    make_by_hand: Callable[[Sequence[B]], Step],
    make_ours: Callable[[Sequence[B]], Step],
    batches: Sequence[B],
    rounds: Rounds,
) -> dict[str, Times]:
    """Compare the last loss of a short epoch of both, then time epochs; every epoch trains a model of its own."""

    def make_both(some: Sequence[B]) -> dict[str, Step]:
        return {"by hand": make_by_hand(some), "ours": make_ours(some)}

    check_equal({name: epoch() for name, epoch in make_both(batches[:2]).items()})
    return time_interleaved(make_both(batches), rounds)


LETTERS, WORDS, TAGS = 90, 10_000, 17

WordBatch: TypeAlias = list[Row[SpelledWord]]
TaggerChain: TypeAlias = Chain[Padded[SpelledWord], StepScores[int]]


@attrs.frozen
class TaggerSizes:
    """The sizes of the data, the batches and the model."""

    rows: int = 1_000
    longest: int = 40
    padded: int = 800
    embedding: int = 100
    characters: int = 30
    spelling: int = 50
    hidden: int = 200

    def __str__(self) -> str:
        return (
            f"{self.rows:,} sentences of up to {self.longest} words, {self.padded:,} padded steps per batch, "
            f"BiLSTMs, hidden {self.spelling} and {self.hidden}"
        )


class PlainTagger(nn.Module):
    """The model written in torch."""

    def __init__(self, sizes: TaggerSizes) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, sizes.characters)
        self.spell = nn.LSTM(sizes.characters, sizes.spelling, bidirectional=True, batch_first=True)
        self.words = nn.Embedding(WORDS, sizes.embedding)
        size = sizes.embedding + 2 * sizes.spelling
        self.lstm = nn.LSTM(size, sizes.hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * sizes.hidden, TAGS)

    def compute_loss(self, words: Sequence[Tensor], letters: Sequence[Sequence[Tensor]], targets: Tensor) -> Tensor:
        """Pad and pack the characters of all words, then the words, and compute the cross-entropy of a batch."""
        lengths = list(map(len, words))
        flat = [letter for sentence in letters for letter in sentence]
        counts = torch.tensor(list(map(len, flat)))
        embedded = self.letters(pad_sequence(flat, batch_first=True))
        packed = pack_padded_sequence(embedded, counts, batch_first=True, enforce_sorted=False)
        _, (final, _) = cast("tuple[object, tuple[Tensor, Tensor]]", self.spell(packed))
        spelled = pad_sequence(list(torch.split(final.transpose(0, 1).flatten(1), lengths)), batch_first=True)
        vectors = torch.cat([self.words(pad_sequence(list(words), batch_first=True)), spelled], dim=2)
        states = run_packed(self.lstm, vectors, torch.tensor(lengths))
        return cross_entropy(cast("Tensor", self.linear(states)).flatten(0, 1), targets.flatten(), ignore_index=-100)


def draw_word_batches(sizes: TaggerSizes) -> list[WordBatch]:
    """Draw sentences, and divide them into batches of similar length."""
    generator = torch.Generator().manual_seed(0)
    ranks = torch.arange(WORDS, dtype=torch.float64)
    typical = 2 + 0.8 * (ranks + 1).log() + 1.5 * torch.randn(WORDS, generator=generator)
    counts = typical.round().long().clamp(1, 15)
    spelled = split(torch.randint(0, LETTERS, (int(counts.sum()),), generator=generator), counts)
    rows: list[Row[SpelledWord]] = []
    for row in range(sizes.rows):
        length = int(torch.randint(1, sizes.longest + 1, (), generator=generator))
        words = torch.multinomial(1 / (ranks + 2.7), length, replacement=True, generator=generator)
        letters = Nested(Ids(torch.cat([spelled[int(word)] for word in words])), counts[words])
        targets = [int(target) for target in torch.randint(0, TAGS, (length,), generator=generator)]
        rows.append(Row(SpelledWord(Ids(words), letters), targets, row))
    return list(Bucket(SpelledWord, max_padded_steps=sizes.padded, seed=0)(rows))


def split(values: Tensor, counts: Tensor) -> Sequence[Tensor]:
    """Divide values into parts of these sizes."""
    return torch.split(values, [int(count) for count in counts])


def split_words(row: Row[SpelledWord]) -> Sequence[Tensor]:
    """Return the characters of each word."""
    return split(row.sequence.characters.inner.values, row.sequence.characters.counts)


def make_tagger(weights: PlainTagger) -> TaggerChain:
    """Return the same model in stages, with the weights of the hand-written one."""
    letters, spell, lstm = weights.letters, weights.spell, weights.lstm
    fields = EmbedFields(
        SpelledWord,
        word=through(Embed(WORDS, weights.words.embedding_dim)),
        characters=through(
            CharacterLSTM(LETTERS, embedding_dim=letters.embedding_dim, hidden_size=spell.hidden_size),
        ),
    )
    encode = Encode(LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True))
    model = Pack(SpelledWord) >> fields >> encode >> Tag(TAGS)
    inner = "embed_fields.characters.inner.inner"
    names = {
        "letters": f"{inner}.embed",
        "spell": f"{inner}.encode.encoder.rnn",
        "words": "embed_fields.word",
        "lstm": "encode.encoder.rnn",
        "linear": "tag.linear",
    }
    load_weights(model, weights, names)
    return model


def make_tagger_epoch(batches: Sequence[WordBatch], model: TaggerChain | PlainTagger) -> Step:
    """Return an epoch of collation, forward and backward passes and optimizer steps."""
    if isinstance(model, PlainTagger):
        # A user's data set holds one tensor per word.
        by_word = [(rows, [split_words(row) for row in rows]) for rows in batches]
        return make_training(lambda: by_word, partial(_compute_loss_by_hand, model), model)
    pad = Pad(SpelledWord)
    return make_training(lambda: batches, lambda rows: model(pad(rows)).loss(), model)


def _compute_loss_by_hand(model: PlainTagger, batch: tuple[WordBatch, Sequence[Sequence[Tensor]]]) -> Tensor:
    rows, letters = batch
    targets = [torch.tensor(cast("list[int]", row.target)) for row in rows]
    padded = pad_sequence(targets, batch_first=True, padding_value=-100)
    return model.compute_loss([row.sequence.word.values for row in rows], letters, padded)


def measure_words(extent: Extent) -> Iterator[Result]:
    """Measure on one thread and on all; the sizes are the same in every extent."""
    del extent
    for threads in list_threads():
        with use_threads(threads) as number:
            yield measure_tagger(TaggerSizes(), number)


def measure_tagger(sizes: TaggerSizes, threads: int, rounds: int = 7) -> Result:
    """Compare one short epoch of both, then time epochs in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    weights, batches = PlainTagger(sizes), draw_word_batches(sizes)
    times = _time_both(
        lambda some: make_tagger_epoch(some, deepcopy(weights)),
        lambda some: make_tagger_epoch(some, make_tagger(weights)),
        batches,
        Rounds(most=rounds),
    )
    parameters = {**attrs.asdict(sizes), "batches": len(batches), "threads": "one" if threads == 1 else "all"}
    return Result("characters", str(sizes), threads, parameters, times)


def tabulate_characters(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("sentences", "threads", "epoch by hand", "ours")
    note = "Time of an epoch by hand, and for ours the speedup; above 1, ours is faster. The batches are the same."
    rows = [
        [each.point, str(each.threads), str(each.times["by hand"]), each.format_ratio("by hand", "ours")]
        for each in results
    ]
    return ReportTable("Words and their characters", headings, rows, [note])


CHARACTERS: Final = Measurement("characters", measure_words, tabulate_characters)


CODES, EVENT_CLASSES = 1_000, 6


@attrs.frozen(eq=False)
class Event(Fields):
    """The fields of a step."""

    code: Ids
    amount: Vectors
    balance: Vectors
    time: Vectors


EventBatch: TypeAlias = list[Row[Event]]
EventChain: TypeAlias = Chain[Padded[Event], Scores[int]]


@attrs.frozen
class EventSizes:
    """The sizes of the data, the batches and the model."""

    rows: int = 2_000
    longest: int = 60
    padded: int = 1_600
    embedding: int = 32
    hidden: int = 128

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows of up to {self.longest} events, {self.padded:,} padded steps per batch, "
            f"BiLSTM, hidden {self.hidden}"
        )


class PlainEventClassifier(nn.Module):
    """The model written in torch."""

    def __init__(self, embedding: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(CODES, embedding)
        self.lstm = nn.LSTM(embedding + 3, hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * hidden, EVENT_CLASSES)

    def compute_loss(self, rows: EventBatch) -> Tensor:
        """Pad each field, join them, and compute the cross-entropy of a batch."""
        events = [row.sequence for row in rows]
        lengths = torch.tensor([len(event.code.values) for event in events])
        targets = torch.tensor([cast("int", row.target) for row in rows])
        codes = pad_sequence([event.code.values for event in events], batch_first=True)
        numbers = [
            pad_sequence([event.amount.values for event in events], batch_first=True),
            pad_sequence([event.balance.values for event in events], batch_first=True),
            pad_sequence([event.time.values for event in events], batch_first=True),
        ]
        vectors = torch.cat([self.embed(codes), *numbers], dim=2)
        pooled = pool_max(run_packed(self.lstm, vectors, lengths), lengths)
        scores = cast("Tensor", self.linear(pooled))
        return cross_entropy(scores, targets)


def draw_event_batches(sizes: EventSizes) -> list[EventBatch]:
    """Draw rows, and divide them into batches of similar length."""
    generator = torch.Generator().manual_seed(0)
    rows: list[Row[Event]] = []
    for row in range(sizes.rows):
        time = int(torch.randint(1, sizes.longest + 1, (), generator=generator))
        codes = torch.randint(0, CODES, (time,), generator=generator)
        numbers = (Vectors(torch.randn(time, 1, generator=generator)) for _ in range(3))
        rows.append(Row(Event(Ids(codes), *numbers), row % EVENT_CLASSES, row))
    return list(Bucket(Event, max_padded_steps=sizes.padded, seed=0)(rows))


def make_event_classifier(weights: PlainEventClassifier) -> EventChain:
    """Return the same model in stages, with the weights of the hand-written one."""
    embed, lstm = weights.embed, weights.lstm
    number = through(Identity(1))
    fields = EmbedFields(Event, through(Embed(CODES, embed.embedding_dim)), number, number, number)
    encode = Encode(LSTM(lstm.input_size, lstm.hidden_size, bidirectional=True))
    model = Pack(Event) >> fields >> encode >> Pool("max") >> Classify(EVENT_CLASSES)
    names = {"embed": "embed_fields.code", "lstm": "encode.encoder.rnn", "linear": "classify.linear"}
    load_weights(model, weights, names)
    return model


def make_event_epoch(batches: Sequence[EventBatch], model: EventChain | PlainEventClassifier) -> Step:
    """Return an epoch of collation, forward and backward passes and optimizer steps."""
    if isinstance(model, PlainEventClassifier):
        return make_training(lambda: batches, model.compute_loss, model)
    pad = Pad(Event)
    return make_training(lambda: batches, lambda rows: model(pad(rows)).loss(), model)


def measure_events(extent: Extent) -> Iterator[Result]:
    """Measure on one thread and on all; the sizes are the same in every extent."""
    del extent
    for threads in list_threads():
        with use_threads(threads) as number:
            yield measure_event_classifier(EventSizes(), number)


def measure_event_classifier(sizes: EventSizes, threads: int, rounds: int = 7, check_rounds: int = 400) -> Result:
    """Compare one epoch of both, then time epochs in interleaved rounds; and steps with and without checks.

    The steps for the checks are small, as in the measurement of checks: their cost does not depend on the sizes.
    """
    torch.default_generator.manual_seed(0)
    weights, batches = PlainEventClassifier(sizes.embedding, sizes.hidden), draw_event_batches(sizes)
    times = _time_both(
        lambda some: make_event_epoch(some, deepcopy(weights)),
        lambda some: make_event_epoch(some, make_event_classifier(weights)),
        batches,
        Rounds(most=rounds),
    )
    few = draw_event_batches(attrs.evolve(sizes, rows=64, longest=2))[:1]
    small = make_event_epoch(few, make_event_classifier(PlainEventClassifier(1, 1)))
    pair = {"checked": small, "unchecked": disable_checks(small)}
    with use_threads("one"):
        times |= time_interleaved(pair, Rounds(check_rounds, check_rounds))
    parameters = {**attrs.asdict(sizes), "batches": len(batches)}
    return Result("fields", str(sizes), threads, parameters, times)


def tabulate_fields(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("events", "threads", "epoch by hand", "ours", "checks per batch", "share of checks")
    note = "Time of an epoch by hand, and for ours the speedup; above 1, ours is faster. The batches are the same."
    return ReportTable("Rows with four fields", headings, [_make_fields_cells(result) for result in results], [note])


def _make_fields_cells(result: Result) -> list[str]:
    pair = zip(result.times["checked"].seconds, result.times["unchecked"].seconds, strict=True)
    cost = Quartiles.of([one - other for one, other in pair])
    step = result.times["ours"].quartiles.median / cast("int", result.parameters["batches"])
    share = f"{cost.median / step:.2%} ({cost.low / step:.2%} to {cost.high / step:.2%})"
    ratio = result.format_ratio("by hand", "ours")
    return [
        result.point,
        str(result.threads),
        str(result.times["by hand"]),
        ratio,
        f"{cost.median * 1e6:.0f} us",
        share,
    ]


FIELDS: Final = Measurement("fields", measure_events, tabulate_fields)
