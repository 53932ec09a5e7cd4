"""Attentions with one mistake each."""

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
    """A correct attention: minus half the squared distance, without the term that depends on the query only."""

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
    """Masks with minus infinity, so that the softmax of a fully masked query is NaN."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return self.score(query, key).masked_fill(~mask, float("-inf")).softmax(-1)


class AddsTheMask(Closest):
    """Adds a large negative number to masked scores: NaN survives, and fully masked queries get no zeros."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        return (self.score(query, key) - 1e9 * ~mask).softmax(-1)


class SoftmaxOverQueries(Closest):
    """Takes the softmax over the queries."""

    @override
    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        scores = self.score(query, key)
        return masked_softmax(scores.transpose(1, 2), mask.expand_as(scores).transpose(1, 2)).transpose(1, 2)


class UsesPositions(Closest):
    """Depends on the positions of keys."""

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return super().score(query, key) - torch.arange(key.shape[1], device=key.device) / 8


class ScaledContexts(Closest):
    """Returns twice the weighted sums."""

    @override
    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        return 2 * super().forward(query, key, mask)


class RejectsBroadcastMasks(Closest):
    """Needs a mask that is not broadcast."""

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
    """Returns weights with an axis for a single head."""

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


class NeedsMoreMemory(Closest):
    """Needs one number per feature for every pair, but does not declare it."""

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return -(query.unsqueeze(2) - key.unsqueeze(1)).square().sum(-1) / 2


class NoInnerProduct(Closest):
    """Declares an inner product, but subtracts something from it."""

    inner_product = True


class ForgetsToProject(Closest):
    """Projects in `project`, but not in `score`."""

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
        """masked_keys_have_no_effect fully_masked_queries_give_zeros low_precision_agrees""",
        "adding one number to all scores masks nothing",
    ),
    trial(
        SoftmaxOverQueries,
        ATTENTION_LAWS,
        """weights_sum_to_one queries_are_independent batchmates_have_no_effect amount_of_padding_has_no_effect
        many_and_long_rows_are_independent""",
        "queries in the padding get weight as well",
    ),
    trial(NeedsMoreMemory, ATTENTION_LAWS, "score_size_bounds_memory"),
    trial(
        NoInnerProduct,
        ATTENTION_LAWS,
        "compare_of_project_equals_score contexts_are_weighted_sums_of_keys",
        "contexts are computed without the scores",
    ),
    trial(
        ForgetsToProject,
        ATTENTION_LAWS,
        "compare_of_project_equals_score contexts_are_weighted_sums_of_keys",
        "contexts use project, weights do not",
    ),
    trial(
        UsesPositions,
        ATTENTION_LAWS,
        "key_order_has_no_effect low_precision_agrees long_rows_are_read_like_short_ones",
        "positions that are added to scores lose digits in low precision",
    ),
    trial(ScaledContexts, ATTENTION_LAWS, "contexts_are_weighted_sums_of_keys"),
    trial(RejectsBroadcastMasks, ATTENTION_LAWS, "masks_broadcast"),
    trial(
        WithHeads,
        ATTENTION_LAWS,
        """attention_sizes_match_declared weights_sum_to_one contexts_are_weighted_sums_of_keys
        fully_masked_queries_give_zeros batchmates_have_no_effect many_and_long_rows_are_independent""",
        "every law about weights needs their shape",
    ),
)
"""The broken parts of this file, with the laws that each breaks."""
