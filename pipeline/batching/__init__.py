"""Batches planned from lengths alone, before any row is read."""

from pipeline.batching.analysis import Coverage, PaddingOutlier, PaddingReport, Randomness
from pipeline.batching.batches import Uneven
from pipeline.batching.cursor import Cursor, StreamCursor
from pipeline.batching.lengths import RowSlice, RowSplits
from pipeline.batching.plan import Plan
from pipeline.batching.policies import Boundaries, Budget, Policy, Rows, Shapes, TooLong

__all__ = [
    "Boundaries",
    "Budget",
    "Coverage",
    "Cursor",
    "PaddingOutlier",
    "PaddingReport",
    "Plan",
    "Policy",
    "Randomness",
    "RowSlice",
    "RowSplits",
    "Rows",
    "Shapes",
    "StreamCursor",
    "TooLong",
    "Uneven",
]
