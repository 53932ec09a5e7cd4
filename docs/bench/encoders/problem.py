"""The batch and the weights of a point, the same for all candidates."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Self, cast

import attrs
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from bench.encoders.lengths import draw_lengths
from bench.encoders.points import Point
from bench.timing.steps import Step, make_step
from pipeline import Padded, Vectors


@attrs.frozen(eq=False)
class Problem:
    """A padded batch, as a loader returns it, and the weights of a stack of layers.

    Attributes:
        point: the point that is measured.
        values: the batch; the padding is zero.
        lengths: the lengths of the rows.
        weights: a module of torch, whose weights all candidates load.
    """

    point: Point
    values: Float[Tensor, "batch time feature"]
    lengths: Int64[Tensor, " batch"]
    weights: nn.LSTM | nn.GRU

    @classmethod
    def of(cls, point: Point) -> Self:
        """Make the problem of a point, with the same numbers at every call."""
        lengths = draw_lengths(point.lengths, point.rows)
        generator = torch.Generator().manual_seed(1)
        values = torch.randn(point.rows, int(lengths.max()), point.features, generator=generator)
        # Zero in the padding, as `pad_sequence` leaves it.
        values.masked_fill_((torch.arange(values.shape[1]) >= lengths.unsqueeze(1)).unsqueeze(2), 0.0)
        torch.default_generator.manual_seed(2)
        return cls(point, values.requires_grad_(point.training), lengths, _make_module(point))

    @property
    def steps(self) -> int:
        """The number of real steps."""
        return int(self.lengths.sum())

    def make_step(self, forward: Callable[[Tensor], Tensor], weights: Iterable[Tensor]) -> Step:
        """Return a step that computes the states of the batch and, in training, all gradients.

        `forward` returns packed states, or padded states whose padding is zero.
        """
        return make_step(partial(forward, self.values), [self.values, *weights], training=self.point.training)

    def pack_states(self, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Pack the states in the results of a step if they are padded, so that all candidates can be compared."""
        states, *gradients = results
        if states.ndim == 2:
            return results
        return Padded(Vectors, states.clone(), self.lengths).packed().values, *gradients

    def copy_module(self) -> nn.LSTM | nn.GRU:
        """Return a new module with the same weights."""
        module = _make_module(self.point)
        module.load_state_dict(self.weights.state_dict())
        return module

    def get_direction(self, number: int, order: Sequence[int]) -> list[Tensor]:
        """Return the weights and biases of one direction of the first layer, with gates in the order of a runtime.

        Args:
            number: 0 for the forward direction, 1 for the backward direction.
            order: for each gate of the other runtime, the index of torch's gate.

        Returns:
            Input weight, recurrent weight, input bias, recurrent bias.
        """
        suffix, weights = ("", "_reverse")[number], self.weights.state_dict()
        names = (f"{name}_l0{suffix}" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        return [reorder_gates(weights[name], order) for name in names]


def _make_module(point: Point) -> nn.LSTM | nn.GRU:
    kind = nn.LSTM if point.cell == "LSTM" else nn.GRU
    return kind(point.features, point.hidden, point.layers, bidirectional=point.bidirectional, batch_first=True)


def run_module(module: nn.LSTM | nn.GRU, values: Tensor) -> Tensor:
    """Return the states of a padded batch; modules of torch have no return types."""
    return cast("tuple[Tensor, object]", module(values))[0]


def reorder_gates(
    weight: Float[Tensor, "gates_hidden *rest"], order: Sequence[int]
) -> Float[Tensor, "gates_hidden *rest"]:
    """Reorder the gates along the first axis of a weight.

    Example:
        >>> reorder_gates(torch.tensor([1, 2, 3, 4, 5, 6]), [1, 0, 2]).tolist()
        [3, 4, 1, 2, 5, 6]
    """
    gates = weight.chunk(len(order))
    return torch.cat([gates[index] for index in order])
