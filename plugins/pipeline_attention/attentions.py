"""Five ways to score a query against a key.

`project` transforms each query and each key once, `compare` scores every pair, and `score` is both in a row. Where
`compare` is an inner product (`inner_product`), the stages use torch's fused attention kernel, which stores no scores.

Each turns its scores into weights by a softmax, or by another function (`normalize`): `sparsemax` and `entmax15` give
many keys no weight at all. They store all scores of a chunk.
"""

import math
from collections.abc import Mapping
from typing import final

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.extend import (
    Attention,
    Normalize,
    check_bool,
    check_int,
    check_normalize,
    check_optional_int,
    multiply_exactly,
)


@final
class Dot(Attention):
    """The dot product of query and key. No weights.

    Source: Luong, Pham and Manning 2015, arXiv:1508.04025, equation 8 (`dot`).

    Example:
        >>> import torch
        >>> Dot(2).score(torch.ones(1, 1, 2), torch.ones(1, 3, 2)).tolist()
        [[[2.0, 2.0, 2.0]]]
    """

    exportable = True
    inner_product = True

    def __init__(self, input_size: int, *, normalize: Normalize = "softmax") -> None:
        super().__init__()
        self.input_size: int = check_int("input_size", input_size, minimum=1)
        self.normalize: Normalize = check_normalize(normalize)

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return self.compare(query, key)


