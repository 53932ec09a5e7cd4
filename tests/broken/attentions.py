"""Attentions that are wrong in one way each."""

from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from typing_extensions import override

from broken.trial import Trial, trial
from pipeline import Attention
from pipeline.parts.attention import masked_softmax
from pipeline.testing import ATTENTION_LAWS


class Closest(Attention):
    """An honest attention: minus half the squared distance, as a product and the keys' own part of it."""

    exportable = False

    def __init__(self) -> None:
        super().__init__()
        self.input_size = 3

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return query @ key.transpose(1, 2) - key.square().sum(-1).unsqueeze(1) / 2


class InfinitelyMasked(Closest):
    """Fills with minus infinity, of which a softmax over nothing else makes NaN."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return self.score(query, key).masked_fill(~mask, float("-inf")).softmax(-1)


class AddsTheMask(Closest):
    """Adds a large negative number to masked scores, as many do, which NaN survives; it makes no zeros either."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return (self.score(query, key) - 1e9 * ~mask).softmax(-1)


class OverQueries(Closest):
    """Takes its softmax over the queries."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        scores = self.score(query, key)
        return masked_softmax(scores.transpose(1, 2), mask.expand_as(scores).transpose(1, 2)).transpose(1, 2)


class Placed(Closest):
    """Prefers earlier keys."""

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return super().score(query, key) - torch.arange(key.shape[1], device=key.device) / 8


class ScaledContexts(Closest):
    """Gives twice what its weights mix."""

    @override
    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        return 2 * super().forward(query, key, mask)


class WholeMasksAlone(Closest):
    """Wants a mask of every row and query."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        scores = self.score(query, key)
        return masked_softmax(scores, mask.expand(len(key), mask.shape[1], -1).reshape(scores.shape))


class WithHeads(Closest):
    """Gives its weights an axis of heads, of which there is one."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return super().weights(query, key, mask).unsqueeze(1)

    @override
    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        return super().weights(query, key, mask) @ key


class Crowded(Closest):
    """Holds a number a feature for every pair, and does not say so."""

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return -(query.unsqueeze(2) - key.unsqueeze(1)).square().sum(-1) / 2


class NoProduct(Closest):
    """Declares an inner product, and takes something off it."""

    inner_product = True


class ForgetsToProject(Closest):
    """Scores by a projection that what is projected has not gone through."""

    @override
    def project(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> tuple[Float[Tensor, "batch query inner"], Float[Tensor, "batch key inner"]]:
        return 2 * query, key


TRIALS: Final[tuple[Trial, ...]] = (
    trial(InfinitelyMasked, ATTENTION_LAWS, "fully_masked_queries_give_zeros"),
    trial(
        AddsTheMask,
        ATTENTION_LAWS,
        "masked_keys_have_no_effect fully_masked_queries_give_zeros",
        "where all is masked alike, nothing is",
    ),
    trial(
        OverQueries,
        ATTENTION_LAWS,
        "weights_sum_to_one queries_are_independent batchmates_have_no_effect amount_of_padding_has_no_effect",
        "queries of padding have their share as well",
    ),
    trial(Crowded, ATTENTION_LAWS, "score_size_bounds_memory"),
    trial(
        NoProduct,
        ATTENTION_LAWS,
        "compare_of_project_equals_score contexts_are_weighted_sums_of_keys",
        "contexts are made without the scores",
    ),
    trial(
        ForgetsToProject,
        ATTENTION_LAWS,
        "compare_of_project_equals_score contexts_are_weighted_sums_of_keys",
        "contexts are made of what is projected, weights are not",
    ),
    trial(Placed, ATTENTION_LAWS, "key_order_has_no_effect"),
    trial(ScaledContexts, ATTENTION_LAWS, "contexts_are_weighted_sums_of_keys"),
    trial(WholeMasksAlone, ATTENTION_LAWS, "masks_broadcast"),
    trial(
        WithHeads,
        ATTENTION_LAWS,
        """attention_sizes_match_declared weights_sum_to_one contexts_are_weighted_sums_of_keys
        fully_masked_queries_give_zeros""",
        "weights of another shape answer no question about weights",
    ),
)
"""All of them, and the laws that each breaks."""
