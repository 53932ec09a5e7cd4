"""Base class of attentions, and the masked softmax that they share."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from pipeline.checks.options import check_choice
from pipeline.checks.shapes import checked
from pipeline.core.inference import InferenceOptions
from pipeline.errors import OptionError
from pipeline.functional.attention import dot_product_attention
from pipeline.functional.products import mix, multiply
from pipeline.functional.sparse_softmax import Normalize, entmax15, sparsemax


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


def check_normalize(normalize: Normalize) -> Normalize:
    """Return how an attention turns scores into weights.

    Raises:
        OptionError: if it is another word.
    """
    check_choice("normalize", normalize, get_args(Normalize))
    return normalize


def normalize_scores(
    scores: Float[Tensor, "*axes key"], mask: Bool[Tensor, "*#axes key"], normalize: Normalize
) -> Float[Tensor, "*axes key"]:
    """Return weights that sum to 1, or are all 0 if all keys are masked.

    Example:
        >>> normalize_scores(torch.tensor([2.0, 0.0, 1.0]), torch.tensor([True, True, False]), "sparsemax").tolist()
        [1.0, 0.0, 0.0]
    """
    if normalize == "softmax":
        return masked_softmax(scores, mask)
    return (sparsemax if normalize == "sparsemax" else entmax15)(scores, mask)


class Attention(nn.Module, ABC):
    """Scores queries against keys, and returns the mean of the keys weighted by the softmax of the scores.

    A subclass must implement `score` only. The stages determine the mask, and how many queries to process at a time.
    A subclass can make that cheaper:

    - `inner_product = True`, if its score is query . key, optionally after `project`. Then torch's fused kernels
      compute the contexts without storing the scores.
    - `project` and `compare`, if a part of the score depends on the query or the key alone. `project` is called once
      per step, `compare` for every pair.
    - `score_size`, if a score takes more than one number per pair. Then fewer pairs are processed at a time.

    Contexts may be means of something else than the keys: see `project_values` and `project_contexts`. With several
    heads (`num_heads`), the results of `project` and `project_values` are cut into equal parts, one per head; each head
    has its own scores and contexts, which are put side by side.

    An attention without scores, or with another way to mix, overrides `forward`. Then only `forward` is called. If its
    contexts are not means of the keys, it declares `projects_values`.

    Attributes:
        input_size: the number of features of queries and keys, and of the output.
        normalize: how scores become weights.
        num_heads: the number of heads.
        exportable: whether `torch.export` and `torch.compile(fullgraph=True)` support it.
        inner_product: whether `compare` is the inner product of the two results of `project`.
        projects_values: whether the contexts are computed from projections of the keys instead of the keys themselves.
        score_size: the number of values stored per pair of query and key; 0 if no scores are stored.
        deterministic: whether contexts have the same bits in every batch; `for_inference` sets it.
    """

    input_size: int
    normalize: Normalize = "softmax"
    num_heads: int = 1
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

    def project_values(self, key: Float[Tensor, "batch key hidden"]) -> Float[Tensor, "batch key inner"]:
        """Return what contexts are means of; by default the keys. If it is overridden, declare `projects_values`."""
        return key

    def project_contexts(self, contexts: Float[Tensor, "*step inner"]) -> Float[Tensor, "*step hidden"]:
        """Transform each mean by itself; zeros must stay zeros. By default return them unchanged."""
        return contexts

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
        """Return the weight of each key in each context, the mean over the heads.

        They sum to 1, or are all 0 if all keys are masked.
        """
        if self.num_heads == 1:
            return normalize_scores(self.score(query, key), mask, self.normalize)
        projected = self.project(query, key)
        scores = self.compare(*map(self.split_heads, projected))
        weights = normalize_scores(scores, self.repeat_mask(mask), self.normalize)
        return weights.view(query.shape[0], self.num_heads, query.shape[1], key.shape[1]).mean(1)

    def mix(
        self,
        query: Float[Tensor, "batch query inner"],
        key: Float[Tensor, "batch key inner"],
        values: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        """Return the mean of each projected query: that of the values, weighted, before `project_contexts`."""
        if self.num_heads == 1:
            return self._mix_head(query, key, values, mask)
        split = self.split_heads
        return self.join_heads(self._mix_head(split(query), split(key), split(values), self.repeat_mask(mask)))

    def _mix_head(self, query: Tensor, key: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        if self.deterministic:
            return mix(self.compare(query, key), mask, values)
        if self.inner_product and self.normalize == "softmax":
            return dot_product_attention(query, key, values, mask)
        return normalize_scores(self.compare(query, key), mask, self.normalize) @ values

    def split_heads(self, steps: Float[Tensor, "batch time inner"]) -> Float[Tensor, "split time part"]:
        """Return the part of each head as a row of its own: the heads of the first row, then those of the second."""
        if self.num_heads == 1:
            return steps
        rows, time, size = steps.shape
        return steps.reshape(rows, time, self.num_heads, size // self.num_heads).transpose(1, 2).flatten(0, 1)

    def join_heads(self, steps: Float[Tensor, "split time part"]) -> Float[Tensor, "batch time inner"]:
        """Undo `split_heads`."""
        if self.num_heads == 1:
            return steps
        rows, time, size = steps.shape
        return steps.reshape(rows // self.num_heads, self.num_heads, time, size).transpose(1, 2).flatten(2)

    def repeat_mask(self, mask: Bool[Tensor, "#batch #query key"]) -> Bool[Tensor, "#split #query key"]:
        """Return the mask of the rows of `split_heads`."""
        if mask.shape[0] == 1:
            return mask
        return mask.unsqueeze(1).expand(-1, self.num_heads, -1, -1).flatten(0, 1)

    @property
    def overrides_mixing(self) -> bool:
        """True if a subclass overrides `forward` or `weights`; then its scores do not determine the contexts."""
        return type(self).forward is not Attention.forward or type(self).weights is not Attention.weights

    @property
    def uses_fused_attention(self) -> bool:
        """True if the contexts are computed without storing scores."""
        is_softmax = self.inner_product and self.normalize == "softmax"
        return is_softmax and not self.overrides_mixing and not self.deterministic

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Compute contexts whose bits do not depend on the batch, if the options say so.

        Raises:
            OptionError: if they do, and weights are not computed by a softmax.
        """
        if options.deterministic and self.normalize != "softmax":
            msg = (
                f"deterministic=True needs attention with a softmax, but {type(self).__name__} has "
                f"normalize={self.normalize!r}; leave deterministic out, or train with normalize='softmax'."
            )
            raise OptionError(msg, normalize=self.normalize)
        self.deterministic = options.deterministic

    def forward(
        self,
        query: Float[Tensor, "batch query hidden"],
        key: Float[Tensor, "batch key hidden"],
        mask: Bool[Tensor, "#batch #query key"],
    ) -> Float[Tensor, "batch query hidden"]:
        """Return one context per query: the weighted mean of the keys, or of their projections."""
        if self.overrides_mixing:
            return self.weights(query, key, mask) @ key
        # Keys masked for every query may hold anything. Torch's kernels give NaN if such a score overflows.
        filled = key.masked_fill(~mask.any(1).unsqueeze(-1), 0)
        return self.project_contexts(self.mix(*self.project(query, filled), self.project_values(filled), mask))
