"""Pooled vectors: each equals that of its row alone, in input order."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pipeline import Bucket, Classify, Dropout, Embed, Encode, FromIds, Heads, Join, Pad, Pool, Pooled, Regress, Tag
from pipeline.batching import Shapes
from pipeline.core.contexts import seeded
from pipeline.errors import CompositionError, TextError

ROWS = [[5, 6, 7], [3], [], [4, 4, 8, 2, 1, 6], [1, 2]]


def make_model() -> Any:
    """Return a model from ids to vectors, in float64; its dropout has no effect in prediction."""
    with seeded(0):
        states = Embed(9, 3) >> Encode("bilstm", hidden_size=4)
        return (states >> Join(Pool("max"), Pool("mean")) >> Dropout(0.5)).double()


def make_pipe(*after: Any, data: Any = None) -> Any:
    """Return a pipe with the model and other stages after it."""
    pipe: Any = (data or FromIds() >> Bucket(max_padded_steps=6) >> Pad()) >> make_model()
    for stage in after:
        pipe = pipe >> stage
    return pipe.double()


def run_alone(model: Any, row: list[int]) -> Tensor:
    """Return the vector of a row that is alone in its batch."""
    (batch,) = (FromIds() >> Bucket(rows=1) >> Pad())([row])
    with torch.no_grad():
        pooled: Pooled = model.eval()(batch)
    return pooled.values[0]


@pytest.mark.parametrize(
    "after", [(), (Classify(3),), (Heads(Classify(3), Regress()),)], ids=["no head", "a head", "two heads"]
)
def test_vectors_are_those_of_each_row_alone(after: Any) -> None:
    """With and without a head, after the last pooling, in evaluation mode, which is left afterwards."""
    pipe = make_pipe(*after)
    found = list(pipe.vectors(ROWS))
    for row, vector in zip(ROWS, found, strict=True):
        assert_close(vector, run_alone(make_model(), row))
        assert not vector.requires_grad
    assert pipe.training


def test_fillers_have_no_vector() -> None:
    """Rows that fill a batch up to its fixed shape belong to no input."""
    shapes = Shapes([(4, 8)])
    data = FromIds() >> Bucket(policy=shapes) >> Pad(policy=shapes)
    assert_close(list(make_pipe(data=data).vectors(ROWS)), list(make_pipe().vectors(ROWS)))


def test_vectors_are_computed_lazily() -> None:
    """The first comes before all inputs were read."""
    read: list[int] = []

    def inputs() -> Any:
        for number in range(1_000):
            read.append(number)
            yield [number % 9]

    pipe = make_pipe(data=FromIds() >> Bucket(rows=2, buffer_size=4) >> Pad())
    assert next(pipe.vectors(inputs())).shape == (16,)
    assert len(read) < 1_000


def test_a_pipe_without_pooling_has_no_vectors() -> None:
    """A tagger has one vector per step."""
    pipe: Any = FromIds() >> Bucket(rows=2) >> Pad() >> Embed(9, 3) >> Encode("gru", hidden_size=4) >> Tag(2)
    with pytest.raises(CompositionError, match="vectors needs a stage that returns pooled vectors, like Pool"):
        list(pipe.vectors(ROWS))


def test_one_text_is_no_inputs() -> None:
    """Its letters would be inputs."""
    with pytest.raises(TextError, match=r"pass \[text\]"):
        list(make_pipe().vectors("ab"))
