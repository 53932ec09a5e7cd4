"""Multi-head attention."""

import math
from collections.abc import Mapping
from typing import final

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.extend import Attention, Normalize, OptionError, check_int, check_normalize


@final
class MultiHead(Attention):
    """Several scaled dot products side by side, of projected queries, keys and values, whose contexts are projected.

    Each head sees `input_size / num_heads` features of each projection. `weights` returns the mean over the heads.
    There are no biases, as in the paper, so a query that may attend to nothing gives zeros.

    Args:
        input_size: features of a query, of a key, and of a context.
        num_heads: the number of heads; it divides `input_size`.
        normalize: how scores become weights.

    Raises:
        OptionError: if `num_heads` does not divide `input_size`, or one of both is below 1.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, section 3.2.2. Their `h` is our
    `num_heads`; ours has no dropout of weights.

    Example:
        >>> import torch
        >>> heads, steps = MultiHead(4, num_heads=2), torch.ones(1, 3, 4)
        >>> heads(steps, steps, torch.ones(1, 1, 3, dtype=torch.bool)).shape
        torch.Size([1, 3, 4])
    """

    exportable = True
    inner_product = True
    projects_values = True

    def __init__(self, input_size: int, *, num_heads: int = 4, normalize: Normalize = "softmax") -> None:
        super().__init__()
        self.input_size: int = check_int("input_size", input_size, minimum=1)
        self.num_heads: int = check_int("num_heads", num_heads, minimum=1)
        if self.input_size % self.num_heads:
            msg = f"num_heads must divide input_size={input_size}, got {num_heads}; choose another number of heads."
            raise OptionError(msg, num_heads=num_heads, input_size=input_size)
        self.normalize: Normalize = check_normalize(normalize)
        self.score_size: int = self.num_heads
        self.query: nn.Linear = nn.Linear(input_size, input_size, bias=False)
        self.key: nn.Linear = nn.Linear(input_size, input_size, bias=False)
        self.value: nn.Linear = nn.Linear(input_size, input_size, bias=False)
        self.output: nn.Linear = nn.Linear(input_size, input_size, bias=False)

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this attention can be made again."""
        return {"input_size": self.input_size, "num_heads": self.num_heads, "normalize": self.normalize}

    @override
    def project(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> tuple[Float[Tensor, "batch query inner"], Float[Tensor, "batch key inner"]]:
        return self.query(query) / math.sqrt(self.input_size // self.num_heads), self.key(key)

    @override
    def project_values(self, key: Float[Tensor, "batch key hidden"]) -> Float[Tensor, "batch key inner"]:
        values: Tensor = self.value(key)
        return values

    @override
    def project_contexts(self, contexts: Float[Tensor, "*step inner"]) -> Float[Tensor, "*step hidden"]:
        projected: Tensor = self.output(contexts)
        return projected

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        """Return the sum of the scores of all heads."""
        return self.compare(*self.project(query, key))
