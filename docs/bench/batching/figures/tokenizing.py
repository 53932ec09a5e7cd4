"""Our tokenizing stage beside the library that does the work in it."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from bench.batching.figures.figure import Figure
from bench.batching.ways.all import OURS
from bench.epochs.corpus import Corpus
from bench.record.finding import Finding
from bench.timing.alike import UnequalError
from bench.timing.turns import Turns, by_turns, first_times
from pipeline import Tokenize
from pipeline.data.order import to_ints

RAW: Final = "tokenizers"

_WORDS: Final = 5_000
_PAD, _UNKNOWN = "<pad>", "<unk>"


def tokenizing(rows: int, turns: Turns) -> Finding:
    """Texts to rows of ids, without offsets; the library's own batch encoding, with nothing done to what it gives."""
    texts = [example.input for example in Corpus.of(rows, _WORDS).examples]
    raw = _byte_pairs(texts)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "tokenizer.json"
        raw.save(str(file))
        tokenize = Tokenize.read(file, pad=_PAD, unknown=_UNKNOWN, offsets=False)
    if [to_ints(row.sequence.values) for row in tokenize.map(texts)] != [each.ids for each in raw.encode_batch(texts)]:
        raise UnequalError("the stage must give the ids that the library gives, but gives others; mend it.")
    runs: dict[str, Callable[[], object]] = {
        OURS: lambda: list(tokenize.map(texts)),
        RAW: lambda: raw.encode_batch_fast(texts, add_special_tokens=False),
    }
    figure = Figure("texts tokenized", "rate", goal=0.8, at_least=True, over=OURS, count=rows)
    return figure.timed(f"{rows:,} texts of ~20 words, byte pairs", by_turns(runs, turns, first_times(runs)))


def _byte_pairs(texts: list[str]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=_WORDS, special_tokens=[_PAD, _UNKNOWN], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer
