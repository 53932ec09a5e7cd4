"""Tests of the input stages for ids and features."""

from typing import Any, cast

import numpy as np
import pytest
import torch

from pipeline import FromFeatures, FromIds, Ids, Pad, Row, Tokenize, TokenizeWords, Vectors
from pipeline.errors import (
    PipelineError,
    ShapeError,
    ValuesError,
)
from pipeline.stages.input_stage import InputStage
from support.untyped import to_list, untyped

BAD: list[tuple[InputStage[Any, Any], object, type[PipelineError], str]] = [
    (FromIds(), [1.5], ValuesError, "row 1 must be a sequence of integers, got 1.5 at step 0; use Tokenize for text"),
    (FromIds(), ["a", 4], ValuesError, "must be a sequence of integers, got 'a' at step 0"),
    (FromIds(), (False, True), ValuesError, "must be a sequence of integers, got False at step 0"),
    (FromIds(), [3, [4]], ValuesError, r"must be a sequence of integers, got \[4\] at step 1"),
    (FromFeatures(), [1, "x"], ShapeError, "time x feature, got 'x' at step 1; convert"),
    (FromFeatures(), ["1.5"], ShapeError, "time x feature, got '1.5' at step 0; convert"),
    (FromFeatures(), [None, "1.5"], ShapeError, "time x feature, got None at step 0; convert"),
    (FromFeatures(), [[1.0, 2.0], (3.0, b"4")], ShapeError, "time x feature, got b'4' at step 1; convert"),
    (FromFeatures(), [[1.0, 2.0], [3.0]], ShapeError, "time x feature, got a list; convert"),
    (FromIds(), "12", ValuesError, "row 1 must be a sequence of integers, got a str"),
    (FromIds(), torch.zeros(2, 2), ValuesError, r"row 1 must be a sequence of integers, got float32 of shape \(2, 2\)"),
    (FromIds(), [3, -1], ValuesError, "row 1, step 1 is -1, but ids must be 0 or more"),
    (FromIds(), [2**63], ValuesError, r"row 1, step 0 is 9223372036854775808, but ids must be 0 or more, up to 2\*\*63 - 1"),
    (FromIds(), [2**70], ValuesError, "row 1 must be a sequence of integers"),
    (FromIds(), np.array([1, 2**64 - 1], np.uint64), ValuesError, "row 1, step 1 is 18446744073709551615, but ids"),
    (FromIds(), torch.tensor([True]), ValuesError, "row 1 must be a sequence of integers, got bool"),
    (FromFeatures(), torch.zeros(2), ShapeError, r"row 1 must be a floating-point tensor of time x feature, got float32 of"),
    (FromFeatures(), np.zeros((2, 2)), ShapeError, r"got a ndarray; convert an array with torch\.from_numpy\(array\)\.float"),
    (FromFeatures(), torch.zeros(2, 2).long(), ShapeError, "row 1 must be a floating-point tensor"),
    (FromFeatures(), [["a"]], ShapeError, "row 1 must be a floating-point tensor of time x feature, got 'a' at step 0"),
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


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32, np.int64, np.uint64])
def test_ids_of_every_integer_type_are_converted(dtype: type[np.integer[Any]]) -> None:
    """Arrays too. They are copied, so that later changes of the array have no effect."""
    numbers = np.array([1, 2], dtype)
    row = cast("Row[Ids]", untyped(FromIds())(numbers))
    numbers[0] = 7
    assert row.sequence.values.dtype is torch.int64
    assert to_list(row.sequence.values) == [1, 2]
    tensor = torch.tensor([1, 2], dtype=getattr(torch, np.dtype(dtype).name))
    assert to_list(FromIds()(tensor).sequence.values) == [1, 2]


def test_gradients_reach_features() -> None:
    """Features may come from a front end that is trained too."""
    front = torch.nn.Linear(3, 3)
    rows = FromFeatures().map([front(torch.ones(count, 3)) for count in (2, 0, 1)])
    batch = Pad(Vectors)(list(rows))
    (gradient,) = torch.autograd.grad(batch.values.sum(), [front.bias])
    assert torch.equal(gradient, torch.full((3,), 3.0))
    with torch.no_grad():
        assert torch.equal(
            Pad(Vectors)(list(FromFeatures().map([front(torch.ones(2, 3))]))).values[0], front(torch.ones(2, 3))
        )
