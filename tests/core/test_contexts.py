"""Context managers restore random number generators and modes, also after an error."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.core.contexts import preserve_random_state, seeded, temporary_mode


def draw() -> tuple[float, float, float]:
    """Return a number from each global generator."""
    numpy = float(np.random.rand())  # noqa: NPY002 - the global generator is the one to restore
    return random.random(), numpy, float(torch.rand(()))


def test_random_generators_are_restored() -> None:
    """Those of Python, NumPy and torch, also after an error."""
    with preserve_random_state():
        expected = draw()
    with pytest.raises(RuntimeError), preserve_random_state():
        raise RuntimeError(draw())
    assert draw() == expected


def test_a_seed_determines_torchs_numbers() -> None:
    """Inside the context only; other generators are neither seeded nor restored."""
    with preserve_random_state():
        expected = draw()
    with seeded(5):
        python, numpy, first = draw()
    with seeded(5):
        assert draw()[2] == first
    assert (python, numpy) == expected[:2]
    assert float(torch.rand(())) == expected[2]


def test_the_mode_of_each_child_is_restored() -> None:
    """Also if children had different modes, and after an error."""
    model = nn.Sequential(nn.Dropout(), nn.Dropout())
    model[0].eval()
    with pytest.raises(RuntimeError, match="True"), temporary_mode(model, training=False):
        raise RuntimeError(not any(child.training for child in model.modules()))
    assert [child.training for child in model.modules()] == [True, False, True]
