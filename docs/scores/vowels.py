"""Recognize the speaker of a vowel: convolutions over short multivariate rows."""

from itertools import accumulate, pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from pipeline import Bucket, Classify, Dropout, Encode, Example, FromFeatures, Join, Pad, Pool, Vectors
from pipeline_convolutional import CNN
from scores.task import Task

_FEATURES: Final = 12
_SPEAKERS: Final = 9


def run(folder: Path, seed: int) -> dict[str, float]:
    """Train on the 270 rows for training, and return the accuracy on the 370 rows of the test set."""
    (train, targets), (test, wanted) = (_read(folder / "japanese_vowels.npz", part) for part in ("train", "test"))
    mean, scale = torch.cat(train).mean(0), torch.cat(train).std(0)
    data = FromFeatures() >> Bucket(Vectors, rows=32, seed=seed) >> Pad(Vectors)
    torch.default_generator.manual_seed(seed)
    encode = Encode(CNN(_FEATURES, 64, kernel_sizes=(3, 5)))
    pools = Join(Pool("mean"), Pool("max"))
    pipe = data >> Dropout(0.2) >> encode >> pools >> Dropout(0.3) >> Classify(_SPEAKERS)
    pipe.fit(
        [Example((row - mean) / scale, target=target) for row, target in zip(train, targets, strict=True)],
        epochs=40,
        learning_rate=5e-3,
        weight_decay=1e-3,
        schedule="cosine",
        warmup=0.1,
        label_smoothing=0.1,
        seed=seed,
        progress=False,
    )
    found = pipe.predict([(row - mean) / scale for row in test])
    right = sum(prediction == target for prediction, target in zip(found, wanted, strict=True))
    return {"accuracy": 100 * right / len(wanted)}


def _read(file: Path, part: str) -> tuple[list[Tensor], list[int]]:
    """Return the rows of a part, frames x coefficients, and the number of the speaker of each."""
    with np.load(file) as arrays:
        frames = torch.tensor(arrays[f"{part}_x"])
        lengths: list[int] = arrays[f"{part}_len"].tolist()
        targets: list[int] = arrays[f"{part}_y"].tolist()
    return [frames[start:end] for start, end in pairwise([0, *accumulate(lengths)])], targets


TASK: Final = Task("vowels", "Japanese Vowels (Kudo et al. 1999)", "accuracy in %", goal=98.0, run=run)
