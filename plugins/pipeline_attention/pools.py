"""Pooling by attention: a learned query asks each step how much it matters."""

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.data.batches import Packed
from pipeline.data.states import MaybeCausal, States
from pipeline.functional.segments import compact, softmax_by_row, sum_by_row
from pipeline.parts.attention import masked_softmax
from pipeline.parts.pooling import Pooling


@final
class AttentionPool(Pooling):
    """Each row's steps, mixed by how well they answer a learned query.

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
        bound = input_size**-0.5
        nn.init.uniform_(self.query, -bound, bound)

    def weights(self, states: States[MaybeCausal]) -> Float[Tensor, "batch time"]:
        """The share of each step in its row's vector; zeros for padding."""
        return self._weights(states.padded().values, states)

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        steps = compact(states.steps)
        if isinstance(steps, Packed):
            shares = softmax_by_row(steps, self._scores(steps.values)).unsqueeze(1)
            return sum_by_row(steps.with_values(shares * steps.values))
        values = states.padded().values
        return torch.einsum("bt,bth->bh", self._weights(values, states), values)

    def _weights(
        self, values: Float[Tensor, "batch time hidden"], states: States[MaybeCausal]
    ) -> Float[Tensor, "batch time"]:
        return masked_softmax(self._scores(values), states.mask)

    def _scores(self, values: Float[Tensor, "*axes hidden"]) -> Float[Tensor, "*axes"]:
        return torch.tanh(self.projection(values)) @ self.query
