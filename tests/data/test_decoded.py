"""Tests of `Decoded`: generated texts with scores of targets."""

import pytest
import torch

from pipeline import Decoded, Generation, StepScores
from pipeline.data.metadata import BatchMetadata
from pipeline.data.rows import FILLER
from pipeline.errors import CompositionError, TargetError

TEXTS = [[Generation("one", [4, 3], [-0.5, -0.25], True)], [Generation("", [3], [-1.0], True)]]


def make_output(*, with_targets: bool = True) -> Decoded[str]:
    """Return two rows, of which the second is a filler."""
    targets = torch.tensor([[4, 3], [-100, -100]])
    lengths = torch.tensor([2, 0])
    row_ids = torch.tensor([7, FILLER])
    scores = StepScores(torch.eye(5)[[4, 3]], lengths, range(5), metadata=BatchMetadata(row_ids, targets))
    metadata = BatchMetadata(row_ids, targets, target_lengths={"": lengths})
    return Decoded(scores if with_targets else None, TEXTS, metadata=metadata)


def test_yields_the_best_text_of_each_row() -> None:
    """Without fillers; with scores, all texts of the row."""
    output = make_output()
    assert list(output.rows()) == [(7, "one")]
    assert list(output.scored_rows()) == [(7, TEXTS[0])]
    assert TEXTS[0][0].log_probability == -0.75


def test_the_loss_is_that_of_the_target_tokens() -> None:
    """The mean cross-entropy over them."""
    expected = (torch.tensor(1.0).exp() + 4).log() - 1
    torch.testing.assert_close(make_output().loss(), expected)
    assert make_output().loss(reduction="none").shape == (2,)


def test_without_targets_there_is_no_loss() -> None:
    """The error says how to state targets."""
    with pytest.raises(TargetError, match="Pad.targets=Texts"):
        make_output(with_targets=False).loss()


def test_without_texts_there_are_no_rows() -> None:
    """In training mode none are generated."""
    output = Decoded[str](None, None, metadata=BatchMetadata(torch.tensor([0])))
    with pytest.raises(CompositionError, match="eval"):
        list(output.rows())


def test_moves_to_another_device() -> None:
    """Scores and targets, but not the lengths of targets."""
    moved = make_output().to("meta")
    assert moved.scores is not None
    assert moved.scores.values.is_meta
    assert moved.metadata.target_lengths is not None
    assert not moved.metadata.target_lengths[""].is_meta
