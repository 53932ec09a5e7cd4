"""The demo's two pipes and the loop that teaches them: the file to read first.

Act one says what each character of a line of Python is, act two what the whole line is. Between them they go
through all seven stages: tokenize, bucket, pad, pack, encode, attend, pool. Encoders, attentions and pools are
named and not imported: a name finds what an installed plugin offers, and would find yours.
"""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import attrs
import torch
from torch import nn

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
from pipeline.demo.lexical import CLASSES
from pipeline.demo.source import KINDS

Data: TypeAlias = StreamChain[str | Example[str], Padded[Ids]]
Highlighter: TypeAlias = Chain[Padded[Ids], StepScores[str]]
Sorter: TypeAlias = Chain[Padded[Ids], Scores[str]]

LEARNING_RATE = 0.015


def highlighter(texts: Sequence[str], seed: int) -> tuple[Data, Highlighter]:
    """Act one: characters in, a class a character out."""
    labels = Labels(CLASSES)
    tokenize = Tokenize.train(texts, "characters")
    data = tokenize >> Bucket(max_padded_steps=512, seed=seed) >> Pad(labels=labels)
    model = Pack() >> Embed(tokenize.vocab_size, 32) >> Encode("bilstm", hidden_size=64) >> Tag(labels)
    return data, model


def sorter(texts: Sequence[str], seed: int) -> tuple[Data, Sorter]:
    """Act two: characters in, a kind a line out. Characters attend to their whole line, and a pool weighs them."""
    labels = Labels(KINDS)
    tokenize = Tokenize.train(texts, "characters")
    data = tokenize >> Bucket(max_padded_steps=768, seed=seed) >> Pad(labels=labels)
    states = Pack() >> Embed(tokenize.vocab_size, 16) >> Encode("bilstm", hidden_size=32) >> Attend("general")
    model = states >> Pool("attention") >> Classify(labels)
    return data, model


@attrs.frozen
class Step:
    """One step of training: its loss, and how much of its batch was real."""

    loss: float
    report: Report


def teach(data: Data, model: Highlighter | Sorter, examples: Sequence[Example[str]], *, epochs: int) -> Iterator[Step]:
    """Train, one step whenever the next is asked for, at a learning rate that falls to nothing."""
    optimizer = _adam(model)
    seen = 0
    for _ in range(epochs):
        for batch in data(examples):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - seen / (epochs * len(examples)))
            optimizer.zero_grad()
            loss = model(batch).loss()
            torch.autograd.backward(loss)  # loss.backward(), which torch has not typed
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            seen += len(batch.lengths)
            yield Step(loss.item(), batch.report())


def _adam(model: nn.Module) -> torch.optim.Optimizer:
    # Some thousand steps are few: gradients of long ago say too little.
    return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98))
