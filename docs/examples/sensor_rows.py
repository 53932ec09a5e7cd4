"""Classify sensor readings of unequal length: `python docs/examples/sensor_rows.py [FILE]`.

FILE is an .npz archive with `x` (steps of all rows by features), `len` (steps per row) and `y` (a class per row).
"""

import sys
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from pipeline import Bucket, Classify, Encode, Example, FromFeatures, Pack, Pad, Pool, Vectors
from pipeline.sources import Records
from pipeline_recurrent import GRU


def make_waves(rows: int = 300, classes: int = 3) -> Iterator[Example[Tensor]]:
    """Make noisy waves of 10 to 60 steps in two channels, by class: a sine, a square, a sawtooth."""
    for row in range(rows):
        phase = torch.rand(1) + torch.arange(int(torch.randint(10, 61, ()))) / 12
        shapes = ((2 * torch.pi * phase).sin(), (phase % 1 < 0.5) * 2.0 - 1, 2 * (phase % 1) - 1)
        yield Example(torch.stack([shapes[row % classes]] * 2, dim=1) + 0.3 * torch.randn(len(phase), 2), row % classes)


def read_rows(file: str) -> list[Example[Tensor]]:
    """Read rows that are stored one after the other."""
    with np.load(file) as stored:
        rows = torch.split(torch.tensor(stored["x"]), stored["len"].tolist())
        return [Example(row, target) for row, target in zip(rows, stored["y"].tolist(), strict=True)]


# Data: rows of features, time x feature, and a class per row.
torch.default_generator.manual_seed(0)
rows = Records(read_rows(sys.argv[1]) if sys.argv[1:] else list(make_waves()))
train, valid = rows.split(0.8, seed=0)
features, classes = rows[0].input.shape[1], len(set(rows.targets()))

# Stages: nothing to tokenize or embed; the stages say that they handle vectors.
data = FromFeatures() >> Bucket(Vectors, max_padded_steps=600, seed=0) >> Pad(Vectors)
model = Pack(Vectors) >> Encode(GRU(features, 32, bidirectional=True)) >> Pool("mean") >> Classify(classes)
pipe = data >> model

# Training, and evaluation: one class per row.
pipe.fit(train, epochs=15, learning_rate=0.01)
print(f"accuracy on {len(valid)} held-out rows: {pipe.evaluate(valid)['accuracy']:.1%}")
