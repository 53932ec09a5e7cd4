"""Row lengths of the measured batches: drawn at random, or as `Bucket` groups them."""

import math
from collections.abc import Callable, Mapping
from operator import methodcaller
from typing import Final, Literal, TypeAlias

import torch
from jaxtyping import Int64
from torch import Tensor

from pipeline.batching import Plan, Rows

Lengths: TypeAlias = Literal[
    "~20", "~230", "~20, bucketed", "~230, bucketed", "1-512", "2,000", "~20 and 2,000", "exactly 128", "exactly 1,024"
]
"""The distributions: sentences and reviews, in random batches or in batches that `Bucket` makes of them; any length up
to 512; one row of 2,000 steps, alone or among sentences; and rows of equal length."""

_EQUAL: Final[Mapping[str, int]] = {"2,000": 2_000, "exactly 128": 128, "exactly 1,024": 1_024}
"""The length of every row, for distributions with one length."""

# Deviation of the logarithm, and median: means of about 20 words per sentence and 230 words per review.
_SENTENCES: Final = (0.5, 17.6)
_REVIEWS: Final = (0.7, 180.0)

_BATCHES: Final = 200
"""Batches in the epoch from which a bucketed batch is taken: enough that every length occurs in some batch."""

to_ints: Callable[[Tensor], list[int]] = methodcaller("tolist")
"""Convert a tensor of integers of one axis to a list; `Tensor.tolist` itself is untyped."""


def draw_lengths(lengths: Lengths, rows: int) -> Int64[Tensor, " batch"]:
    """Draw the lengths of a batch of `rows` rows; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    if lengths in _EQUAL:
        return torch.full((rows,), _EQUAL[lengths])
    if lengths == "1-512":
        return torch.randint(1, 513, (rows,), generator=generator)
    deviation, median = _REVIEWS if lengths.startswith("~230") else _SENTENCES
    if lengths.endswith("bucketed"):
        return _bucket_lengths(_draw_log_normal(rows * _BATCHES, deviation, median, generator), rows)
    drawn = _draw_log_normal(rows, deviation, median, generator)
    if lengths == "~20 and 2,000":
        drawn[0] = _EQUAL["2,000"]
    return drawn


def _bucket_lengths(lengths: Int64[Tensor, " row"], rows: int) -> Int64[Tensor, " batch"]:
    """Return the lengths of one batch of an epoch planned with the default policy: the batch with the median of steps.

    In a bucketed epoch the rows of most batches are of nearly equal length, short in some batches and long in others.
    The batch with the median number of real steps represents them.
    """
    plan = Plan.of(to_ints(lengths), Rows(rows), seed=0)
    batches = sorted((lengths[torch.as_tensor(batch)] for batch in plan), key=lambda batch: int(batch.sum()))
    return batches[len(batches) // 2]


def _draw_log_normal(rows: int, deviation: float, median: float, generator: torch.Generator) -> Int64[Tensor, " row"]:
    """Draw lengths whose logarithms are normally distributed, which fits sentences and reviews well."""
    logarithms = torch.randn(rows, generator=generator) * deviation + math.log(median)
    return logarithms.exp().round().long().clamp(2, 600)
