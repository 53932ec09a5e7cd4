"""Words with their characters: an epoch of the tagger beside one by hand.

Both epochs train the same model on the same batches: LSTMs in both directions over the characters of each word and over
the words. By hand, as in most code of users, the characters of all words of a batch are padded and packed, and the
words of a sentence are padded and packed again. In stages, each distinct word of a batch is encoded once. Words are
drawn as frequently as those of a text, by Zipf's law, and frequent words are short.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Final, TypeAlias, cast

import attrs
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence, pad_sequence

from bench.record import Result
from bench.report import Extent, Measurement, ReportTable
from bench.timing import ALL_THREADS, Rounds, Step, check_equal, time_first_runs, time_interleaved, use_threads
from pipeline import (
    Bucket,
    Chain,
    Embed,
    EmbedFields,
    Encode,
    Ids,
    Nested,
    Pack,
    Pad,
    Padded,
    Row,
    SpelledWord,
    StepScores,
    Tag,
    through,
)
from pipeline_embeddings import CharacterLSTM
from pipeline_recurrent import LSTM

LETTERS, WORDS, CLASSES = 90, 10_000, 17

Batch: TypeAlias = list[Row[SpelledWord]]
Model: TypeAlias = Chain[Padded[SpelledWord], StepScores[int]]


@attrs.frozen
class Sizes:
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


class HandWritten(nn.Module):
    """The model written in torch."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.letters = nn.Embedding(LETTERS, sizes.characters)
        self.spell = nn.LSTM(sizes.characters, sizes.spelling, bidirectional=True, batch_first=True)
        self.words = nn.Embedding(WORDS, sizes.embedding)
        size = sizes.embedding + 2 * sizes.spelling
        self.lstm = nn.LSTM(size, sizes.hidden, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * sizes.hidden, CLASSES)

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
        packed = pack_padded_sequence(vectors, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(cast("tuple[PackedSequence, object]", self.lstm(packed))[0], batch_first=True)
        return cross_entropy(cast("Tensor", self.linear(states)).flatten(0, 1), targets.flatten(), ignore_index=-100)


def draw_batches(sizes: Sizes) -> list[Batch]:
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
        targets = [int(target) for target in torch.randint(0, CLASSES, (length,), generator=generator)]
        rows.append(Row(SpelledWord(Ids(words), letters), targets, row))
    return list(Bucket(SpelledWord, max_padded_steps=sizes.padded, seed=0)(rows))


def split(values: Tensor, counts: Tensor) -> Sequence[Tensor]:
    """Divide values into parts of these sizes."""
    return torch.split(values, [int(count) for count in counts])


def split_words(row: Row[SpelledWord]) -> Sequence[Tensor]:
    """Return the characters of each word."""
    return split(row.sequence.characters.inner.values, row.sequence.characters.counts)


def make_chain(weights: HandWritten) -> Model:
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
    model = Pack(SpelledWord) >> fields >> encode >> Tag(CLASSES)
    inner = "embed_fields.characters.inner.inner"
    names = {
        "letters": f"{inner}.embed",
        "spell": f"{inner}.encode.encoder.rnn",
        "words": "embed_fields.word",
        "lstm": "encode.encoder.rnn",
        "linear": "tag.linear",
    }
    keys = ((key.partition("."), weight) for key, weight in weights.state_dict().items())
    model.load_state_dict({f"{names[part]}.{rest}": weight for (part, _, rest), weight in keys})
    return model


def make_epoch(batches: Sequence[Batch], model: Model | HandWritten) -> Step:
    """Return an epoch of collation, forward and backward passes and optimizer steps."""
    optimizer = _make_optimizer(model)
    pad = Pad(SpelledWord)
    # A user's data set holds one tensor per word.
    by_word = [[split_words(row) for row in rows] for rows in batches]

    def run() -> tuple[Tensor, ...]:
        loss = torch.zeros(())
        for rows, sentences in zip(batches, by_word, strict=True):
            optimizer.zero_grad()
            if isinstance(model, HandWritten):
                targets = [torch.tensor(cast("list[int]", row.target)) for row in rows]
                padded = pad_sequence(targets, batch_first=True, padding_value=-100)
                loss = model.compute_loss([row.sequence.word.values for row in rows], sentences, padded)
            else:
                loss = model(pad(rows)).loss()
            torch.autograd.backward(loss)
            optimizer.step()
        return (loss.detach(),)

    return run


def _make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.01)


def measure(extent: Extent) -> Iterator[Result]:
    """Measure on one thread and on all; the sizes are the same in every extent."""
    del extent
    for threads in ("one", "all") if ALL_THREADS > 1 else ("one",):
        with use_threads(threads) as number:
            yield measure_characters(Sizes(), number)


def measure_characters(sizes: Sizes, threads: int, rounds: int = 7) -> Result:
    """Compare one short epoch of both, then time epochs in interleaved rounds."""
    torch.default_generator.manual_seed(0)
    weights, batches = HandWritten(sizes), draw_batches(sizes)

    def make_both(some: Sequence[Batch]) -> dict[str, Step]:
        # Each trains a copy of its own.
        return {"by hand": make_epoch(some, deepcopy(weights)), "ours": make_epoch(some, make_chain(weights))}

    check_equal({name: epoch() for name, epoch in make_both(batches[:2]).items()})
    epochs = make_both(batches)
    times = time_interleaved(epochs, Rounds(most=rounds), time_first_runs(epochs))
    parameters = {**attrs.asdict(sizes), "batches": len(batches), "threads": "one" if threads == 1 else "all"}
    return Result("characters", str(sizes), threads, parameters, times)


def tabulate(results: Sequence[Result]) -> ReportTable:
    """Make a table with a row per number of threads."""
    headings = ("sentences", "threads", "epoch by hand", "ours")
    note = "Time of an epoch by hand, and for ours the speedup; above 1, ours is faster. The batches are the same."
    rows = [
        [each.point, str(each.threads), str(each.times["by hand"]), str(each.time_ratio("by hand", "ours"))]
        for each in results
    ]
    return ReportTable("Words and their characters", headings, rows, [note])


CHARACTERS: Final = Measurement("characters", measure, tabulate)
