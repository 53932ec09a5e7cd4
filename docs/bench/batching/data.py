"""Lengths of rows to make batches of, and what an implementation makes of them: epochs of batches."""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeAlias, cast

import attrs
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from bench.encoders.points import draw_lengths, to_ints
from pipeline import Ids, Pad, Row
from pipeline.batching import Budget, Cursor, Plan, Policy, Rows
from pipeline.loading import Loader, PlannedBatches

Lengths: TypeAlias = NDArray[np.int64]

Batch: TypeAlias = Sequence[int] | NDArray[np.signedinteger]
"""The indices of the rows of a batch."""

BUDGET: Final = 4_096
"""The largest number of padded steps of a batch, for implementations with a budget."""


class LengthsError(ValueError):
    """A file of row lengths that cannot be used."""


@attrs.frozen
class LogNormal:
    """Lengths whose logarithms are normally distributed, which fits the lengths of texts well.

    Attributes:
        rows: the number of rows.
        median: the median length.
        deviation: the standard deviation of the logarithm.
        longest: the greatest length; greater ones are clipped.

    Example:
        >>> LogNormal(rows=3, median=20, deviation=0.5, longest=60).draw().tolist()
        [21, 19, 28]
    """

    rows: int
    median: float
    deviation: float
    longest: int

    def draw(self) -> Lengths:
        """Draw lengths of at least 1, the same at every call."""
        logarithms = np.random.default_rng(0).normal(math.log(self.median), self.deviation, self.rows)
        return np.exp(logarithms).round().clip(1, self.longest).astype(np.int64)


# Number of rows, mean length and longest row are about those of the data set, in words.
EWT: Final = LogNormal(rows=12_544, median=13.0, deviation=0.75, longest=159)
"""Similar to the training sentences of the English Web Treebank."""

IMDB: Final = LogNormal(rows=25_000, median=174.0, deviation=0.65, longest=2_470)
"""Similar to the training reviews of the Large Movie Review Dataset."""

SENTENCES: Final = LogNormal(rows=100_000, median=17.6, deviation=0.5, longest=600)
"""Sentences with a mean of 20 words."""

DISTRIBUTIONS: Final[Mapping[str, LogNormal]] = {"like EWT": EWT, "like IMDb": IMDB, "~20 steps": SENTENCES}


