"""Row lengths of the measured batches: drawn at random, or as `Bucket` groups them."""

import math
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.batching import Plan, Rows

Lengths: TypeAlias = Literal[
    "~20", "~230", "~20, bucketed", "~230, bucketed", "1-512", "2,000", "~20 and 2,000", "even 128", "even 1,024"
]
"""The distributions: sentences and reviews, in random batches or in batches that `Bucket` makes of them; any length up to
512; one row of 2,000 steps, alone or among sentences; and rows that all have one length."""

_EVEN: Final[Mapping[str, int]] = {"2,000": 2_000, "even 128": 128, "even 1,024": 1_024}
"""The length of every row, for distributions with one length."""

_SENTENCES: Final = (0.5, 17.6)
_REVIEWS: Final = (0.7, 180.0)
"""Deviation of the logarithm, and median, of the lengths."""

_BATCHES: Final = 200
"""Batches in the epoch from which a bucketed batch is taken: enough that every length occurs in some batch."""


def draw_lengths(lengths: Lengths, rows: int) -> Int64[Tensor, " batch"]:
    """Draw the lengths of a batch of `rows` rows; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    if lengths in _EVEN:
        return torch.full((rows,), _EVEN[lengths])
    if lengths == "1-512":
        return torch.randint(1, 513, (rows,), generator=generator)
    deviation, median = _REVIEWS if lengths.startswith("~230") else _SENTENCES
    if lengths.endswith("bucketed"):
        return _bucket_lengths(_draw_log_normal(rows * _BATCHES, deviation, median, generator), rows)
    drawn = _draw_log_normal(rows, deviation, median, generator)
    if lengths == "~20 and 2,000":
        drawn[0] = _EVEN["2,000"]
    return drawn


def _bucket_lengths(lengths: Int64[Tensor, " row"], rows: int) -> Int64[Tensor, " batch"]:
    """Return the lengths of one batch of an epoch planned with the default policy: the batch with the median of steps.

    In a bucketed epoch most batches have nearly even rows, short ones and long ones. The batch in the middle by its
    number of real steps stands for them.
    """
    plan = Plan.of(lengths.tolist(), Rows(rows), seed=0)
    batches = sorted((lengths[torch.as_tensor(batch)] for batch in plan), key=lambda batch: int(batch.sum()))
    return batches[len(batches) // 2]


def _draw_log_normal(rows: int, deviation: float, median: float, generator: torch.Generator) -> Int64[Tensor, " row"]:
    """Draw lengths whose logarithms are normally distributed, which fits sentences and reviews well."""
    logarithms = torch.randn(rows, generator=generator) * deviation + math.log(median)
    return logarithms.exp().round().long().clamp(2, 600)
