"""Exported models with the embedders of the plugin give their results; `export` compares them on random batches."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from pipeline import (
    Batch,
    Bucket,
    Classify,
    Embed,
    Encode,
    FromFeatures,
    FromIds,
    Identity,
    Labels,
    Pack,
    Pad,
    Pool,
    SpelledWord,
    SpellWords,
    Stage,
    StreamChain,
    Vectors,
    character_tagger,
)
from pipeline_embeddings import EmbedNumbers, Positions, Standardize, Time2Vec, TimeSinceLast
from support.needs import SLOW, needs

SPELL: Final = SpellWords.train([["to", "be"], ["be"]], min_frequency=1)


def make_tagger(characters: str) -> StreamChain[Any, Any]:
    """Return a tagger of words and characters."""
    data = SPELL >> Bucket(SpelledWord, rows=8) >> Pad(SpelledWord)
    labels = Labels(["a", "b"])
    return data >> character_tagger(
        SPELL.vocab_size, SPELL.num_characters, labels, characters=characters, embedding_dim=3, hidden_size=4
    )


def make_reader(positions: Positions) -> StreamChain[Any, Any]:
    """Return a classifier of ids with positions."""
    model = Pack() >> Embed(9, 4) >> positions >> Encode("lstm", hidden_size=3) >> Pool("max") >> Classify(2)
    return FromIds() >> Bucket(rows=8) >> Pad() >> model


def make_classifier(stage: Stage[Batch[Vectors], Batch[Vectors]]) -> StreamChain[Any, Any]:
    """Return a classifier of numbers."""
    data = FromFeatures() >> Bucket(Vectors, rows=8) >> Pad(Vectors)
    model = Pack(Vectors) >> Identity(2) >> stage >> Encode("lstm", hidden_size=3) >> Pool("max") >> Classify(2)
    return data >> model


PIPES: Final[dict[str, Callable[[], StreamChain[Any, Any]]]] = {
    "character_lstm": lambda: make_tagger("character_lstm"),
    "character_cnn": lambda: make_tagger("character_cnn"),
    "sinusoidal": lambda: make_reader(Positions()),
    "learned": lambda: make_reader(Positions("learned", max_length=100)),
    "linear": lambda: make_classifier(EmbedNumbers(3)),
    "periodic": lambda: make_classifier(EmbedNumbers(3, kind="periodic", frequencies=4)),
    "standardize": lambda: make_classifier(Standardize(2, log=True)),
    "times": lambda: make_classifier(TimeSinceLast() >> Time2Vec(3, input_size=2)),
}


@SLOW
@needs("onnx", "onnxruntime", "onnxscript")
@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
@pytest.mark.parametrize("name", PIPES)
def test_exported_model_gives_the_same(name: str, suffix: str, tmp_path: Path) -> None:
    """For batches of any size and width."""
    file = tmp_path / f"model.{suffix}"
    PIPES[name]().export(file)
    assert file.stat().st_size
