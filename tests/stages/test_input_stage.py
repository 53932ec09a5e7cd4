"""Tests of the input stages for ids and features."""

from typing import Any

import pytest
import torch

from pipeline import FromFeatures, FromIds, Tokenize, TokenizeWords
from pipeline.errors import (
    PipelineError,
    ShapeError,
    ValuesError,
)
from pipeline.stages.input_stage import InputStage

BAD: list[tuple[InputStage[Any, Any], object, type[PipelineError], str]] = [
    (FromIds(), [1.5], ValuesError, "row 1 must be a sequence of integers, got a list; use Tokenize for text"),
    (FromIds(), "12", ValuesError, "row 1 must be a sequence of integers, got a str"),
    (FromIds(), torch.zeros(2, 2), ValuesError, r"row 1 must be a sequence of integers, got float32 of shape \(2, 2\)"),
    (FromIds(), [3, -1], ValuesError, "row 1, step 1 is -1, but ids must be 0 or more"),
    (FromFeatures(), torch.zeros(2), ShapeError, r"row 1 must be a floating-point tensor of time x feature, got float32 of"),
    (FromFeatures(), torch.zeros(2, 2).long(), ShapeError, "row 1 must be a floating-point tensor"),
    (FromFeatures(), [[1.0]], ShapeError, "row 1 must be a floating-point tensor of time x feature, got a list"),
    (FromFeatures(), torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), ValuesError, "row 1, step 1, feature 1 is nan, but features"),
    (FromFeatures(), torch.tensor([[torch.inf]]), ValuesError, "row 1, step 0, feature 0 is inf, but features must be finite"),
]  # fmt: skip


GOOD: dict[type, object] = {Tokenize: "a", TokenizeWords: ["a"], FromIds: [1], FromFeatures: torch.zeros(1, 2)}


@pytest.mark.parametrize(("stage", "value", "error", "message"), BAD)
def test_invalid_inputs_raise_with_their_row(
    stage: InputStage[Any, Any], value: object, error: type[PipelineError], message: str
) -> None:
    """The second of two inputs is invalid."""
    with pytest.raises(error, match=message) as info:
        list(stage.map([GOOD[type(stage)], value]))
    assert info.value.details["row"] == 1
