"""Lists become tensors in chunks, which share storage; rows are padded together."""

from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Example, FromIds, Ids, Pad, Row, Tokenize, TokenizeWords
from pipeline.data.tensors import to_ints, to_tensors
from pipeline.errors import ShapeError, TargetError, ValuesError
from support.untyped import to_list


@given(st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=90), max_size=80))
def test_chunked_conversion_equals_one_by_one(lists: list[list[int]]) -> None:
    """In order, with empty lists, of any int64."""
    tensors = to_tensors(lists)
    assert [to_ints(tensor) for tensor in tensors] == lists
    assert {tensor.dtype for tensor in tensors} <= {torch.int64}


@pytest.mark.parametrize("length", [0, 1, 31, 63, 70, 9_000])
def test_a_kept_row_holds_little_memory(length: int) -> None:
    """A row keeps at most its chunk of 32 KiB alive, or its own size."""
    rows = list(FromIds().map([[7] * length] * 300))
    held = [row.sequence.values.untyped_storage().nbytes() for row in rows]
    assert max(held) <= max(32 * 1_024, 8 * length)


@given(st.lists(st.lists(st.integers(0, 9), max_size=40), min_size=1, max_size=70), st.integers(1, 5))
def test_padded_batch_equals_rows_padded_one_by_one(lists: list[list[int]], multiple: int) -> None:
    """Ids, lengths, and targets per step."""
    rows = list(FromIds().map([Example(numbers, target=[9 - number for number in numbers]) for numbers in lists]))
    batch = Pad(value=11, multiple_of=multiple)(rows)
    width = -(-max(map(len, lists)) // multiple) * multiple
    assert to_list(batch.values) == [numbers + [11] * (width - len(numbers)) for numbers in lists]
    assert to_ints(batch.lengths) == list(map(len, lists))
    targets = [[9 - number for number in numbers] + [-100] * (width - len(numbers)) for numbers in lists]
    assert batch.targets is not None
    assert to_list(batch.targets) == targets


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ([True, False], "row 2 must be a sequence of integers"),
        ([1.5], "row 2 must be a sequence of integers"),
        ([2**63], "row 2, step 0 is 9223372036854775808, but ids must be 0 or more"),
        ([3, -4], "row 2, step 1 is -4, but ids must be 0 or more"),
        ("57", "row 2 must be a sequence of integers"),
    ],
)
def test_an_invalid_row_in_a_chunk_is_named(numbers: object, message: str) -> None:
    """The error names the one row, although its chunk is converted at once."""
    with pytest.raises(ValuesError, match=message):
        list(FromIds().map(cast("list[list[int]]", [[1, 2], [], numbers, [3]])))


@pytest.mark.parametrize(
    "values", [torch.tensor([1], dtype=torch.int32), torch.tensor([[1]]), torch.tensor(1), torch.tensor([0.5])]
)
def test_ids_of_another_dtype_or_shape_raise(values: torch.Tensor) -> None:
    """Concatenated with int64 ids, some of them would silently become ids."""
    with pytest.raises(ShapeError, match="row 5 must be int64 ids of time"):
        Pad(max_length=9)([Row(Ids(torch.tensor([1, 2]))), Row(Ids(values), row_id=5)])


def test_targets_of_words_and_texts_keep_their_rows() -> None:
    """Rows without targets in between, with and without offsets."""
    words = TokenizeWords.train([["low", "lower"]], "bytes", offsets=False)
    rows = list(words.map([["é"], Example(["low", "é"], target=["A", "B"])]))
    assert [row.answer_mask for row in rows] == [[True, False], [True, False, False, True, False]]
    assert rows[1].target == ["A", None, None, "B", None]
    assert rows[1].sequence.offsets is None
    texts = Tokenize.train(["a b"], offsets=False).with_token_targets()
    found = list(texts.map(["a", Example("a b", target=[1, 2]), Example("b", target="B")]))
    assert [(row.target, row.row_id, len(row)) for row in found] == [(None, 0, 1), ([1, 2], 1, 2), ("B", 2, 1)]
    with pytest.raises(TargetError, match=r"row 1 .*2 tokens"):
        list(texts.map(["a", Example("a b", target=[1])]))
