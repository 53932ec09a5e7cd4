"""Rows of unequal length to make batches of."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias, cast

import attrs
import numpy as np
from numpy.typing import NDArray

Lengths: TypeAlias = NDArray[np.int64]

BUDGET: Final = 4_096
"""How many padded steps a batch may have, where there is a budget."""


class LengthsError(ValueError):
    """A file of lengths that cannot be measured with."""


@attrs.frozen
class Spread:
    """Lengths whose logarithms are normal, as those of texts nearly are.

    Attributes:
        rows: how many there are.
        middle: the median, in steps.
        spread: the deviation of the logarithm.
        most: the greatest length; greater ones are cut to it.

    Example:
        >>> Spread(rows=3, middle=20, spread=0.5, most=60).drawn().tolist()
        [21, 19, 28]
    """

    rows: int
    middle: float
    spread: float
    most: int

    def drawn(self) -> Lengths:
        """The lengths, the same at every call; none is below 1."""
        logarithms = np.random.default_rng(0).normal(math.log(self.middle), self.spread, self.rows)
        return np.exp(logarithms).round().clip(1, self.most).astype(np.int64)


EWT: Final = Spread(rows=12_544, middle=13.0, spread=0.75, most=159)
"""About as the sentences of the English Web Treebank, in words: as many, as long on average, the longest as long."""

IMDB: Final = Spread(rows=25_000, middle=174.0, spread=0.65, most=2_470)
"""About as the reviews of the Large Movie Review Dataset, in words."""

SENTENCES: Final = Spread(rows=100_000, middle=17.6, spread=0.5, most=600)
"""Sentences of 20 words on average."""


@attrs.frozen(eq=False)
class Corpus:
    """Lengths, and what they are called."""

    name: str
    lengths: Lengths

    @classmethod
    def sentences(cls, rows: int) -> "Corpus":
        """So many sentences."""
        return cls("~20", attrs.evolve(SENTENCES, rows=rows).drawn())

    @classmethod
    def read(cls, file: Path) -> "Corpus":
        """Lengths of one's own.

        Raises:
            LengthsError: if the file is not one of `numpy.save`, or holds anything but lengths that fit the budget.
        """
        try:
            found = cast("NDArray[np.generic]", np.load(file, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            msg = f"{file} must be what numpy.save wrote, but cannot be read ({error})."
            raise LengthsError(msg) from error
        if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
            msg = f"{file} must hold one whole number a row, but holds {found.dtype} of shape {found.shape}."
            raise LengthsError(msg)
        lengths = found.astype(np.int64)
        if (wrong := np.flatnonzero((lengths < 1) | (lengths > BUDGET))).size:
            row = int(wrong[0])
            msg = f"{file} must hold lengths of 1 to {BUDGET:,} steps, the budget, but row {row} has {lengths[row]:,}."
            raise LengthsError(msg)
        return cls(file.stem, lengths)

    def __str__(self) -> str:
        return f"{len(self.lengths):,} rows, {self.name}"


CORPORA: Final[Mapping[str, Spread]] = {"like ewt": EWT, "like imdb": IMDB, "~20": SENTENCES}
