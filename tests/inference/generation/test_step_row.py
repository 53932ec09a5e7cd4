"""One endless row through a pipe: each prediction is that of the whole row."""

from typing import Any

import attrs
import pytest
import torch

from pipeline import (
    Bucket,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    FromFeatures,
    FromFields,
    FromIds,
    Identity,
    Ids,
    Labels,
    Pad,
    Pool,
    Tag,
    Tokenize,
    Vectors,
    classifier,
    through,
)
from pipeline.batching import Shapes
from pipeline.core.contexts import seeded
from pipeline.errors import CompositionError, ShapeError, ValuesError
from support.stepping import make_language_model
from support.untyped import to_list

READINGS = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))


def make_sensor_pipe() -> Any:
    """Return a pipe over features, whose batches have a fixed shape in prediction."""
    policy = Shapes([(4, 8)])
    with seeded(0):
        model = Encode("lstm", input_size=2, hidden_size=3) >> Tag(Labels(["on", "off"]))
    return FromFeatures() >> Bucket(Vectors, policy=policy) >> Pad(Vectors, policy=policy) >> model


def run(pipe: Any, tokens: Any) -> list[Any]:
    """Return the prediction of each step."""
    carry = None
    found: list[Any] = []
    for token in tokens:
        prediction, carry = pipe.step(token, carry)
        found.append(prediction)
    return found


@pytest.mark.parametrize(
    "tokens",
    [list(READINGS), to_list(READINGS), [tuple(row) for row in to_list(READINGS)]],
    ids=["tensor", "list", "tuple"],
)
def test_readings_of_a_sensor_are_predicted_as_in_the_whole_row(tokens: list[Any]) -> None:
    """As tensors and as numbers; the steps count on."""
    pipe = make_sensor_pipe()
    (wanted,) = pipe.predict([READINGS], scores=True)
    found = run(pipe, tokens)
    assert [each.label for each in found] == [each.label for each in wanted]
    assert [each.probability for each in found] == pytest.approx([each.probability for each in wanted], abs=1e-6)
    assert [each.step for each in found] == [0, 1, 2, 3, 4]
    assert pipe.training


def test_ids_of_texts_are_predicted_as_in_the_whole_text() -> None:
    """Ids of the tokenizer, one by one, as numbers and as tensors."""
    tokenize = Tokenize.train(["to be or not to be"], bos=True)
    pipe: Any = tokenize >> Bucket(rows=3) >> Pad() >> make_language_model(tokens=tokenize.vocab_size)
    ids = tokenize("to be or").sequence.values
    (wanted,) = pipe.predict(["to be or"], scores=True)
    for tokens in (ids, to_list(ids)):
        found = run(pipe, tokens)
        assert [each.label for each in found] == [each.label for each in wanted]


@attrs.frozen(eq=False)
class Event(Fields):
    """A step with two fields."""

    code: Ids
    amount: Vectors


def test_events_are_predicted_as_in_the_whole_row() -> None:
    """Each event is a row of one step."""
    with seeded(0):
        embed = EmbedFields(Event, code=through(Embed(9, 3)), amount=through(Identity(1)))
        model = embed >> Encode("gru", causal=True, hidden_size=4) >> Tag(3)
    pipe: Any = FromFields(Event) >> Bucket(Event, rows=2) >> Pad(Event) >> model
    codes, amounts = torch.tensor([3, 1, 4]), torch.randn(3, 1)
    (wanted,) = pipe.predict([Event(Ids(codes), Vectors(amounts))])
    events = [Event(Ids(codes[step : step + 1]), Vectors(amounts[step : step + 1])) for step in range(3)]
    assert [each.label for each in run(pipe, events)] == wanted


@pytest.mark.parametrize(
    ("token", "error", "message"),
    [
        ([1.0, float("nan")], ValuesError, "feature 1 is nan"),
        (torch.ones(2, 2), ShapeError, "token must be an id, a vector"),
        ("on", ShapeError, "token must be an id, a vector"),
        (Vectors(torch.ones(2, 2)), ShapeError, "token must be one step, got 2 steps"),
        (3, ShapeError, "Ids"),
        (-3, ValuesError, "must be an id of 0 or more"),
    ],
    ids=["NaN", "two steps", "text", "a longer row", "an id for vectors", "a negative id"],
)
def test_what_is_not_one_step_is_rejected(token: Any, error: type[Exception], message: str) -> None:
    """With what was given."""
    with pytest.raises(error, match=message):
        make_sensor_pipe().step(token)


def test_a_pipe_without_predictions_per_step_is_rejected() -> None:
    """A classifier needs the whole row; the number of the stage is that in the pipe."""
    pipe: Any = FromIds() >> Bucket(rows=2) >> Pad() >> classifier(9, 2, encoder="lstm")
    with pytest.raises(CompositionError, match=r"^stage 8 `Pool` cannot run step by step"):
        pipe.step(1)


def test_a_pipe_that_ends_in_states_is_rejected() -> None:
    """Its model may step, but there is no prediction."""
    pipe: Any = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors) >> Encode("gru", input_size=2, hidden_size=3)
    with pytest.raises(CompositionError, match="must end in scores per step"):
        pipe.step([0.5, 1.0])


def test_a_pipe_without_pad_is_rejected() -> None:
    """There is no place at which rows become batches."""
    pipe: Any = FromIds() >> Bucket(rows=2)
    with pytest.raises(CompositionError, match="must have a stage Pad"):
        pipe.step(1)


def test_an_unused_pooling_is_named_first() -> None:
    """Stages are checked before any of them runs."""
    pipe: Any = FromFeatures() >> Bucket(Vectors, rows=2) >> Pad(Vectors)
    pipe = pipe >> Encode("gru", input_size=2, hidden_size=3) >> Pool("mean")
    with pytest.raises(CompositionError, match="stage 5 `Pool`"):
        pipe.step([0.5, 1.0])
