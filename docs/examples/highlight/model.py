"""The two pipes and their training loop: the file to read first.

The first task is to classify each character of a line of Python, the second to classify the line. Together they use
all seven kinds of stage: tokenize, bucket, pad, pack, encode, attend, pool. Encoders, attentions and pools are given
by name. A name finds what any installed plugin offers.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import attrs
import torch
from torch import nn

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
    Report,
    Scores,
    StepScores,
    StreamChain,
    Tag,
    Tokenize,
)

Data: TypeAlias = StreamChain[str | Example[str], Padded[Ids]]
CharacterModel: TypeAlias = Chain[Padded[Ids], StepScores[str]]
LineModel: TypeAlias = Chain[Padded[Ids], Scores[str]]

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


@attrs.frozen
class TrainingStep:
    """The loss of one optimizer step, and the padding of its batch."""

    loss: float
    report: Report


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """Make the optimizer. As an `Optimizer`, its `step` is typed, which `AdamW.step` is not."""
    # beta2 is below the usual 0.999: a run has some thousand steps, too few for such a long average.
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))


def train(
    data: Data, model: CharacterModel | LineModel, examples: Sequence[Example[str]], *, epochs: int
) -> Iterator[TrainingStep]:
    """Train lazily: each item that is requested takes one optimizer step. The learning rate decays linearly to zero."""
    optimizer = make_optimizer(model)
    rows_seen = 0
    for _ in range(epochs):
        for batch in data(examples):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - rows_seen / (epochs * len(examples)))
            optimizer.zero_grad()
            loss = model(batch).loss()
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            rows_seen += len(batch.lengths)
            yield TrainingStep(loss.item(), batch.report())
