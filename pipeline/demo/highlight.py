"""The demo's two pipes and the loop that teaches them: the file to read first.

Act one says what each character of a line of Python is, act two what the whole line is. Between them they go
through all seven stages: tokenize, bucket, pad, pack, encode, attend, pool. Encoders, attentions and pools are
named and not imported: a name finds what an installed plugin offers, and would find yours.
"""

from collections.abc import Iterator, Sequence

import attrs
import torch
from torch import nn
from typing_extensions import TypeAlias

from pipeline.chain import Chain, StreamChain
from pipeline.demo.lexical import CLASSES
from pipeline.demo.source import KINDS, Line
from pipeline.labels import Labels
from pipeline.sequences.answers import Scores, StepScores
from pipeline.sequences.batches import Padded
from pipeline.sequences.report import Report
from pipeline.sequences.rows import Example, Ids
from pipeline.stages.attend import Attend
from pipeline.stages.bucket import Bucket
from pipeline.stages.embed import Embed
from pipeline.stages.encode import Encode
from pipeline.stages.heads import Classify, Tag
from pipeline.stages.pack import Pack
from pipeline.stages.pad import Pad
from pipeline.stages.pool import Pool
from pipeline.stages.tokenize import Tokenize

Data: TypeAlias = StreamChain[str | Example[str], Padded[Ids]]
Tagger: TypeAlias = Chain[Padded[Ids], StepScores[str]]
Sorter: TypeAlias = Chain[Padded[Ids], Scores[str]]

LEARNING_RATE = 0.015


def highlighter(lines: Sequence[Line], seed: int) -> tuple[Data, Tagger]:
    """Act one: characters in, a class a character out."""
    labels = Labels(CLASSES)
    tokenize = Tokenize.train([line.text for line in lines], "characters")
    data = tokenize >> Bucket(max_steps=512, seed=seed) >> Pad(labels=labels)
    model = Pack() >> Embed(tokenize.vocab_size, 32) >> Encode("bilstm", hidden_size=64) >> Tag(labels)
    return data, model


def sorter(lines: Sequence[Line], seed: int) -> tuple[Data, Sorter]:
    """Act two: characters in, a kind a line out. Each character attends to its line; the pool weighs what they say."""
    labels = Labels(KINDS)
    tokenize = Tokenize.train([line.text for line in lines], "characters")
    data = tokenize >> Bucket(max_steps=768, seed=seed) >> Pad(labels=labels)
    states = Pack() >> Embed(tokenize.vocab_size, 16) >> Encode("bilstm", hidden_size=32) >> Attend("general")
    model = states >> Pool("attention") >> Classify(labels)
    return data, model


@attrs.frozen
class Step:
    """One step of training: what it cost, and how much of its batch was real."""

    loss: float
    report: Report


def teach(data: Data, model: Tagger | Sorter, examples: Sequence[Example[str]], epochs: int) -> Iterator[Step]:
    """Train, a step whenever the next one is asked for; the learning rate falls from row to row, to nothing."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    rows, seen = len(examples) * epochs, 0
    for _ in range(epochs):
        for batch in data(examples):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - seen / rows)
            optimizer.zero_grad()
            loss = model(batch).loss()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
            optimizer.step()
            seen += len(batch.lengths)
            yield Step(loss.item(), batch.report())
