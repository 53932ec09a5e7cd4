"""Rows: pickling without neighbors, cutting, and fillers."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch

from pipeline import BPTTWindows, Bucket, Example, FromIds, Ids, Row, Tokenize, Vectors
from pipeline.batching import Rows
from pipeline.data.rows import FILLER, RowCutter, cut_row, make_filler
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError, TargetError
from pipeline.labels import Target
from support.records import Pair
from support.untyped import as_any, to_list, untyped


def test_a_row_is_pickled_without_its_neighbors() -> None:
    """Copied or pickled, a row holds only its own steps; shared memory stays shared."""
    row = list(FromIds().map([Example([index, 7], target=index) for index in range(30)]))[4]
    assert row.sequence.values.untyped_storage().nbytes() > 16
    for copied in (pickle.loads(pickle.dumps(row)), copy.deepcopy(row)):
        assert copied.sequence.values.untyped_storage().nbytes() == 16
        assert (to_ints(copied.sequence.values), copied.target, copied.row_id) == ([4, 7], 4, 4)
    texts = list(Tokenize.train(["to be"]).map(["to be", "be"]))
    offsets = pickle.loads(pickle.dumps(texts[1])).sequence.offsets
    assert to_list(offsets) == [[0, 2]]
    shared = torch.arange(6)
    untyped(shared.share_memory_)()
    assert untyped(Ids(shared[2:4]).__reduce__()[1][0].is_shared)()


def test_cut_rows_keep_targets_masks_and_offsets_of_their_steps() -> None:
    """The parts of a row have its id, and know where they start."""
    ids = Ids(torch.tensor([5, 6, 7]), torch.tensor([[0, 1], [1, 2], [2, 4]]))
    row = Row(ids, target=["A", None, "B"], row_id=4, answer_mask=[True, False, True], start_step=10)
    part = cut_row(row, 1, 3)
    assert part.sequence.offsets is not None
    assert (to_ints(part.sequence.values), to_list(part.sequence.offsets)) == ([6, 7], [[1, 2], [2, 4]])
    assert (part.target, part.answer_mask, part.row_id, part.start_step) == ([None, "B"], [False, True], 4, 11)
    assert cut_row(Row(Vectors(torch.ones(3, 2)), target="C"), 0, 2).target == "C"
    with pytest.raises(TargetError, match="target of row 4 must have one entry per step, got 2 for 3 steps; use None"):
        cut_row(Row(ids, target=[1, 2], row_id=4), 0, 1)


def test_a_filler_is_empty_and_has_no_target() -> None:
    """Whatever the target of the row is whose kind it has."""
    targets: list[Target] = [[1, 2], 3, None, {"class": 1}]
    for target in targets:
        filler = make_filler(Row(Ids(torch.tensor([5, 6])), target=target, row_id=4))
        assert (len(filler), filler.target, filler.row_id) == (0, None, FILLER)


def test_a_vector_of_numbers_is_a_target_of_the_whole_row() -> None:
    """Each part of a cut row has it; NaN among classes is a step without one."""
    row = Row(Ids(torch.tensor([5, 6])), target=[0.5, 2])
    assert cut_row(row, 0, 1).target == [0.5, 2]
    assert cut_row(Row(Ids(torch.tensor([5, 6])), target=[float("nan"), 2]), 1, 2).target == [2]
    named: Target = {"size": [0.5, 2], "tags": [1, 2], "kind": {"a"}}
    expected: Target = {"size": [0.5, 2], "tags": [2], "kind": {"a"}}
    assert cut_row(Row(Ids(torch.tensor([5, 6])), target=named), 1, 2).target == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: Bucket(Pair, max_padded_steps=2, too_long="split"),
        lambda: Bucket(Pair, policy=Rows(2, longest=2, too_long="split")),
        lambda: BPTTWindows(Pair, rows=1, steps=2),
        lambda: cut_row(Row(Pair(Ids(torch.arange(3)), Ids(torch.arange(1)))), 2, 4),
    ],
)
def test_rows_with_sides_are_not_split(make: Callable[[], object]) -> None:
    """A later part would have an empty side, and the class of the pair."""
    with pytest.raises(OptionError, match=r'rows of Pair cannot be split.*use Bucket\(..., too_long="truncate"\)'):
        make()


def test_rows_with_sides_are_truncated() -> None:
    """The longer side, until both fit the budget together."""
    row = Row(Pair(Ids(torch.arange(5)), Ids(torch.arange(1))), target="A")
    [[cut]] = Bucket(Pair, max_padded_steps=3, too_long="truncate")([row])
    assert [len(side) for side in cut.sequence.get_sequences().values()] == [2, 1]


def test_windows_of_arrays_and_named_targets_are_cut_and_others_repeated() -> None:
    """A cutter gives each part the targets of its steps; of an array, its entries; a target of the row stays."""
    row = Row(Ids(torch.arange(3)), as_any({"tags": torch.tensor([7, 8, 9]), "label": 4, "size": [0.5, 1.0]}))
    cutter = RowCutter(row)
    parts = [cutter.cut(0, 2), cutter.cut(2, 3)]
    targets = [part.target for part in parts]
    assert [as_any(target)["tags"].tolist() for target in targets] == [[7, 8], [9]]
    assert [(as_any(target)["label"], as_any(target)["size"]) for target in targets] == [(4, [0.5, 1.0])] * 2
    with pytest.raises(TargetError, match="must have one entry per step, got 2 for 3 steps"):
        RowCutter(Row(Ids(torch.arange(3)), target=[1, 2]))
