"""Test the classifier of rows."""

import pytest
import torch

from pipeline import (
    Ids,
    Padded,
    classifier,
    language_model,
)
from pipeline.errors import CompositionError, ShapeError, UnknownNameError
from support.untyped import as_any

BATCH = Padded(Ids, torch.tensor([[1, 2, 3], [4, 0, 0]]), torch.tensor([3, 1]))


def test_a_classifier_scores_each_row() -> None:
    """Its options reach the stages."""
    model = classifier(9, 3, embedding_dim=4, hidden_size=5, encoder="gru", pooling="mean", dropout=0.5)
    assert model(BATCH).values.shape == (2, 3)
    assert [str(entry.output) for entry in model.check().entries][1::2] == [
        "Packed[Vectors] steps x 4",
        "States[Causal] steps x 5",
        "Pooled batch x 5",
    ]
    assert {getattr(stage, "p", 0.5) for stage in model.modules()} == {0.5}


def test_invalid_names_raise() -> None:
    """A language model needs a causal encoder."""
    with pytest.raises(CompositionError, match="encoder 'bilstm' must be causal, but its steps depend on later ones"):
        language_model(9, encoder="bilstm")
    with pytest.raises(UnknownNameError, match="'lstmm' is not the name of an installed encoder"):
        classifier(9, 2, encoder="lstmm")


def test_a_model_that_gets_texts_says_how_to_predict() -> None:
    """It takes batches, and only a pipe takes texts."""
    model = as_any(classifier(9, 3, embedding_dim=4, hidden_size=5))
    with pytest.raises(ShapeError, match=r"got a list; join .* predict: \(data >> model\)\.predict\(texts\)"):
        model(["to be"])
