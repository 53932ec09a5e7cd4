"""Rows of a small data set, made once and kept for all epochs."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final, Generic, cast, final

import numpy as np
import numpy.typing as npt
from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.core.running import locate_errors
from pipeline.data.iteration import iterate
from pipeline.data.kinds import K, Kind, count_steps
from pipeline.data.rows import Row
from pipeline.sources.source import Source
from pipeline.stages.input_stage import FromFeatures, FromIds, InputStage
from pipeline.stages.tokenize import Tokenize
from pipeline.stages.tokenize_words import TokenizeWords

_RANDOM_MERGES: Final = re.compile(r"dropout\W+0?\.\d")
"""The dropout of a BPE tokenizer in its JSON."""

_MAX_ROWS: Final = 200_000
_MAX_STEPS: Final = 10_000_000
"""Limits of what is kept: about 200 MB of rows, and of ids with their offsets in the text."""


@final
class CachedRows(Dataset[Row[K]], Generic[K]):
    """Map-style dataset of rows in memory.

    Args:
        rows: the rows.
        source: the records of which they were made, for the places in errors.
    """

    def __init__(self, rows: Sequence[Row[K]], source: object) -> None:
        self.rows: Final = rows
        self.source: Final = source

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """The number of steps of each row; two numbers for rows with two sides."""
        counts = np.array([count_steps(row.sequence) for row in self.rows], np.int32)
        # One number per row without an axis of its own, and also without rows.
        return counts if counts.shape[1:] == (2,) else counts.reshape(-1)

    def __len__(self) -> int:
        return len(self.rows)

    @override
    def __getitem__(self, index: int) -> Row[K]:
        """Return the row of one record."""
        return self.rows[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Row[K]]:
        """Return the rows of several records."""
        return [self.rows[index] for index in indices]

    def where(self, index: int) -> str:
        """Return the place of a record as the source names it; its number if the source has no `where`."""
        where: Any = getattr(self.source, "where", None)
        return f"number {index} of {type(self.source).__name__}" if where is None else cast("str", where(index))


def cache_rows(examples: Iterable[Any], input_stage: InputStage[Any, Kind]) -> CachedRows[Kind] | None:
    """Make the rows of a data set once, if they are the same in every epoch and not too many; else return None.

    They are the same if both the records and the stage say so: lists and sources, and stages without anything random. A
    data set or a stage of one's own may draw at random each time, to augment the data.

    Raises:
        PipelineError: as the input stage.
    """
    known: object = examples
    if not isinstance(known, list | tuple | Source) or not _is_repeatable(input_stage):
        return None
    rows: list[Row[Kind]] = []
    steps = 0
    for row in locate_errors(input_stage.map(iterate(examples)), examples):
        rows.append(row)
        steps += len(row)
        if len(rows) > _MAX_ROWS or steps > _MAX_STEPS:
            return None
    return CachedRows(rows, examples)


def _is_repeatable(input_stage: object) -> bool:
    if isinstance(input_stage, Tokenize | TokenizeWords):
        # A tokenizer without a key makes no promise, and subword regularization (a dropout of merges) draws at random.
        key = input_stage.tokenizer.cache_key()
        return key is not None and _RANDOM_MERGES.search(key) is None
    return type(input_stage) in {FromIds, FromFeatures}
