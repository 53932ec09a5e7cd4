"""What fairseq's batches are cut by: all rows sorted once, and batches that never change."""

from collections.abc import Iterator

import numpy as np

from bench.batching.corpus import Lengths
from bench.batching.epoch import Batch


def sorted_once(lengths: Lengths, budget: int, multiple: int = 1) -> Iterator[Batch]:
    """Rows from the shortest to the longest, each batch as full as the budget has room for.

    It is written anew, since fairseq itself needs an older Python.

    Args:
        lengths: how many steps each row has.
        budget: how many padded steps a batch may have.
        multiple: batches of more rows than this have a multiple of it: fairseq's command line takes 8, which makes
            smaller batches, and more of them.

    Source: fairseq's `batch_by_size` with `max_tokens` (Ott et al. 2019, "fairseq: A Fast, Extensible Toolkit for
    Sequence Modeling", arXiv:1904.01038).

    Example:
        >>> lengths = np.array([4, 1, 5, 2, 2, 2])
        >>> [batch.tolist() for batch in sorted_once(lengths, 8)]
        [[1, 3, 4, 5], [0], [2]]
        >>> [batch.tolist() for batch in sorted_once(lengths, 8, multiple=3)]
        [[1, 3, 4], [5, 0], [2]]
    """
    order = np.argsort(lengths, kind="stable")
    ascending: list[int] = lengths[order].tolist()
    start = 0
    while start < len(ascending):
        rows = _fitting(ascending, start, budget)
        rows -= rows % multiple if rows > multiple else 0
        yield order[start : start + rows]
        start += rows


def _fitting(ascending: list[int], start: int, budget: int) -> int:
    """How many rows fit together from here on; one at least."""
    stop = start + 1
    while stop < len(ascending) and (stop + 1 - start) * ascending[stop] <= budget:
        stop += 1
    return stop - start
