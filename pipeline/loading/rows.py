"""Rows by number, out of a source and a door."""

from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar, final

from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.batching.pieces import Piece, Pieces
from pipeline.errors import OptionError
from pipeline.loading.hands import reading
from pipeline.loading.naming import named
from pipeline.loading.parts import part_of
from pipeline.sequences.rows import Example, K, Row
from pipeline.stages.door import Door, example_of

X = TypeVar("X")
V_co = TypeVar("V_co", covariant=True)


class Numbered(Protocol[V_co]):
    """Things in order, each there for its number: a list, a `Source`, a `Dataset` of torch."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> V_co: ...


@final
class RowDataset(Dataset[Row[K]], Generic[X, K]):
    """The rows of a source, each made when it is asked for: the `dataset` of a `DataLoader`.

    An error that reading or preparing a record raises carries a note of its number, and of its file and line where the
    source has a `where`.

    Args:
        source: examples, or bare inputs, by number.
        door: what makes rows of them.
        pieces: what the numbers mean, if the policy truncates or splits long rows: `batches.pieces`. None: whole rows.
        singly: read and prepare one record at a time. It takes longer, but a worker that dies or hangs is then known
            to have been at that one, where many at a time leave as many to suspect.

    Raises:
        OptionError: if the pieces are those of another number of rows.

    Example:
        >>> from pipeline import Numbers
        >>> rows = RowDataset([[5, 6, 7], [8]], Numbers())
        >>> len(rows), len(rows[0]), [row.place for row in rows.__getitems__([1, 0])]
        (2, 3, [1, 0])
    """

    def __init__(
        self,
        source: Numbered[X | Example[X]],
        door: Door[X, K],
        *,
        pieces: Pieces | None = None,
        singly: bool = False,
    ) -> None:
        if pieces is not None and pieces.rows != len(source):
            msg = (
                f"pieces are those of {pieces.rows} rows, but the source has {len(source)}; plan with the lengths of "
                "this source."
            )
            raise OptionError(msg, rows=len(source), pieces=pieces.rows)
        self.source: Final = source
        self.door: Final = door
        self.pieces: Final = pieces
        self.singly: Final = singly

    def __len__(self) -> int:
        return len(self.source) if self.pieces is None else len(self.pieces)

    @override
    def __getitem__(self, index: int) -> Row[K]:
        """The row of one record.

        Raises:
            IndexError: if there is none of that number.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row[K]]:
        """The rows of several records, prepared together."""
        pieces = [self._piece(index) for index in indices]
        records = [piece.row for piece in pieces]
        rows = [self._row(record) for record in records] if self.singly else self._rows(records)
        return [part_of(row, piece.begin, piece.end) for row, piece in zip(rows, pieces, strict=True)]

    def where(self, index: int) -> str:
        """Where a record stands, as the source says it; its number, if it says nothing."""
        record = self._piece(index).row
        where: Callable[[int], str] | None = getattr(self.source, "where", None)
        return f"number {record} of {type(self.source).__name__}" if where is None else where(record)

    def _piece(self, index: int) -> Piece:
        if self.pieces is not None:
            return self.pieces[index]
        if not 0 <= index < len(self.source):
            msg = f"there are {len(self.source)} rows, from 0, but number {index} was asked for."
            raise IndexError(msg)
        return Piece(index)

    def _rows(self, records: list[int]) -> list[Row[K]]:
        try:
            rows = self.door.rows(self._examples(records), 0)
        except Exception as error:  # noqa: BLE001 - it is raised below, unless a record is found that raises
            first = error
        else:
            return [Row(row.sequence, row.target, record, row.asked) for row, record in zip(rows, records, strict=True)]
        # All together, nobody knows which it was: one by one, the one at fault is named.
        for record in records:
            self._row(record)
        raise first

    def _examples(self, records: list[int]) -> list[Example[X]]:
        several: Callable[[list[int]], list[X | Example[X]]] | None = getattr(self.source, "__getitems__", None)
        if several is not None:
            return [example_of(value) for value in several(records)]
        found: list[Example[X]] = []
        for record in records:
            reading(record)
            found.append(example_of(self.source[record]))
        reading(-1)
        return found

    def _row(self, record: int) -> Row[K]:
        reading(record)
        try:
            return self.door.rows([example_of(self.source[record])], record)[0]
        except Exception as error:
            error.add_note(f"It is {named(self.source, record)} of {type(self.source).__name__}.")
            raise