@final
class ScaledDot(Attention):
    """The dot product of query and key, divided by the square root of their size. No weights.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, equation 1, without projections.

    Example:
        >>> import torch
        >>> ScaledDot(4).score(torch.ones(1, 1, 4), torch.ones(1, 1, 4)).item()
        2.0
    """

    exportable = True
    inner_product = True

    def __init__(self, input_size: int, *, normalize: Normalize = "softmax") -> None:
        super().__init__()
        self.input_size: int = check_int("input_size", input_size, minimum=1)
        self.normalize: Normalize = check_normalize(normalize)

    @override
    def project(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> tuple[Float[Tensor, "batch query hidden"], Float[Tensor, "batch key hidden"]]:
        return query / math.sqrt(self.input_size), key

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return self.compare(*self.project(query, key))


@final
class General(Attention):
    """The dot product of the key with a linear layer of the query: the bilinear form (W query + b) . key.

    Source: Luong, Pham and Manning 2015, arXiv:1508.04025, equation 8 (`general`); the bias is ours.

    Example:
        >>> sorted(General(2).state_dict())
        ['linear.bias', 'linear.weight']
    """

    exportable = True
    inner_product = True

    def __init__(self, input_size: int, *, bias: bool = True, normalize: Normalize = "softmax") -> None:
        super().__init__()
        self.input_size: int = check_int("input_size", input_size, minimum=1)
        self.normalize: Normalize = check_normalize(normalize)
        check_bool("bias", bias)
        self.linear: nn.Linear = nn.Linear(input_size, input_size, bias=bias)

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this attention can be made again."""
        return {
            "input_size": self.input_size,
            "bias": "bias" in dict(self.linear.named_parameters()),
            "normalize": self.normalize,
        }

    @override
    def project(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> tuple[Float[Tensor, "batch query hidden"], Float[Tensor, "batch key hidden"]]:
        return self.linear(query), key

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return self.compare(*self.project(query, key))


@final
class Additive(Attention):
    """A small network of query and key: v . tanh(W query + U key + b).

    A score needs `hidden_size` intermediate numbers. `score` computes all of them at once, in batch x query x key x
    hidden numbers; the stages call `compare` for a few queries at a time, within their `memory`.

    Args:
        input_size: features of a query, and of a key.
        hidden_size: features inside the network; `input_size` by default.
        normalize: how scores become weights.

    Source: Bahdanau, Cho and Bengio 2015, arXiv:1409.0473, appendix A.1.2; their `s` is our query, their
    `h` our key; the bias b is ours.

    Example:
        >>> import torch
        >>> Additive(2, hidden_size=3).score(torch.ones(1, 4, 2), torch.ones(1, 5, 2)).shape
        torch.Size([1, 4, 5])
    """

    exportable = True

    def __init__(self, input_size: int, *, hidden_size: int | None = None, normalize: Normalize = "softmax") -> None:
        super().__init__()
        self.input_size: int = check_int("input_size", input_size, minimum=1)
        self.normalize: Normalize = check_normalize(normalize)
        self.score_size: int = check_optional_int("hidden_size", hidden_size, minimum=1) or self.input_size
        self.query: nn.Linear = nn.Linear(input_size, self.score_size)
        self.key: nn.Linear = nn.Linear(input_size, self.score_size, bias=False)
        self.value: nn.Linear = nn.Linear(self.score_size, 1, bias=False)

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this attention can be made again."""
        return {"input_size": self.input_size, "hidden_size": self.score_size, "normalize": self.normalize}

    @override
    def project(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> tuple[Float[Tensor, "batch query inner"], Float[Tensor, "batch key inner"]]:
        return self.query(query), self.key(key)

    @override
    def compare(
        self, query: Float[Tensor, "batch query inner"], key: Float[Tensor, "batch key inner"]
    ) -> Float[Tensor, "batch query key"]:
        scores: Tensor = self.value((query.unsqueeze(2) + key.unsqueeze(1)).tanh_())
        return scores.squeeze(-1)

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return self.compare(*self.project(query, key))


@final
class Concat(Attention):
    """A layer of query and key side by side: v . tanh(W [query; key]).

    It differs from `Additive` in its parameters only: one matrix instead of two, and no bias.

    Args:
        input_size: features of a query, and of a key.
        hidden_size: features inside the layer; `input_size` by default.
        normalize: how scores become weights.

    Source: Luong, Pham and Manning 2015, arXiv:1508.04025, equation 8 (`concat`).

    Example:
        >>> import torch
        >>> Concat(2, hidden_size=3).score(torch.ones(1, 4, 2), torch.ones(1, 5, 2)).shape
        torch.Size([1, 4, 5])
    """

    exportable = True

    def __init__(self, input_size: int, *, hidden_size: int | None = None, normalize: Normalize = "softmax") -> None:
        super().__init__()
        self.input_size: int = check_int("input_size", input_size, minimum=1)
        self.normalize: Normalize = check_normalize(normalize)
        self.score_size: int = check_optional_int("hidden_size", hidden_size, minimum=1) or self.input_size
        self.linear: nn.Linear = nn.Linear(2 * input_size, self.score_size, bias=False)
        self.value: nn.Linear = nn.Linear(self.score_size, 1, bias=False)

    def get_config(self) -> Mapping[str, object]:
        """Return the options with which this attention can be made again."""
        return {"input_size": self.input_size, "hidden_size": self.score_size, "normalize": self.normalize}

    @override
    def project(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> tuple[Float[Tensor, "batch query inner"], Float[Tensor, "batch key inner"]]:
        # The product with both side by side is the sum of the products with each, which are computed once per step.
        weight: Tensor = self.linear.weight.T
        of_query, of_key = weight[: self.input_size], weight[self.input_size :]
        if self.deterministic:
            return multiply_exactly(query, of_query), multiply_exactly(key, of_key)
        return query @ of_query, key @ of_key

    @override
    def compare(
        self, query: Float[Tensor, "batch query inner"], key: Float[Tensor, "batch key inner"]
    ) -> Float[Tensor, "batch query key"]:
        scores: Tensor = self.value((query.unsqueeze(2) + key.unsqueeze(1)).tanh_())
        return scores.squeeze(-1)

    @override
    def score(
        self, query: Float[Tensor, "batch query hidden"], key: Float[Tensor, "batch key hidden"]
    ) -> Float[Tensor, "batch query key"]:
        return self.compare(*self.project(query, key))
