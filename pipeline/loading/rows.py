"""Rows by number, out of a source and a door."""

from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, final

from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.data.rows import Example, K, Row
from pipeline.errors import ShapeError
from pipeline.loading.fetching import Numbered, fetched, fetched_one
from pipeline.loading.naming import named
from pipeline.stages.input_stage import InputStage, example_of, examples_of

X = TypeVar("X")


@final
class RowDataset(Dataset[Row[K]], Generic[X, K]):
    """The rows of a source, each made when it is asked for: the `dataset` of a `DataLoader`.

    An error that reading or preparing a record raises carries a note of its number, and of its file and line where the
    source has a `where`.

    Args:
        source: examples, or bare inputs, by number.
        door: what makes rows of them.
        singly: read and prepare one record at a time. It takes longer, but a worker that dies or hangs is then known
            to have been at that one, where many at a time leave as many to suspect.

    Example:
        >>> from pipeline import FromIds
        >>> rows = RowDataset([[5, 6, 7], [8]], FromIds())
        >>> len(rows), len(rows[0]), [row.place for row in rows.__getitems__([1, 0])]
        (2, 3, [1, 0])
    """

    def __init__(
        self,
        source: Numbered[X | Example[X]],
        door: InputStage[X, K],
        *,
        singly: bool = False,
    ) -> None:
        self.source: Final = source
        self.door: Final = door
        self.singly: Final = singly

    def __len__(self) -> int:
        return len(self.source)

    @override
    def __getitem__(self, index: int) -> Row[K]:
        """The row of one record.

        Raises:
            IndexError: if there is none of that number.
        """
        return self._row(index)

    def __getitems__(self, indices: Sequence[int]) -> list[Row[K]]:
        """The rows of several records, prepared together."""
        if self.singly:
            return [self._row(index) for index in indices]
        try:
            rows = self.door.rows(examples_of(fetched(self.source, indices)), indices)
        except Exception as error:  # noqa: BLE001 - it is raised below, unless a record is found that raises
            first = error
        else:
            if len(rows) == len(indices):
                return rows
            msg = f"{type(self.door).__name__} gave {len(rows)} rows of {len(indices)} examples; mend its rows."
            first = ShapeError(msg, given=len(rows), examples=len(indices))
        # All together, nobody knows which it was: one by one, the one at fault is named.
        for index in indices:
            self._row(index)
        raise first

    def where(self, index: int) -> str:
        """Where a record stands, as the source says it; its number there, if it says nothing."""
        where: Callable[[int], str] | None = getattr(self.source, "where", None)
        return f"number {index} of {type(self.source).__name__}" if where is None else where(index)

    def _row(self, index: int) -> Row[K]:
        example = example_of(fetched_one(self.source, index))
        try:
            return self.door.rows([example], [index])[0]
        except Exception as error:
            error.add_note(f"It is {named(self.source, index)}.")
            raise
