"""Small files and saved models for the tests of commands and services."""

from pathlib import Path
from typing import Any

from pipeline import (
    Bucket,
    Labels,
    Pad,
    Shift,
    SpelledWord,
    SpellWords,
    StreamChain,
    Tokenize,
    TokenizeWords,
    character_tagger,
    classifier,
    language_model,
    tagger,
)
from pipeline.core.contexts import seeded

REVIEWS = [
    ("a fine film", "good"),
    ("so dull", "bad"),
    ("what a fine, fine evening", "good"),
    ("a dull film", "bad"),
] * 5
LABELS = Labels(["bad", "good"])
SMALL = ("--quiet", "--epochs", "2", "--embedding-dim", "4", "--hidden-size", "4")
"""Options for a small model."""


def write_reviews(file: Path) -> Path:
    """Write a CSV file with an id, a text and a label."""
    lines = [f'{number},"{text}",{label}' for number, (text, label) in enumerate(REVIEWS)]
    file.write_text("\n".join(["id,text,label", *lines]) + "\n", encoding="utf-8")
    return file


def write_words(file: Path) -> Path:
    """Write sentences of two words in CoNLL-U."""
    empty = "\t_" * 6
    file.write_text(f"1\ta\t_\tX{empty}\n2\tb\t_\tY{empty}\n\n" * 10, encoding="utf-8")
    return file


def make_classifier() -> StreamChain[Any, Any]:
    """Return a classifier of reviews with random weights, in evaluation mode."""
    tokenize = Tokenize.train([text for text, _ in REVIEWS])
    with seeded(0):
        model = classifier(tokenize.vocab_size, LABELS, embedding_dim=4, hidden_size=4)
    return (tokenize >> Bucket(max_padded_steps=64) >> Pad(labels=LABELS) >> model).train(mode=False)


def make_writer() -> StreamChain[Any, Any]:
    """Return a language model of reviews with random weights, in evaluation mode."""
    tokenize = Tokenize.train([text for text, _ in REVIEWS], bos=True, eos=True)
    with seeded(0):
        model = language_model(tokenize.vocab_size, embedding_dim=4, hidden_size=4)
    return (tokenize >> Shift() >> Bucket(max_padded_steps=64) >> Pad() >> model).train(mode=False)


def make_tagger() -> StreamChain[Any, Any]:
    """Return a tagger of words with random weights, in evaluation mode."""
    tokenize = TokenizeWords.train([["a", "b"]])
    with seeded(0):
        model = tagger(tokenize.vocab_size, Labels(["X", "Y"]), embedding_dim=4, hidden_size=4)
    return (tokenize >> Bucket(max_padded_steps=64) >> Pad(labels=Labels(["X", "Y"])) >> model).train(mode=False)


def make_character_tagger() -> StreamChain[Any, Any]:
    """Return a tagger of words with their characters, with random weights, in evaluation mode."""
    spell, labels = SpellWords.train([["a", "b"]], min_frequency=1), Labels(["X", "Y"])
    data = spell >> Bucket(SpelledWord, max_padded_steps=64) >> Pad(SpelledWord, labels=labels)
    with seeded(0):
        model = character_tagger(spell.vocab_size, spell.num_characters, labels, embedding_dim=4, hidden_size=4)
    return (data >> model).train(mode=False)
