"""Base class of attentions, and the masked softmax that they share."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.checks.shapes import checked
from pipeline.core.inference import InferenceOptions
from pipeline.functional.attention import dot_product_attention
from pipeline.functional.products import mix, multiply


@checked
def masked_softmax(scores: Float[Tensor, "*axes key"], mask: Bool[Tensor, "*#axes key"]) -> Float[Tensor, "*axes key"]:
    """Return the softmax over the keys where `mask` is True; zeros, with zero gradients, where it is False everywhere.

    The mask selects instead of multiplying, so NaN in masked scores affects neither values nor gradients.

    Example:
        >>> scores = torch.tensor([[1.0, 1.0, torch.nan], [1.0, 1.0, 1.0]])
        >>> masked_softmax(scores, torch.tensor([[True, True, False], [False, False, False]])).tolist()
        [[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]
    """
    # The lowest finite number instead of -inf: a fully masked query would give NaN, also in the backward pass.
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(-1).masked_fill(~mask, 0)


class Attention(nn.Module, ABC):
    """Scores queries against keys, and returns the mean of the keys weighted by the softmax of the scores.

    A subclass must implement `score` only. The stages determine the mask, and how many queries to process at a time.
    A subclass can make that cheaper:

    - `inner_product = True`, if its score is query . key, optionally after `project`. Then torch's fused kernels
      compute the contexts without storing the scores.
    - `project` and `compare`, if a part of the score depends on the query or the key alone. `project` is called once
      per step, `compare` for every pair.
    - `score_size`, if a score takes more than one number per pair. Then fewer pairs are processed at a time.

    An attention without scores, or with another way to mix, overrides `forward`. Then only `forward` is called. If its
    contexts are not means of the keys, as in multi-head attention, it declares `projects_values`.

    Attributes:
        input_size: the number of features of queries and keys, and of the output.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` support it.
        inner_product: whether `compare` is the inner product of the two results of `project`.
        projects_values: whether the contexts are computed from projections of the keys instead of the keys themselves.
        score_size: the number of values stored per pair of query and key; 0 if no scores are stored.
        deterministic: whether contexts have the same bits in every batch; `for_inference` sets it.
    """

    input_size: int
    exportable: bool = False
    inner_product: bool = False
    projects_values: bool = False
    score_size: int = 1
    deterministic: bool = False

    # nn.Module declares `__call__` as returning Any, which would hide every type error after a call.
    if TYPE_CHECKING:

        def __call__(
            self,
            query: Float[Tensor, "batch query hidden"],
            key: Float[Tensor, "batch key hidden"],
            mask: Bool[Tensor, "#batch #query key"],
            /,
        ) -> Float[Tensor, "batch query hidden"]:
            """Call `forward`, with the type that `nn.Module` leaves open."""
            ...

    @abstractmethod
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        """Return the score of each query with each key, before mask and softmax."""

    def project(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> tuple[Float[Tensor, "batch query inner"], Float[Tensor, "batch key inner"]]:
        """Transform each query and each key by itself, before `compare`; by default return both unchanged."""
        return query, key

    def compare(
        self, query: Float[Tensor, "batch query inner"], key: Float[Tensor, "batch key inner"]
    ) -> Float[Tensor, "batch query key"]:
        """Return the scores of projected queries and keys."""
        if not self.inner_product:
            return self.score(query, key)
        return multiply(query, key.mT) if self.deterministic else query @ key.mT

    def weights(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query key"]:
        """Return the weight of each key in each context: they sum to 1, or are all 0 if all keys are masked."""
        return masked_softmax(self.score(query, key), mask)

    def mix(
        self,
        query: Float[Tensor, "batch query inner"],
        key: Float[Tensor, "batch key inner"],
        values: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        """Return the context of each projected query: the weighted mean of the values."""
        if self.deterministic:
            return mix(self.compare(query, key), mask, values)
        if self.inner_product:
            return dot_product_attention(query, key, values, mask)
        return masked_softmax(self.compare(query, key), mask) @ values

    @property
    def overrides_mixing(self) -> bool:
        """True if a subclass overrides `forward` or `weights`; then its scores do not determine the contexts."""
        return type(self).forward is not Attention.forward or type(self).weights is not Attention.weights

    @property
    def uses_fused_attention(self) -> bool:
        """True if the contexts are computed without storing scores."""
        return self.inner_product and not self.overrides_mixing and not self.deterministic

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Compute contexts whose bits do not depend on the batch, if the options say so."""
        self.deterministic = options.deterministic

    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        """Return one context per query: the weighted mean of the keys."""
        if self.overrides_mixing:
            return self.weights(query, key, mask) @ key
        # Keys masked for every query may hold anything. Torch's kernels give NaN if such a score overflows.
        filled = key.masked_fill(~mask.any(1).unsqueeze(-1), 0)
        return self.mix(*self.project(query, filled), filled, mask)
