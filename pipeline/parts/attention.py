"""What an attention is: how a query is scored against keys; the rest follows from that."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.borders.checked import checked


@checked
def masked_softmax(scores: Float[Tensor, "*axes key"], mask: Bool[Tensor, "*#axes key"]) -> Float[Tensor, "*axes key"]:
    """Softmax over the keys that may be attended; zeros where none may, with zero gradients.

    Nothing is multiplied by the mask, so NaN under it stays out of values and gradients.

    Example:
        >>> scores = torch.tensor([[1.0, 1.0, torch.nan], [1.0, 1.0, 1.0]])
        >>> masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]])).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    # The lowest number, not -inf: a query with nothing to attend would give NaN, and pass it back.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0)


class Attention(nn.Module, ABC):
    """Scores queries against keys, and mixes the keys by the softmax of their scores.

    A subclass needs `score` alone; one that never forms the scores overrides `forward` too.

    Attributes:
        input_size: how many features queries and keys have; as many come out.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` take it.
    """

    input_size: int
    exportable: bool = False

    if TYPE_CHECKING:

        def __call__(
            self,
            query: Float[Tensor, "batch query hidden"],
            key: Float[Tensor, "batch key hidden"],
            mask: Bool[Tensor, "#batch #query key"],
            /,
        ) -> Float[Tensor, "batch query hidden"]:
            """As `forward`, with the type that `nn.Module` leaves open."""
            ...

    @abstractmethod
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        """How well each key answers each query, before masking and softmax."""

    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        """What share of each key goes into each context: they sum to 1, or are all 0 where `mask` allows none."""
        return masked_softmax(self.score(query, key), mask)

    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        """One context vector a query: the keys, mixed by their weights."""
        return self.weights(query, key, mask) @ key
