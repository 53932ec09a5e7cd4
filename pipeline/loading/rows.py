"""Rows by number, read from a source through an input stage; and rows cut as a plan says."""

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, final

from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.batching.lengths import RowSplits
from pipeline.data.iteration import by_position, check_ordered
from pipeline.data.kinds import K
from pipeline.data.rows import Example, Row
from pipeline.errors import OptionError, ShapeError
from pipeline.loading.records import Indexable, add_record_note, cut_rows, fetch, fetch_one
from pipeline.stages.input_stage import InputStage, to_examples

X = TypeVar("X")


@final
class RowDataset(Dataset[Row[K]], Generic[X, K]):
    """Map-style dataset of the rows of a source, each made when it is read: the `dataset` of a `DataLoader`.

    An error in reading or preparing a record gets a note with the record's number, and with its file and line if the
    source has a `where`.

    Args:
        source: examples or bare inputs, by number.
        input_stage: makes rows of them, such as `Tokenize`, `FromIds` or `FromFeatures`.
        one_by_one: read and prepare one record at a time. This is slower, but if a worker dies or hangs, the error then
            names a single record instead of all records of the batch.

    Raises:
        OptionError: if the source has no fixed order, as a set, or is read by label, as a mapping or a table. A pandas
            Series is read by position.

    Example:
        >>> from pipeline import FromIds
        >>> rows = RowDataset([[5, 6, 7], [8]], FromIds())
        >>> len(rows), len(rows[0]), [row.row_id for row in rows.__getitems__([1, 0])]
        (2, 3, [1, 0])
    """

    def __init__(
        self,
        source: Indexable[X | Example[X]],
        input_stage: InputStage[X, K],
        *,
        one_by_one: bool = False,
    ) -> None:
        check_ordered(source)
        self.source: Final = source
        self._records: Final[Indexable[X | Example[X]]] = by_position(source)
        self.input_stage: Final = input_stage
        self.one_by_one: Final = one_by_one

    def __len__(self) -> int:
        return len(self.source)

    @override
    def __getitem__(self, index: int) -> Row[K]:
        """Return the row of one record."""
        return self._make_row(index)

    def __getitems__(self, indices: Sequence[int]) -> list[Row[K]]:
        """Return the rows of several records, prepared together.

        Raises:
            ShapeError: if the input stage does not return one row per example.
        """
        if self.one_by_one:
            return [self._make_row(index) for index in indices]
        try:
            rows = self.input_stage.make_rows(to_examples(fetch(self._records, indices)), indices)
        except Exception as error:  # noqa: BLE001 - raised below, unless one of the records raises by itself
            first = error
        else:
            if len(rows) == len(indices):
                return rows
            name = type(self.input_stage).__name__
            msg = (
                f"{name}.make_rows must return one row per example, got {len(rows)} rows for {len(indices)} "
                f"examples; fix {name}.make_rows."
            )
            first = ShapeError(msg, rows=len(rows), examples=len(indices))
        # An error about all of them together does not say which record caused it: repeat one by one to name it.
        for index in indices:
            self._make_row(index)
        raise first

    def where(self, index: int) -> str:
        """Return the place of a record as the source names it; its number if the source has no `where`."""
        where: Callable[[int], str] | None = getattr(self.source, "where", None)
        return f"number {index} of {type(self.source).__name__}" if where is None else where(index)

    def _make_row(self, index: int) -> Row[K]:
        example = to_examples([fetch_one(self._records, index)])[0]
        try:
            return self.input_stage.make_rows([example], [index])[0]
        except Exception as error:
            add_record_note(error, self.source, index)
            raise


@final
class CutRows(Dataset[Row[K]], Generic[K]):
    """Map-style dataset of rows truncated or split as the policy of a plan says.

    A `Loader` cuts rows by itself; this is for a stock `DataLoader`.

    Args:
        rows: the whole rows, by number.
        splits: `PlannedBatches.splits`, the part of a row that each number in a batch stands for.

    Raises:
        OptionError: if the plan was made for another number of rows.

    Example:
        >>> from pipeline import FromIds
        >>> from pipeline.batching import Budget
        >>> from pipeline.loading import PlannedBatches, RowDataset
        >>> batches = PlannedBatches([5, 2], Budget(3, too_long="split"), seed=None)
        >>> rows = CutRows(RowDataset([[1, 2, 3, 4, 5], [6, 7]], FromIds()), batches.splits)
        >>> [rows[number].sequence.values.tolist() for number in range(len(rows))]
        [[1, 2, 3], [6, 7], [4, 5]]
    """

    def __init__(self, rows: Indexable[Row[K]], splits: RowSplits) -> None:
        if splits.rows != len(rows):
            msg = (
                f"splits must be planned for the rows of the dataset, got a plan of {splits.rows} rows for {len(rows)} "
                "rows; plan with the lengths of these rows."
            )
            raise OptionError(msg, rows=len(rows), splits=splits.rows)
        self.rows: Final = rows
        self.splits: Final = splits

    def __len__(self) -> int:
        return len(self.splits)

    @override
    def __getitem__(self, index: int) -> Row[K]:
        """Return one row or part of a row."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row[K]]:
        """Return several rows or parts of rows."""
        slices = [self.splits[index] for index in indices]
        return cut_rows(fetch(self.rows, [part.row for part in slices]), slices)
