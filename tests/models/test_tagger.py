"""Test the tagger of steps."""

import pytest
import torch

from pipeline import (
    Ids,
    Labels,
    Padded,
    character_tagger,
    tagger,
)
from pipeline.errors import UnknownOptionError

BATCH = Padded(Ids, torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1]))


def test_a_tagger_scores_each_step() -> None:
    """With labels, predictions are class names."""
    labels = Labels(["noun", "verb"])
    rows = list(tagger(9, labels, embedding_dim=4, hidden_size=5)(BATCH).rows())
    assert [len(tags) for _, tags in rows] == [3, 1]
    assert all(tag in labels for _, tags in rows for tag in tags)


def test_a_tagger_may_choose_the_tags_of_a_row_together() -> None:
    """By a registered head, and its rules of spans."""
    labels = Labels(["O", "B-x", "I-x"])
    model = tagger(9, labels, embedding_dim=4, hidden_size=5, head="crf", constraints="bio")
    assert [len(tags) for _, tags in model(BATCH).rows()] == [3, 1]
    assert all(tags[0] != "I-x" for _, tags in model(BATCH).rows())
    words = character_tagger(9, 5, labels, embedding_dim=4, hidden_size=5, head="crf")
    assert repr(words).endswith("Dropout >> CRF")
    with pytest.raises(UnknownOptionError, match="constraints"):
        tagger(9, labels, constraints="bio")
