"""Pooling by attention: a learned query weighs the steps of each row."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.extend import (
    MaybeCausal,
    Packed,
    Pooling,
    States,
    compact,
    masked_softmax,
    multiply_exactly,
    softmax_by_row,
    sum_by_row,
)


@final
class AttentionPool(Pooling):
    """Average each row's steps, weighted by a softmax of their scores against a learned query.

    Source: Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", equations
    5 to 7; their `u_w` is our `query`.

    Example:
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 0]))
        >>> AttentionPool(4)(states).sum(1).tolist()
        [4.0, 0.0]
    """

    exportable = True

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size: int | None = input_size
        self.projection: nn.Linear = nn.Linear(input_size, input_size)
        self.query: nn.Parameter = nn.Parameter(torch.empty(input_size))
        # The bound of torch's linear layers, of which the query would be one with a single output.
        bound = input_size**-0.5
        nn.init.uniform_(self.query, -bound, bound)

    @override
    def weights(self, states: States[MaybeCausal]) -> Float[Tensor, "batch time"]:
        """Return the weight of each step in its row's vector; zeros for padding."""
        return self._weights(states.padded().values, states)

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        # Padding is neither projected nor weighed. Only rows of one length, and traced graphs, stay rectangular.
        steps = states.packed() if self.deterministic else compact(states.steps)
        if isinstance(steps, Packed):
            shares = softmax_by_row(steps, self._scores(steps.values)).unsqueeze(1)
            # The shares of half precision are in float32, and so is the sum.
            return sum_by_row(steps.with_values(shares * steps.values)).to(steps.values.dtype)
        values = states.padded().values
        return torch.einsum("bt,bth->bh", self._weights(values, states).to(values.dtype), values)

    def _weights(
        self, values: Float[Tensor, "batch time hidden"], states: States[MaybeCausal]
    ) -> Float[Tensor, "batch time"]:
        return masked_softmax(self._scores(values), states.mask)

    def _scores(self, values: Float[Tensor, "*axes hidden"]) -> Float[Tensor, "*axes"]:
        projected = torch.tanh(self.projection(values))
        if self.deterministic:
            return multiply_exactly(projected, self.query.unsqueeze(1)).squeeze(-1)
        return projected @ self.query
