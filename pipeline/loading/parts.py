"""Long rows cut as a plan cuts them."""

from collections.abc import Callable, Sequence
from typing import Final, Generic, cast, final

import attrs
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from pipeline.batching.pieces import Pieces
from pipeline.errors import OptionError
from pipeline.loading.fetching import Numbered, fetched
from pipeline.sequences.rows import K, Row, is_step_target


def part_of(row: Row[K], begin: int, end: int | None) -> Row[K]:
    """The steps of a row from `begin` to `end`, with their targets; its place, and a target of the whole row, stay.

    Example:
        >>> import torch
        >>> from pipeline import Ids
        >>> part = part_of(Row(Ids(torch.tensor([5, 6, 7])), target=["a", "b", "c"], place=4), 1, None)
        >>> part.sequence.values.tolist(), part.target, part.place
        ([6, 7], ['b', 'c'], 4)
    """
    if not begin and (end is None or len(row) <= end):
        return row
    steps = slice(begin, end)
    names = [field.name for field in attrs.fields(cast("type[attrs.AttrsInstance]", type(row.sequence)))]
    values: dict[str, object] = {name: getattr(row.sequence, name) for name in names}
    # mypy's own idea of evolve refuses a type variable.
    evolve: Callable[..., K] = cast("Callable[..., K]", attrs.evolve)
    cut = {name: value[steps] for name, value in values.items() if isinstance(value, Tensor)}
    target = row.target
    if isinstance(target, Sequence) and is_step_target(target):
        target = target[steps]
    asked = None if row.asked is None else row.asked[steps]
    return Row(evolve(row.sequence, **cut), target, row.place, asked)


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
        >>> from pipeline import Numbers
        >>> from pipeline.batching import Budget
        >>> from pipeline.loading import PlannedBatches, RowDataset
        >>> batches = PlannedBatches([5, 2], Budget(3, long_rows="split"), seed=None)
        >>> rows = CutRows(RowDataset([[1, 2, 3, 4, 5], [6, 7]], Numbers()), batches.pieces)
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
        return [part_of(row, piece.begin, piece.end) for row, piece in zip(rows, pieces, strict=True)]
