"""Lists of numbers as tensors: what many made together are, and what of their neighbours they keep."""

import copy
import pickle
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Example, FromIds, Ids, Pad, Row, Tokenize, TokenizeWords
from pipeline.data.lists import tensors_of
from pipeline.data.order import ints
from pipeline.errors import ShapeError, TargetError, ValuesError
from support.untyped import listed, loosely


def held(row: Row[Ids]) -> int:
    """How many bytes a row keeps from being freed."""
    return row.sequence.values.untyped_storage().nbytes()


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=90), max_size=80))
def test_tensors_made_together_are_those_made_one_by_one(lists: list[list[int]]) -> None:
    """In order, empty ones among them, of any size that fits."""
    tensors = tensors_of(lists)
    assert [ints(tensor) for tensor in tensors] == lists
    assert {tensor.dtype for tensor in tensors} <= {torch.int64}


@pytest.mark.parametrize("length", [0, 1, 31, 40, 2_000])
def test_a_row_that_is_kept_keeps_few_of_its_neighbours(length: int) -> None:
    """At most 4 KiB, or what it holds itself, however many came with it."""
    rows = list(FromIds().map([[7] * length] * 300))
    assert max(map(held, rows)) <= max(4 * 1_024, 8 * length)


def test_a_row_travels_without_its_neighbours() -> None:
    """Pickled or deeply copied it holds its own steps alone, and is the same row; what is shared stays shared."""
    row = list(FromIds().map([Example([place, 7], target=place) for place in range(30)]))[4]
    assert held(row) > 16
    for again in (pickle.loads(pickle.dumps(row)), copy.deepcopy(row)):
        assert (held(again), ints(again.sequence.values), again.target, again.row_id) == (16, [4, 7], 4, 4)
    texts = list(Tokenize.train(["to be"]).map(["to be", "be"]))
    offsets = pickle.loads(pickle.dumps(texts[1])).sequence.offsets
    assert listed(offsets) == [[0, 2]]
    shared = torch.arange(6)
    loosely(shared.share_memory_)()
    assert loosely(Ids(shared[2:4]).__reduce__()[1][0].is_shared)()


@given(st.lists(st.lists(st.integers(0, 9), max_size=40), min_size=1, max_size=70), st.integers(1, 5))
def test_a_batch_is_its_rows_padded_one_by_one(lists: list[list[int]], multiple: int) -> None:
    """Ids, lengths, and targets of steps beside them."""
    rows = list(FromIds().map([Example(numbers, target=[9 - number for number in numbers]) for numbers in lists]))
    batch = Pad(value=11, multiple_of=multiple)(rows)
    width = -(-max(map(len, lists)) // multiple) * multiple
    assert listed(batch.values) == [numbers + [11] * (width - len(numbers)) for numbers in lists]
    assert ints(batch.lengths) == list(map(len, lists))
    targets = [[9 - number for number in numbers] + [-100] * (width - len(numbers)) for numbers in lists]
    assert batch.metadata.targets is not None
    assert listed(batch.metadata.targets) == targets


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([True, False], "row 2 must be whole numbers"),
        ([1.5], "row 2 must be whole numbers"),
        ([2**63], "row 2 must be whole numbers"),
        ([3, -4], "row 2, step 1 is -4, but ids count from 0"),
        ("57", "row 2 must be whole numbers"),
    ],
)
def test_one_bad_row_among_many_is_named(numbers: object, message: str) -> None:
    """Though all were to be made together."""
    with pytest.raises(ValuesError, match=message):
        list(FromIds().map(cast("list[list[int]]", [[1, 2], [], numbers, [3]])))


@pytest.mark.parametrize(
    "values", [torch.tensor([1], dtype=torch.int32), torch.tensor([[1]]), torch.tensor(1), torch.tensor([0.5])]
)
def test_ids_that_do_not_fit_the_others_are_refused(values: torch.Tensor) -> None:
    """Joined with int64 ids, some of them would become ids in silence."""
    with pytest.raises(ShapeError, match="row 5 is .*, but every row must be int64 ids of time"):
        Pad(max_length=9)([Row(Ids(torch.tensor([1, 2]))), Row(Ids(values), row_id=5)])


def test_rows_of_words_and_texts_keep_their_targets() -> None:
    """Beside rows that have none, and at their own places, with and without offsets."""
    words = TokenizeWords.train([["low", "lower"]], "bytes", offsets=False)
    rows = list(words.map([["é"], Example(["low", "é"], target=["A", "B"])]))
    assert [row.answer_mask for row in rows] == [[True, False], [True, False, False, True, False]]
    assert rows[1].target == ["A", None, None, "B", None]
    assert rows[1].sequence.offsets is None
    texts = Tokenize.train(["a b"], offsets=False)
    found = list(texts.map(["a", Example("a b", target=[1, 2]), Example("b", target="B")]))
    assert [(row.target, row.row_id, len(row)) for row in found] == [(None, 0, 1), ([1, 2], 1, 2), ("B", 2, 1)]
    with pytest.raises(TargetError, match="row 1 has 2 tokens but 1 targets"):
        list(texts.map(["a", Example("a b", target=[1])]))
