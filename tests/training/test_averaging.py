"""Averages of weights."""

import torch
from torch import nn
from torch.testing import assert_close

from pipeline.training.averaging import WeightAverage


def test_averages_follow_the_recurrence() -> None:
    """In a plain loop in float64, with the smaller decay of the first optimizer steps."""
    layer = nn.Linear(2, 1)
    average = WeightAverage(layer, 0.6)
    wanted = layer.weight.detach().double().clone()
    for step in range(1, 12):
        with torch.no_grad():
            layer.weight.add_(torch.tensor([[0.5, -1.0]]) * step)
        average.update()
        decay = min(0.6, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * layer.weight.detach().double()
    assert_close(average.averages[0].double(), wanted)


def test_weights_return_after_use_and_frozen_ones_never_leave() -> None:
    """The optimizer keeps its tensors: the exchange is in place."""
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    before, place = layer.weight.detach().clone(), layer.weight.data_ptr()
    average = WeightAverage(layer, 0.9)
    with torch.no_grad():
        layer.weight.zero_()
    with average.applied():
        assert torch.equal(layer.weight, before)
        assert layer.weight.data_ptr() == place
    assert not layer.weight.any()
    assert len(average.averages) == 1
