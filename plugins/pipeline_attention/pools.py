"""Pooling by attention: learned scores weigh the steps of each row."""

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
    add_to_loss,
    check_int,
    check_number,
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
        self.input_size: int | None = check_int("input_size", input_size, minimum=1)
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


@final
class StructuredAttentionPool(Pooling):
    """Several weighted averages of each row's steps, one for each of several hops: hops x hidden features.

    In each hop, the weights are the softmax over the row's steps of scores by a small network: W2 tanh(W1 state). The
    vector begins with the average of the first hop.

    In training, a penalty is added to the loss, so that hops attend to different steps: the mean over the rows of
    ||A A' - I||^2, where A has the weights of a row, hops x steps. `fit` adds it; in a training loop written by hand
    use `pipeline.extend.collect_added_losses`.

    Args:
        input_size: features of a state.
        hops: the number of averages.
        hidden_size: features inside the network; `input_size` by default.
        penalty: the weight of the penalty; 0 for none.

    Raises:
        OptionError: if an option is out of its range.

    Source: Lin et al. 2017, "A Structured Self-attentive Sentence Embedding", arXiv:1703.03130, equations 6 to 8. Their
    `r` is `hops`, and their `d_a` is `hidden_size`.

    Example:
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 0]))
        >>> StructuredAttentionPool(4, hops=2)(states).sum(1).tolist()
        [8.0, 0.0]
    """

    exportable = True

    def __init__(self, input_size: int, *, hops: int = 4, hidden_size: int | None = None, penalty: float = 1.0) -> None:
        super().__init__()
        inner = input_size if hidden_size is None else hidden_size
        for name, number in (("input_size", input_size), ("hops", hops), ("hidden_size", inner)):
            check_int(name, number, minimum=1)
        check_number("penalty", penalty, minimum=0, advice="0 adds nothing to the loss")
        self.input_size: int | None = input_size
        self.hops: int = hops
        self.hidden_size: int = inner
        self.penalty: float = penalty
        self.inner: nn.Linear = nn.Linear(input_size, inner, bias=False)
        self.outer: nn.Linear = nn.Linear(inner, hops, bias=False)

    @override
    def output_size(self, input_size: int) -> int:
        return self.hops * input_size

    @override
    def weights(self, states: States[MaybeCausal]) -> Float[Tensor, "batch time"]:
        """Return the weight of each step in its row's vector, as the mean over hops; zeros for padding."""
        return self.weights_by_hop(states).mean(1)

    def weights_by_hop(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hop time"]:
        """Return the weight of each step in each hop; zeros for padding."""
        return _spread_weights(self._scores(states.padded().values), states)

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hops"]:
        if self.deterministic:
            packed = states.packed()
            weights = softmax_by_row(packed, self._scores(packed.values))
            weighted = weights.unsqueeze(2) * packed.values.unsqueeze(1)
            return sum_by_row(packed.with_values(weighted.flatten(1))).to(packed.values.dtype)
        # The network reads real steps only. A product of matrices per row then takes less time than sums by row of
        # hops x hidden features per step, although it multiplies the padding.
        steps = compact(states.steps)
        values = states.padded().values
        if isinstance(steps, Packed):
            scores = steps.with_values(self._scores(steps.values)).padded().values
        else:
            scores = self._scores(values)
        shares = _spread_weights(scores, states)
        if self.training and self.penalty:
            self._add_penalty(shares, states)
        return torch.matmul(shares.to(values.dtype), values).flatten(1)

    def _add_penalty(self, shares: Float[Tensor, "batch hop time"], states: States[MaybeCausal]) -> None:
        overlap = torch.matmul(shares, shares.transpose(1, 2)) - torch.eye(self.hops, device=shares.device)
        is_empty = states.order.lengths_on_device == 0
        squares = overlap.square().sum((1, 2)).masked_fill(is_empty, 0)
        add_to_loss(self.penalty * squares.sum() / (~is_empty).sum().clamp(min=1))

    def _scores(self, values: Float[Tensor, "*axes hidden"]) -> Float[Tensor, "*axes hop"]:
        scores: Tensor = self.outer(torch.tanh(self.inner(values)))
        return scores


@final
class VectorAttentionPool(Pooling):
    """Average each row's steps with a weight for every feature: a softmax over the steps for each of them.

    The scores of a step are those of a small network, one per feature: W2 relu(W1 state + b1) + b2. For several such
    averages side by side use `Join(Pool("vector_attention"), Pool("vector_attention"))`.

    Args:
        input_size: features of a state.
        hidden_size: features inside the network; `input_size` by default.

    Raises:
        OptionError: if a size is below 1.

    Source: Chen, Ling and Zhu 2018, "Enhancing Sentence Embedding with Generalized Pooling", arXiv:1806.09828,
    equations 6 and 7, for one head, without their penalties.

    Example:
        >>> states = States.from_padded(torch.ones(2, 3, 4), torch.tensor([3, 0]))
        >>> VectorAttentionPool(4)(states).round(decimals=5).tolist()
        [[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    """

    exportable = True

    def __init__(self, input_size: int, *, hidden_size: int | None = None) -> None:
        super().__init__()
        inner = input_size if hidden_size is None else hidden_size
        for name, number in (("input_size", input_size), ("hidden_size", inner)):
            check_int(name, number, minimum=1)
        self.input_size: int | None = input_size
        self.hidden_size: int = inner
        self.inner: nn.Linear = nn.Linear(input_size, inner)
        self.outer: nn.Linear = nn.Linear(inner, input_size)

    @override
    def weights(self, states: States[MaybeCausal]) -> Float[Tensor, "batch time"]:
        """Return the weight of each step in its row's vector, as the mean over features; zeros for padding."""
        return _spread_weights(self._scores(states.padded().values), states).mean(1)

    @override
    def forward(self, states: States[MaybeCausal]) -> Float[Tensor, "batch hidden"]:
        steps = states.packed() if self.deterministic else compact(states.steps)
        if isinstance(steps, Packed):
            shares = softmax_by_row(steps, self._scores(steps.values))
            return sum_by_row(steps.with_values(shares * steps.values)).to(steps.values.dtype)
        values = states.padded().values
        shares = _spread_weights(self._scores(values), states).transpose(1, 2)
        return (shares * values).sum(1).to(values.dtype)

    def _scores(self, values: Float[Tensor, "*axes hidden"]) -> Float[Tensor, "*axes hidden"]:
        scores: Tensor = self.outer(torch.relu(self.inner(values)))
        return scores


def _spread_weights(
    scores: Float[Tensor, "batch time head"], states: States[MaybeCausal]
) -> Float[Tensor, "batch head time"]:
    """Return the softmax of scores over each row's steps; zeros for padding."""
    # In float32 at least, as in `softmax_by_row`.
    wide = scores.float() if scores.dtype.itemsize < 4 else scores
    return masked_softmax(wide.transpose(1, 2), states.mask.unsqueeze(1))
