"""The masked softmax that attentions share."""

import pytest
import torch

from pipeline.errors import ShapeError
from pipeline.parts.attention import masked_softmax
from support.untyped import to_list


def test_masked_scores_affect_neither_weights_nor_gradients() -> None:
    """Masked NaN changes no result; a fully masked query has weights and gradients of zero."""
    scores = torch.tensor([[1.0, 1.0, torch.nan], [torch.nan] * 3], requires_grad=True)
    weights = masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]]))
    assert to_list(weights.detach()) == [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    (gradient,) = torch.autograd.grad((weights * torch.tensor([1.0, 2.0, 3.0])).sum(), scores)
    assert to_list(gradient) == [[-0.25, 0.25, 0.0], [0.0, 0.0, 0.0]]


def test_scores_must_be_floating_point() -> None:
    """Integer scores raise an error, because their softmax would be truncated."""
    with pytest.raises(ShapeError, match="masked_softmax: scores must be Float.*got int64"):
        masked_softmax(torch.ones(2).long(), torch.ones(2).bool())
