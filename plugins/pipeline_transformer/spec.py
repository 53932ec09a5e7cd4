"""The form of an attention: its heads, and which steps a step attends to."""

import math
from typing import final

import attrs
import torch
from jaxtyping import Bool, Int64
from torch import Tensor


@final
@attrs.frozen
class AttentionForm:
    """The form of an attention.

    Attributes:
        heads: the number of heads of queries.
        kv_heads: the number of heads of keys and values, each of which serves `heads / kv_heads` heads of queries.
        size: the number of features of a head.
        causal: whether a step attends to itself and earlier steps only.
        window: the largest distance to a step that is attended to; None for any.
    """

    heads: int
    kv_heads: int
    size: int
    causal: bool
    window: int | None

    @property
    def sharing(self) -> int:
        """The number of heads of queries per head of keys and values."""
        return self.heads // self.kv_heads

    @property
    def scale(self) -> float:
        """The factor of the scores."""
        return 1 / math.sqrt(self.size)

    @property
    def features(self) -> int:
        """The features of queries, keys and values side by side."""
        return (self.heads + 2 * self.kv_heads) * self.size

    def allows(
        self, query: Int64[Tensor, "*axes query 1"], key: Int64[Tensor, " key"]
    ) -> Bool[Tensor, "*axes query key"]:
        """Return whether queries at some times may attend to keys at some times."""
        distance = query - key
        allowed = torch.ones_like(distance, dtype=torch.bool) if not self.causal else distance >= 0
        if self.window is None:
            return allowed
        return allowed & ((distance if self.causal else distance.abs()) <= self.window)