@attrs.frozen(eq=False)
class Corpus:
    """Row lengths and their name."""

    name: str
    lengths: Lengths

    @classmethod
    def sentences(cls, rows: int) -> Self:
        """Draw the lengths of a number of sentences."""
        return cls("~20 steps", attrs.evolve(SENTENCES, rows=rows).draw())

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read the user's lengths.

        Raises:
            LengthsError: if the file was not written by `numpy.save`, or has anything but lengths within the budget.
        """
        try:
            found = cast("NDArray[np.generic]", np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            msg = f"{file} must be written by numpy.save, but cannot be read: {error}."
            raise LengthsError(msg) from error
        if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
            msg = f"{file} must have one integer per row, got {found.dtype} of shape {found.shape}."
            raise LengthsError(msg)
        lengths = found.astype(np.int64)
        if (wrong := np.flatnonzero((lengths < 1) | (lengths > BUDGET))).size:
            row = int(wrong[0])
            msg = f"lengths in {file} must be from 1 to {BUDGET:,}, the budget, got {lengths[row]:,} in row {row}."
            raise LengthsError(msg)
        return cls(file.stem, lengths)

    def __str__(self) -> str:
        return f"{len(self.lengths):,} rows, {self.name}"


@attrs.frozen(eq=False)
class Epoch:
    """The batches of an epoch, in order, from any implementation.

    Attributes:
        lengths: the length of each row of the data.
        rows: the indices of the rows, batch by batch.
        sizes: the number of rows of each batch.

    Example:
        >>> epoch = Epoch.of(np.array([4, 1, 5, 2]), [[2, 0], [3, 1]])
        >>> epoch.padded_steps.tolist(), f"{epoch.padding:.1%}"
        ([10, 4], '14.3%')
    """

    lengths: Lengths
    rows: Lengths
    sizes: Lengths

    @classmethod
    def of(cls, lengths: Lengths, batches: Iterable[Batch]) -> Self:
        """Collect batches; empty ones are left out."""
        found = [np.asarray(batch, np.int64) for batch in batches if len(batch)]
        return cls(lengths, np.concatenate([np.empty(0, np.int64), *found]), np.array([*map(len, found)], np.int64))

    @property
    def padded_steps(self) -> Lengths:
        """The number of steps of each batch with padding."""
        longest: Lengths = np.maximum.reduceat(self.lengths[self.rows], self._starts)
        return longest * self.sizes

    @property
    def padding(self) -> float:
        """The share of padding in all steps."""
        return 1 - int(self.lengths[self.rows].sum()) / int(self.padded_steps.sum())

    @property
    def correlation(self) -> float:
        """Pearson's correlation of the mean lengths of adjacent batches; 0 if it is undefined."""
        means = np.add.reduceat(self.lengths[self.rows], self._starts) / self.sizes
        if len(means) < 3 or not means[:-1].std() or not means[1:].std():
            return 0.0
        return float(np.corrcoef(means[:-1], means[1:])[0, 1])

    @property
    def misplaced(self) -> int:
        """The number of rows that are omitted or repeated."""
        return int((np.bincount(self.rows, minlength=len(self.lengths)) != 1).sum())

    def compute_repeated_batchmates(self, following: "Epoch") -> float:
        """Return the share of pairs of rows in one batch that are in one batch of the following epoch too."""
        pairs = int((self.sizes * (self.sizes - 1) // 2).sum())
        batch_then = np.full(len(self.lengths), -1, np.int64)
        batch_then[following.rows] = np.repeat(np.arange(len(following.sizes)), following.sizes)
        then = batch_then[self.rows]
        # One number per pair of batches, now and then: rows with equal numbers are batchmates in both epochs. Counting
        # them takes a sort, where comparing pairs of rows would take time quadratic in the batch size.
        both = np.repeat(np.arange(len(self.sizes)), self.sizes) * len(following.sizes) + then
        _, counts = np.unique(both[then >= 0], return_counts=True)
        return int((counts * (counts - 1) // 2).sum()) / pairs if pairs else 0.0

    @property
    def _starts(self) -> Lengths:
        starts: Lengths = np.cumsum(self.sizes) - self.sizes
        return starts


def draw_texts(rows: int, words: int) -> list[str]:
    """Draw sentences of about 20 words; the frequency of a word is inversely proportional to its rank (Zipf's law)."""
    draw, ranks = random.Random(0), range(1, words + 1)
    names, weights = [f"word{rank}" for rank in ranks], [1 / rank for rank in ranks]
    return [" ".join(draw.choices(names, weights, k=length)) for length in to_ints(draw_lengths("~20", rows))]


LoadEpoch: TypeAlias = Callable[[], Iterator[Tensor]]
"""Yields the padded ids, batch x time, of each batch of an epoch; at every call."""


@attrs.frozen
class BatchLimit:
    """The largest batch.

    Attributes:
        rows: the number of rows, for implementations without a budget of steps.
        max_padded_steps: the budget of padded steps; None if all implementations get a number of rows.
    """

    rows: int = 64
    max_padded_steps: int | None = BUDGET

    def __str__(self) -> str:
        return f"{self.rows} rows" if self.max_padded_steps is None else f"{self.max_padded_steps:,} padded steps"


class Implementation(ABC):
    """Makes the batches of an epoch.

    The constructor prepares the data as the package wants it. That happens once before training and is not timed.

    Args:
        lengths: the length of each row.
        limit: the largest batch.
    """

    def __init__(self, lengths: Lengths, limit: BatchLimit) -> None:
        self.lengths = lengths
        self.limit = limit

    @abstractmethod
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        """Yield the batches of an epoch for one rank, as indices of rows."""

    def sample(self, epoch: int) -> Iterator[object]:
        """Yield the batches of an epoch as a loader gets them, in the package's own type. This is timed."""
        return self.batches(epoch)

    def resume(self, epoch: int, batches_done: int) -> Iterator[Batch]:
        """Yield the remaining batches of an epoch. Without a state to restore, the first batches are skipped."""
        return islice(self.batches(epoch), batches_done, None)

    @abstractmethod
    def make_loader(self, ids: Sequence[list[int]]) -> LoadEpoch:
        """Return a loader of padded batches without worker processes; rows are held in the package's own type."""


def to_tensors(ids: Sequence[list[int]]) -> list[Tensor]:
    """Convert each row of ids to a tensor."""
    return [torch.tensor(row) for row in ids]


class Ours(Implementation):
    """The library's plans, with the default policy."""

    def __init__(self, lengths: Lengths, limit: BatchLimit) -> None:
        super().__init__(lengths, limit)
        self.policy: Policy = Rows(limit.rows) if limit.max_padded_steps is None else Budget(limit.max_padded_steps)

    def plan(self, epoch: int, world_size: int = 1) -> Plan:
        """Plan an epoch."""
        return Plan.of(self.lengths, self.policy, epoch=epoch, world_size=world_size)

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return iter(self.plan(epoch, world_size).rank(rank))

    @override
    def resume(self, epoch: int, batches_done: int) -> Iterator[Batch]:
        return iter(Plan.of(self.lengths, self.policy, after=Cursor(epoch, ((1, batches_done),))))

    @override
    def make_loader(self, ids: Sequence[list[int]]) -> LoadEpoch:
        rows = [Row(Ids(values), row_id=row) for row, values in enumerate(to_tensors(ids))]
        loader = Loader(rows, PlannedBatches(self.lengths, self.policy), Pad())

        def load_epoch() -> Iterator[Tensor]:
            return (batch.values for batch in loader)

        return load_epoch


class OursSorted(Ours):
    """The library's plans with all rows sorted together: the least padding, and the least randomness."""

    def __init__(self, lengths: Lengths, limit: BatchLimit) -> None:
        super().__init__(lengths, limit)
        self.policy = (
            Rows(limit.rows, batches_per_sort=None)
            if limit.max_padded_steps is None
            else Budget(limit.max_padded_steps, batches_per_sort=None)
        )
