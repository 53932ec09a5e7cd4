"""What an attention is: how a query is scored against keys; the rest follows from that."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.checks.shapes import checked
from pipeline.functional.product_attention import mixed_by_product


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

    A subclass needs `score` alone. Which steps may be attended, and how many are taken at a time, is the stages'
    business. A subclass makes their work lighter by what it declares:

    - `inner_product`, if its score is query . key, perhaps after `project` changed them. Then scores are never formed
      at all.
    - `project` and `compare`, if a part of the score can be worked out of each step alone: it is, once a step. The rest
      is worked out for every pair.
    - `score_size`, if that takes more than a number a pair: then fewer pairs are taken at a time.

    One that never forms scores, or mixes in another way, overrides `forward` too; it is then used as it is.

    Attributes:
        input_size: how many features queries and keys have; as many come out.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` take it.
        inner_product: whether `compare` gives the inner product of what `project` makes of a query and a key.
        score_size: how many numbers it holds for a pair of query and key at once; 0 for one that forms no scores.
    """

    input_size: int
    exportable: bool = False
    inner_product: bool = False
    score_size: int = 1

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

    def project(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> tuple[Float[Tensor, "batch query inner"], Float[Tensor, "batch key inner"]]:
        """What can be worked out of each query and each key alone, for `compare`: themselves, unless overridden."""
        return query, key

    def compare(
        self, query: Float[Tensor, "batch query inner"], key: Float[Tensor, "batch key inner"]
    ) -> Float[Tensor, "batch query key"]:
        """The score, of what `project` made of queries and keys."""
        return query @ key.transpose(1, 2) if self.inner_product else self.score(query, key)

    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        """What share of each key goes into each context: they sum to 1, or are all 0 where `mask` allows none."""
        return masked_softmax(self.score(query, key), mask)

    def mix(
        self,
        query: Float[Tensor, "batch query inner"],
        key: Float[Tensor, "batch key inner"],
        values: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        """One context vector a query, of what `project` made: the values, mixed by their weights."""
        if self.inner_product:
            return mixed_by_product(query, key, values, mask)
        return masked_softmax(self.compare(query, key), mask) @ values

    @property
    def mixes_its_own_way(self) -> bool:
        """Whether a subclass overrides how keys are mixed: then no one may go by its scores alone."""
        return type(self).forward is not Attention.forward or type(self).weights is not Attention.weights

    @property
    def forms_no_scores(self) -> bool:
        """Whether its contexts are made without scores, since these are inner products."""
        return self.inner_product and not self.mixes_its_own_way

    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        """One context vector a query: the keys, mixed by their weights."""
        if self.mixes_its_own_way:
            return self.weights(query, key, mask) @ key
        # What no query may attend to may hold anything, and a score of it that overflows is NaN in torch's kernels.
        cleared = key.masked_fill(~mask.any(1).unsqueeze(-1), 0)
        return self.mix(*self.project(query, cleared), cleared, mask)
