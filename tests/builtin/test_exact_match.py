"""Tests of the metric `exact_match`."""

import pytest
import torch

from pipeline import Decoded, Generation
from pipeline.builtin.exact_match import ExactMatch
from pipeline.data.metadata import BatchMetadata
from pipeline.data.scores import Scores
from pipeline.errors import TargetError


def make_output(ids: list[list[int]], *, with_texts: bool = True) -> Decoded[str]:
    """Return rows with the targets [4, 3], [5, 6, 3], and none, and generated ids."""
    targets = torch.tensor([[4, 3, -100], [5, 6, 3], [-100, -100, -100]])
    metadata = BatchMetadata(torch.arange(3), targets, target_lengths={"": torch.tensor([2, 3, 0])})
    texts = [[Generation("", each, [0.0] * len(each), True), Generation("", [9], [0.0], True)] for each in ids]
    return Decoded(None, texts if with_texts else None, metadata=metadata)


def test_counts_texts_whose_tokens_are_all_right() -> None:
    """The best text counts, with eos; rows without a target do not."""
    metric = ExactMatch()
    metric.update(make_output([[4, 3], [5, 6], [3]]))
    assert metric.compute() == 0.5
    metric.update(make_output([[4, 3], [5, 6, 3], []]))
    assert metric.compute() == 0.75
    assert metric.higher_is_better


def test_merges_with_another_part() -> None:
    """As all metrics."""
    one, other = ExactMatch(), ExactMatch()
    one.update(make_output([[4, 3], [5, 6, 3], [3]]))
    other.update(make_output([[3], [3], [3]]))
    one.merge(other)
    assert one.compute() == 0.5


def test_needs_texts() -> None:
    """Neither classes, nor the output of training mode."""
    with pytest.raises(TargetError, match="Decoded"):
        ExactMatch().update(Scores(torch.eye(2), ["a", "b"]))
    with pytest.raises(TargetError, match="a text per row"):
        ExactMatch().update(make_output([[3]], with_texts=False))
