"""One point's batch and weights, the same for every candidate."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bench.encoders.lengths import draw_lengths
from bench.encoders.point import Point
from bench.timing.step import Step, step_of
from pipeline import Padded, Vectors


@attrs.frozen(eq=False)
class Problem:
    """A batch in a rectangle, as a loader gives it, and a stack with weights.

    Attributes:
        point: what this is a case of.
        values: the batch, zeros behind each row.
        lengths: how long its rows are.
        weights: torch's own module, whose weights every candidate takes.
    """

    point: Point
    values: Float[Tensor, "batch time feature"]
    lengths: Int64[Tensor, " batch"]
    weights: nn.LSTM | nn.GRU

    @classmethod
    def of(cls, point: Point) -> "Problem":
        """The same numbers at every call."""
        lengths = draw_lengths(point.lengths, point.rows)
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(point.rows, int(lengths.max()), point.features, generator=generator)
        values.masked_fill_((torch.arange(values.shape[1]) >= lengths.unsqueeze(1)).unsqueeze(2), 0.0)
        torch.default_generator.manual_seed(2)
        kind = nn.LSTM if point.cell == "LSTM" else nn.GRU
        weights = kind(point.features, point.hidden, point.layers, bidirectional=point.both, batch_first=True)
        return cls(point, values.requires_grad_(point.learning), lengths, weights)

    @property
    def steps(self) -> int:
        """How many real steps there are."""
        return int(self.lengths.sum())

    def step(self, forward: Callable[[Tensor], Tensor], weights: Iterable[Tensor]) -> Step:
        """A step through a way to compute the states of a batch, with zeros in padding that they may have."""
        return step_of(partial(forward, self.values), [self.values, *weights], learning=self.point.learning)

    def answer(self, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """What a step gave, its states packed, so that those in a rectangle are comparable with others."""
        states, *gradients = given
        if states.ndim == 2:
            return given
        return Padded(Vectors, states.clone(), self.lengths).packed().values, *gradients


def module_of(problem: Problem) -> nn.LSTM | nn.GRU:
    """A module of its own with the same weights."""
    point = problem.point
    kind = nn.LSTM if point.cell == "LSTM" else nn.GRU
    module = kind(point.features, point.hidden, point.layers, bidirectional=point.both, batch_first=True)
    module.load_state_dict(problem.weights.state_dict())
    return module


def states_of(module: nn.LSTM | nn.GRU, values: Tensor) -> Tensor:
    """What a module makes of a rectangle; torch leaves the types of modules open."""
    return cast("tuple[Tensor, object]", module(values))[0]
