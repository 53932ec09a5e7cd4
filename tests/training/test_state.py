"""The state of a training as JSON and tensors."""

import json
import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.errors import LoadError, SaveError
from pipeline.training.state import get_random_state, join_tensors, seed_generators, set_random_state, split_tensors

VALUES: list[Any] = [
    {"a": [1, 2.5, None, True, "text"], "b": ()},
    {0: {"step": 3}, "x": (1, (2,))},
    {"$tensor": 1, "other": {"$tuple": []}},
    {(1, 2): "tuple as key"},
    [math.inf, -math.inf],
    Counter({3: 2}),
]


@pytest.mark.parametrize("value", VALUES)
def test_values_return_through_json(value: Any) -> None:
    """With their types; also those that look like our own marks."""
    tensors: dict[str, Tensor] = {}
    found = join_tensors(json.loads(json.dumps(split_tensors(value, tensors), allow_nan=False)), tensors)
    assert found == value
    assert type(found) is type(value)


def test_tensors_and_numbers_of_numpy() -> None:
    """Each tensor under its path."""
    tensors: dict[str, Tensor] = {}
    state = {"state": {0: {"step": torch.tensor(3.0)}}, "rate": np.float64(0.5)}
    found = join_tensors(json.loads(json.dumps(split_tensors(state, tensors))), tensors)
    assert list(tensors) == ["state.state.0.step"]
    assert found["state"][0]["step"] is tensors["state.state.0.step"]
    assert found["rate"] == 0.5


def test_objects_and_lost_tensors_are_rejected() -> None:
    """With their places."""
    with pytest.raises(SaveError, match=r"state.a.1 is a set, which a checkpoint cannot store without pickle"):
        split_tensors({"a": [1, {2}]}, {})
    with pytest.raises(LoadError, match="lacks the tensor 'x'"):
        join_tensors({"$tensor": "x"}, {})


def test_the_state_of_the_generators_returns_through_json() -> None:
    """Of Python, NumPy and torch; the next numbers are the same."""

    def draw() -> tuple[float, float, float, float]:
        return random.random(), random.gauss(0, 1), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    before = get_random_state()
    try:
        seed_generators(5)
        random.gauss(0, 1)
        tensors: dict[str, Tensor] = {}
        state = json.loads(json.dumps(split_tensors(get_random_state(), tensors)))
        wanted = draw()
        set_random_state(join_tensors(state, tensors))
        assert draw() == wanted
    finally:
        set_random_state(before)
