"""The two pipes and their training: the file to read first.

The first task is to classify each character of a line of Python, the second to classify the line. Together they use
all seven kinds of stage: tokenize, bucket, pad, pack, encode, attend, pool. Encoders, attentions and pools are given
by name. A name finds what any installed plugin offers.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch

from highlight.source import CLASSES, KINDS
from pipeline import (
    Attend,
    Bucket,
    Chain,
    Classify,
    Embed,
    Encode,
    Example,
    Ids,
    Labels,
    Pack,
    Pad,
    Padded,
    Pool,
    Scores,
    StepScores,
    StreamChain,
    Tag,
    Tokenize,
)
from pipeline.training import History

Data: TypeAlias = StreamChain[str | Example[str], Padded[Ids]]
CharacterModel: TypeAlias = Chain[Padded[Ids], StepScores[str]]
LineModel: TypeAlias = Chain[Padded[Ids], Scores[str]]
CharacterPipe: TypeAlias = StreamChain[str | Example[str], StepScores[str]]
LinePipe: TypeAlias = StreamChain[str | Example[str], Scores[str]]

LEARNING_RATE = 0.015


def build_character_pipe(texts: Sequence[str], seed: int) -> tuple[Data, CharacterModel]:
    """Task one: characters in, a class per character out."""
    labels = Labels(CLASSES)
    tokenize = Tokenize.train(texts, "characters").with_token_targets()
    data = tokenize >> Bucket(max_padded_steps=512, seed=seed) >> Pad(labels=labels)
    model = Pack() >> Embed(tokenize.vocab_size, 32) >> Encode("bilstm", hidden_size=64) >> Tag(labels)
    return data, model


def build_line_pipe(texts: Sequence[str], seed: int) -> tuple[Data, LineModel]:
    """Task two: characters in, one kind per line out. Characters attend to their whole line; a pool weighs them."""
    labels = Labels(KINDS)
    tokenize = Tokenize.train(texts, "characters")
    data = tokenize >> Bucket(max_padded_steps=768, seed=seed) >> Pad(labels=labels)
    states = Pack() >> Embed(tokenize.vocab_size, 16) >> Encode("bilstm", hidden_size=32) >> Attend("general")
    model = states >> Pool("attention") >> Classify(labels)
    return data, model


def make_optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Make the optimizer for groups of parameters."""
    # beta2 is below the usual 0.999: a run has some thousand steps, too few for such a long average.
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), fused=True)


def train(
    pipe: CharacterPipe | LinePipe,
    examples: Sequence[Example[str]],
    *,
    epochs: int,
    seed: int,
    progress: bool | None = None,
) -> History:
    """Train a pipe. The learning rate decays linearly to zero."""
    return pipe.fit(examples, epochs=epochs, optimizer=make_optimizer, schedule="linear", seed=seed, progress=progress)
