"""A language model over words: attention over earlier states against none, with equal numbers of weights."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch

from pipeline import Bucket, Example, Pad, Shift, TokenizeWords, language_model
from pipeline.sources import Conllu
from scores.task import Task

_SENTENCES: Final = 4_000
_WORDS: Final = 4_000
_EPOCHS: Final = 5
_SIZES: Final = {"attention": 64, "none": 67}
"""The features of an embedded word and of a state. By them the model without attention has 308,448 weights, the other
one 305,632: the former has no weights of attention and of its output, but larger embeddings and states."""


def run(folder: Path, seed: int) -> dict[str, float]:
    """Train both models on the same sentences in the same order; return the ratio of their perplexities, and both."""
    train, test = (_read(folder / f"en_ewt-ud-{part}.conllu") for part in ("train", "test"))
    found = {name: _train(name, train[:_SENTENCES], test, seed) for name in _SIZES}
    return {"ratio": found["attention"] / found["none"], **found}


def _read(file: Path) -> list[Sequence[str]]:
    return [example.input for example in Conllu(file, target=None)]


def _train(name: str, train: Sequence[Sequence[str]], test: Sequence[Sequence[str]], seed: int) -> float:
    tokenize = TokenizeWords.train(train, vocab_size=_WORDS, lowercase=True, bos=True, eos=True)
    size = _SIZES[name]
    attention = "general" if name == "attention" else None
    torch.default_generator.manual_seed(seed)
    model = language_model(
        tokenize.vocab_size, embedding_dim=size, hidden_size=size, attention=attention, dropout=0.3, tied=True
    )
    pipe = tokenize >> Shift() >> Bucket(max_padded_steps=800, seed=seed) >> Pad() >> model
    # The last epoch, not the best one: no sentence is used to choose.
    pipe.fit(
        [Example(words) for words in train],
        epochs=_EPOCHS,
        learning_rate=0.003,
        schedule="cosine",
        seed=seed,
        progress=False,
    )
    return math.exp(pipe.evaluate([Example(words) for words in test]).loss)


TASK: Final = Task(
    name="words",
    data="UD English EWT 2.16, 4,000 sentences, the 4,000 most frequent lowercase words",
    metric="perplexity per word of the test sentences with attention, divided by that without",
    goal=0.99,
    run=run,
    lower_is_better=True,
)
