"""`RowDataset` and `CutRows`: the same rows prepared together or one by one; an error names the record."""

from collections.abc import Sequence
from pathlib import Path
from typing import final, overload

import pytest
import torch
from typing_extensions import override

from pipeline import Example, FromIds, Ids, Row, Tokenize, Vectors
from pipeline.batching import Budget
from pipeline.data.rows import cut_row
from pipeline.errors import OptionError, ShapeError, SourceError, ValuesError
from pipeline.loading import CutRows, Loader, PlannedBatches, RowDataset
from pipeline.sources import Records, TextFolder
from pipeline.stages.input_stage import InputStage
from support.troubles import TroubledSource, TroubledStage
from support.untyped import as_any, to_list

TEXTS = ["to be", "or not", "to be that is", ""]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_rows_are_those_of_the_input_stage(one_by_one: bool) -> None:
    """With row ids and targets, in the requested order; from a list, and from a source."""
    examples = [Example(text, number) for number, text in enumerate(TEXTS)]
    tokenize = Tokenize.train(TEXTS)
    wanted = list(tokenize.map(examples))
    for source in (examples, Records(examples)):
        rows = RowDataset(source, tokenize, one_by_one=one_by_one)
        assert len(rows) == 4
        for row, number in zip(rows.__getitems__([2, 0, 3]), [2, 0, 3], strict=True):
            assert to_list(row.sequence.values) == to_list(wanted[number].sequence.values)
            assert (row.target, row.row_id) == (number, number)
        assert rows[1].row_id == 1
        with pytest.raises(IndexError):
            rows[4]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_an_error_names_the_record(one_by_one: bool) -> None:
    """With its place in the file, for an error of the source and of the input stage."""
    unread = RowDataset(TroubledSource([1, 1, 1, 1], 2, "raise"), TroubledStage(9, "raise"), one_by_one=one_by_one)
    with pytest.raises(KeyError, match="a field") as info:
        unread.__getitems__([3, 2, 1])
    assert info.value.__notes__[-1] == "It is record 2 (rows.txt, line 3)."
    unprepared = RowDataset(TroubledSource([1, 1, 1, 1], 9, "raise"), TroubledStage(2, "reject"), one_by_one=one_by_one)
    with pytest.raises(ValuesError, match="bad record") as rejected:
        unprepared.__getitems__([3, 2, 1])
    assert rejected.value.__notes__ == ["It is record 2 (rows.txt, line 3)."]
    with pytest.raises(ValuesError, match="row 1, step 0 is -1, but ids must be 0 or more"):
        RowDataset([[1], [-1]], FromIds(), one_by_one=one_by_one).__getitems__([0, 1])


@final
class Augmented(Sequence[Row[Ids]]):
    """A dataset of a user's own around rows."""

    def __init__(self, rows: RowDataset[object, Ids]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Row[Ids]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row[Ids]]: ...
    @override
    def __getitem__(self, index: int | slice) -> Row[Ids] | list[Row[Ids]]:
        return self.rows[index] if isinstance(index, int) else self.rows.__getitems__(range(len(self))[index])


def test_an_error_names_the_record_once() -> None:
    """Not by each dataset around it."""
    rows = RowDataset(TroubledSource([1, 1, 1], 9, "raise"), TroubledStage(1, "reject"))
    with pytest.raises(ValuesError, match="bad record") as info:
        list(Loader(Augmented(as_any(rows)), PlannedBatches([1, 1, 1], Budget(1)), len))
    assert [note for note in info.value.__notes__ if note.startswith("It is")] == ["It is record 1 (rows.txt, line 2)."]


def test_an_error_of_another_file_names_that_file(tmp_path: Path) -> None:
    """A source checks all its files at its first read: the record that was asked for is not at fault."""
    for number in range(3):
        (tmp_path / f"{number}.txt").write_text("a b")
    rows = RowDataset(TextFolder(tmp_path), Tokenize.train(["a b"]))
    (tmp_path / "2.txt").write_text("a b c")
    with pytest.raises(SourceError, match=r"2\.txt' has changed") as info:
        rows[0]
    assert info.value.__notes__ == ["It was raised while record 0 was read."]


def test_where_names_the_place_of_a_record() -> None:
    """As the source names it, or by number."""
    assert RowDataset(TroubledSource([1], 9, "raise"), TroubledStage(9, "raise")).where(0) == "rows.txt, line 1"
    assert RowDataset([[1]], FromIds()).where(0) == "number 0 of list"


def test_a_part_of_a_row_has_the_fields_of_its_steps() -> None:
    """Values, offsets, targets per step and answer mask are cut; row id and a target per row are not."""
    offsets = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4]])
    row = Row(Ids(torch.arange(4), offsets), ["a", None, "c", "d"], 7, [True, False, True, True])
    part = cut_row(row, 1, 3)
    assert to_list(part.sequence.values) == [1, 2]
    assert part.sequence.offsets is not None
    assert to_list(part.sequence.offsets) == [[1, 2], [2, 3]]
    assert (part.target, part.row_id, part.answer_mask) == ([None, "c"], 7, [False, True])
    labeled = cut_row(Row(Vectors(torch.zeros(4, 2)), target="spam"), 3, 9)
    assert (len(labeled), labeled.target, labeled.answer_mask) == (1, "spam", None)


def test_the_parts_of_split_rows_add_up_to_the_rows() -> None:
    """With `too_long="truncate"`, only the beginnings are left."""
    counts = [7, 0, 3, 12, 2]
    rows = RowDataset([list(range(count)) for count in counts], FromIds())
    batches = PlannedBatches(counts, Budget(4, too_long="split"))
    parts = CutRows(rows, batches.splits)
    found: dict[int, list[int]] = {row: [] for row in range(5)}
    for number in sorted(number for batch in batches for number in batch):
        found[parts[number].row_id] += to_list(parts[number].sequence.values)
    assert found == {row: list(range(count)) for row, count in enumerate(counts)}
    short = CutRows(rows, PlannedBatches(counts, Budget(4, too_long="truncate")).splits)
    assert [len(short[number]) for number in range(len(short))] == [4, 0, 3, 4, 2]
    with pytest.raises(
        OptionError, match="splits must be planned for the rows of the dataset, got a plan of 5 rows for 1 rows"
    ):
        CutRows(RowDataset([[1]], FromIds()), batches.splits)


@final
class Losing(InputStage[list[int], Ids]):
    """Input stage that returns only the first row."""

    @override
    def make_rows(self, examples: Sequence[Example[list[int]]], row_ids: Sequence[int]) -> list[Row[Ids]]:
        return [Row(Ids(torch.tensor(examples[0].input)), row_id=row_ids[0])]


def test_an_input_stage_that_loses_rows_is_rejected() -> None:
    """Batches would silently be smaller than planned."""
    rows = RowDataset([[1], [2], [3]], Losing())
    assert rows[2].row_id == 2
    with pytest.raises(ShapeError, match="Losing.make_rows must return one row per example, got 1 rows for 2 examples"):
        rows.__getitems__([0, 2])
