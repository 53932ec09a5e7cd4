"""Long rows cut as a plan cuts them."""

from collections.abc import Sequence
from typing import Final, Generic, final

from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.batching.pieces import Piece, Pieces
from pipeline.data.rows import K, Row
from pipeline.data.windows import window_of
from pipeline.errors import OptionError
from pipeline.loading.fetching import Numbered, fetched


@final
class CutRows(Dataset[Row[K]], Generic[K]):
    """Rows of a dataset, truncated or split into pieces, as the policy of a plan says: what its numbers mean.

    A `Loader` cuts by itself; this is for a stock `DataLoader`.

    Args:
        rows: the rows by number, whole.
        pieces: `batches.pieces`.

    Raises:
        OptionError: if the pieces are those of another number of rows.

    Example:
        >>> from pipeline import FromIds
        >>> from pipeline.batching import Budget
        >>> from pipeline.loading import PlannedBatches, RowDataset
        >>> batches = PlannedBatches([5, 2], Budget(3, too_long="split"), seed=None)
        >>> rows = CutRows(RowDataset([[1, 2, 3, 4, 5], [6, 7]], FromIds()), batches.pieces)
        >>> [rows[number].sequence.values.tolist() for number in range(len(rows))]
        [[1, 2, 3], [6, 7], [4, 5]]
    """

    def __init__(self, rows: Numbered[Row[K]], pieces: Pieces) -> None:
        if pieces.rows != len(rows):
            msg = (
                f"pieces are those of {pieces.rows} rows, but the dataset has {len(rows)}; plan with the lengths of "
                "its rows."
            )
            raise OptionError(msg, rows=len(rows), pieces=pieces.rows)
        self.rows: Final = rows
        self.pieces: Final = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    @override
    def __getitem__(self, index: int) -> Row[K]:
        """One piece.

        Raises:
            IndexError: if there is none of that number.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Row[K]]:
        """Several pieces."""
        pieces = [self.pieces[index] for index in indices]
        rows = fetched(self.rows, [piece.row for piece in pieces])
        return [_part(row, piece) for row, piece in zip(rows, pieces, strict=True)]


def _part(row: Row[K], piece: Piece) -> Row[K]:
    end = len(row) if piece.end is None else piece.end
    return row if not piece.begin and end >= len(row) else window_of(row, piece.begin, end)
