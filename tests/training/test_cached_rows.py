"""Rows that are made once: which ones, and that they are those of their stage."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from pipeline import Example, FromIds, Row, Tokenize, TokenizePair
from pipeline.data.kinds import Ids
from pipeline.errors import ValuesError
from pipeline.loading import RowDataset
from pipeline.sources import Records
from pipeline.stages.input_stage import InputStage
from pipeline.training import cached_rows
from pipeline.training.cached_rows import cache_rows
from support.untyped import as_any

EXAMPLES = [Example([1, 2, 3], 0), Example([], 1), Example([4], 1)]


def test_cached_rows_are_those_of_the_stage() -> None:
    """With their lengths, targets and places."""
    source = Records(EXAMPLES)
    found, wanted = cache_rows(source, as_any(FromIds())), RowDataset(source, as_any(FromIds()))
    assert found is not None
    assert found.lengths.tolist() == [3, 0, 1]
    for one, other in zip(found.__getitems__([2, 0]), wanted.__getitems__([2, 0]), strict=True):
        assert torch.equal(as_any(one).sequence.values, as_any(other).sequence.values)
        assert (one.row_id, one.target) == (other.row_id, other.target)
    assert found.where(1) == source.where(1)


class Random(InputStage[Any, Ids]):
    """A stage of one's own, which may augment the data."""

    def make_rows(self, examples: Sequence[Example[Any]], row_ids: Sequence[int]) -> list[Row[Ids]]:
        """Return empty rows."""
        del examples
        return [Row(Ids(torch.zeros(0, dtype=torch.int64)), row_id=row) for row in row_ids]


class Drawn:
    """A map-style data set that may draw at random."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Example[Any]:
        return EXAMPLES[index]


def test_what_may_be_random_is_not_cached() -> None:
    """Stages and data sets of one's own, and tokenizers with a dropout of merges; pairs are left out too."""
    assert cache_rows(EXAMPLES, as_any(Random())) is None
    assert cache_rows(as_any(Drawn()), as_any(FromIds())) is None
    assert cache_rows([("to be", "be")], as_any(TokenizePair(Tokenize.train(["to be"])))) is None
    tokenize = Tokenize.train(["to be or not"], "bpe")
    assert cache_rows(["to be"], as_any(tokenize)) is not None
    as_any(tokenize.tokenizer)._tokenizer.model.dropout = 0.1
    assert cache_rows(["to be"], as_any(tokenize)) is None


def test_large_data_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of rows, and of steps."""
    with monkeypatch.context() as context:
        context.setattr(cached_rows, "_MAX_ROWS", 2)
        assert cache_rows(EXAMPLES, as_any(FromIds())) is None
    monkeypatch.setattr(cached_rows, "_MAX_STEPS", 3)
    assert cache_rows(EXAMPLES, as_any(FromIds())) is None


def test_an_error_names_the_place_of_its_row() -> None:
    """As when rows are made one by one."""
    with pytest.raises(ValuesError, match="row 1, step 0 is -3.*Row 1 is list, record 2"):
        cache_rows(Records([Example([1], 0), Example([-3], 0)]), as_any(FromIds()))
