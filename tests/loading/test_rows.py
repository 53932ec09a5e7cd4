"""Rows by number: prepared together or one_by_one, alike; an error names the record, and where it stands."""

from collections.abc import Sequence
from typing import final

import pytest
import torch
from typing_extensions import override

from pipeline import Example, FromIds, Ids, Row, Tokenize, Vectors
from pipeline.batching import Budget
from pipeline.data.windows import cut_row
from pipeline.errors import OptionError, ShapeError, ValuesError
from pipeline.loading import CutRows, PlannedBatches, RowDataset
from pipeline.sources import Records
from pipeline.stages.input_stage import InputStage
from support.troubles import Stumbling, Troubled
from support.untyped import listed

TEXTS = ["to be", "or not", "to be that is", ""]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_rows_are_those_of_the_door(one_by_one: bool) -> None:
    """With their places and targets, in the order that is asked for; from a list, and from a source."""
    examples = [Example(text, number) for number, text in enumerate(TEXTS)]
    tokenize = Tokenize.train(TEXTS)
    wanted = list(tokenize.map(examples))
    for source in (examples, Records(examples)):
        rows = RowDataset(source, tokenize, one_by_one=one_by_one)
        assert len(rows) == 4
        for row, number in zip(rows.__getitems__([2, 0, 3]), [2, 0, 3], strict=True):
            assert listed(row.sequence.values) == listed(wanted[number].sequence.values)
            assert (row.target, row.row_id) == (number, number)
        assert rows[1].row_id == 1
        with pytest.raises(IndexError):
            rows[4]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_an_error_names_the_record(one_by_one: bool) -> None:
    """By its number and its place, whether reading it failed, or the door."""
    unread = RowDataset(Troubled([1, 1, 1, 1], 2, "raise"), Stumbling(9, "raise"), one_by_one=one_by_one)
    with pytest.raises(KeyError, match="a field") as info:
        unread.__getitems__([3, 2, 1])
    assert info.value.__notes__[-1] == "It is record 2 (rows.txt, line 3)."
    unprepared = RowDataset(Troubled([1, 1, 1, 1], 9, "raise"), Stumbling(2, "refuse"), one_by_one=one_by_one)
    with pytest.raises(ValuesError, match="it is no good") as refused:
        unprepared.__getitems__([3, 2, 1])
    assert refused.value.__notes__ == ["It is record 2 (rows.txt, line 3)."]
    with pytest.raises(ValuesError, match="row 1, step 0 is -1, but ids count from 0"):
        RowDataset([[1], [-1]], FromIds(), one_by_one=one_by_one).__getitems__([0, 1])


def test_records_have_places() -> None:
    """The source's own, or their number."""
    assert RowDataset(Troubled([1], 9, "raise"), Stumbling(9, "raise")).where(0) == "rows.txt, line 1"
    assert RowDataset([[1]], FromIds()).where(0) == "number 0 of list"


def test_a_part_of_a_row_keeps_what_belongs_to_its_steps() -> None:
    """Values, offsets, targets a step, and which steps are asked for; its place, and a target a row."""
    offsets = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4]])
    row = Row(Ids(torch.arange(4), offsets), ["a", None, "c", "d"], 7, [True, False, True, True])
    part = cut_row(row, 1, 3)
    assert listed(part.sequence.values) == [1, 2]
    assert part.sequence.offsets is not None
    assert listed(part.sequence.offsets) == [[1, 2], [2, 3]]
    assert (part.target, part.row_id, part.answer_mask) == ([None, "c"], 7, [False, True])
    named = cut_row(Row(Vectors(torch.zeros(4, 2)), target="spam"), 3, 9)
    assert (len(named), named.target, named.answer_mask) == (1, "spam", None)


def test_pieces_put_together_are_the_rows() -> None:
    """Of a plan that splits; one that truncates leaves their beginnings."""
    counts = [7, 0, 3, 12, 2]
    rows = RowDataset([list(range(count)) for count in counts], FromIds())
    batches = PlannedBatches(counts, Budget(4, too_long="split"))
    pieces = CutRows(rows, batches.splits)
    found: dict[int, list[int]] = {place: [] for place in range(5)}
    for number in sorted(number for batch in batches for number in batch):
        found[pieces[number].row_id] += listed(pieces[number].sequence.values)
    assert found == {place: list(range(count)) for place, count in enumerate(counts)}
    short = CutRows(rows, PlannedBatches(counts, Budget(4, too_long="truncate")).splits)
    assert [len(short[number]) for number in range(len(short))] == [4, 0, 3, 4, 2]
    with pytest.raises(
        OptionError, match="pieces are those of 5 rows, but the dataset has 1; plan with the lengths of"
    ):
        CutRows(RowDataset([[1]], FromIds()), batches.splits)


@final
class Losing(InputStage[list[int], Ids]):
    """A door that loses all rows but the first."""

    @override
    def rows(self, examples: Sequence[Example[list[int]]], places: Sequence[int]) -> list[Row[Ids]]:
        return [Row(Ids(torch.tensor(examples[0].input)), row_id=places[0])]


def test_a_door_that_loses_rows_is_refused() -> None:
    """A batch would be smaller than planned, and nobody would know."""
    rows = RowDataset([[1], [2], [3]], Losing())
    assert rows[2].row_id == 2
    with pytest.raises(ShapeError, match="Losing gave 1 rows of 2 examples; mend its rows"):
        rows.__getitems__([0, 2])
