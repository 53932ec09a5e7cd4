"""Embed numbers: a vector for each number of a step."""

import math
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias, cast, final, get_args

import attrs
import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from pipeline.extend import (
    Batch,
    InferenceOptions,
    ModuleStage,
    OptionError,
    Spec,
    Vectors,
    check_optional_int,
    check_positive,
    multiply_exactly,
)
from pipeline_embeddings.features import check_features, check_input_size, check_sizes, map_vectors

NumberKind: TypeAlias = Literal["linear", "periodic"]


@final
class EmbedNumbers(ModuleStage[Batch[Vectors], Batch[Vectors]]):
    """Embed each number of a step into a vector of its own weights, and join the vectors: n numbers, n vectors.

    A linear layer on raw numbers sees each in one direction only. Vectors let a model tell ranges of a number apart.
    Numbers should be of order 1; put `Standardize` before it if they are not.

    Args:
        embedding_dim: the number of features of an embedded number.
        kind: `linear`: a linear layer per number, and ReLU. `periodic`: sines and cosines with trained frequencies, a
            linear layer per number, and ReLU.
        frequencies: for `periodic`, the number of frequencies per number.
        sigma: for `periodic`, the standard deviation of the initial frequencies. It matters: 0.01 makes smooth
            functions of numbers of order 1, 1 makes fine ones.
        input_size: the number of numbers per step. By default it is that of the stage before.
        name: the stage's name in its chain.

    Raises:
        OptionError: if an option is outside its range.

    Source: Gorishniy, Rubachev and Babenko 2022, "On Embeddings for Numerical Features in Tabular Deep Learning",
    arXiv:2203.05556, section 3: `linear` is LR there, `periodic` is PLR. They tune the options per data set; our
    defaults are those of their package.

    Example:
        >>> from pipeline import Padded
        >>> batch = Padded(Vectors, torch.ones(1, 3, 2), torch.tensor([3]))
        >>> EmbedNumbers(8, kind="periodic", input_size=2)(batch).values.shape
        torch.Size([1, 3, 16])
    """

    stepwise = True

    def __init__(
        self,
        embedding_dim: int,
        *,
        kind: NumberKind = "linear",
        frequencies: int = 48,
        sigma: float = 0.01,
        input_size: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__()
        check_sizes(embedding_dim=embedding_dim, frequencies=frequencies)
        check_optional_int("input_size", input_size, minimum=1)
        if kind not in get_args(NumberKind):
            msg = f"kind must be one of {', '.join(get_args(NumberKind))}, got {cast('object', kind)!r}."
            raise OptionError(msg, kind=kind)
        check_positive("sigma", sigma, advice="try 0.01, 0.1 and 1")
        self.embedding_dim: Final = embedding_dim
        self.kind: Final[NumberKind] = kind
        self.frequencies: Final = frequencies
        self.sigma: Final = sigma
        self.input_size = input_size
        self.name = name
        self.deterministic: bool = False
        self.frequency: nn.Parameter | None = None
        self.weight: nn.Parameter | None = None
        self.bias: nn.Parameter | None = None
        if input_size is not None:
            self._make_weights(input_size)

    def get_config(self) -> Mapping[str, object]:
        """Return the arguments with which this stage can be made again."""
        names = ("embedding_dim", "kind", "frequencies", "sigma", "input_size", "name")
        return {name: cast("object", getattr(self, name)) for name in names}

    def prepare_for_inference(self, options: InferenceOptions, /) -> None:
        """Note whether results may depend on the other rows of a batch."""
        self.deterministic = options.deterministic

    @override
    def build(self, spec: Spec, /) -> Spec:
        check_input_size("EmbedNumbers", self.input_size, spec)
        if self.input_size is None and spec.size is not None:
            self._make_weights(spec.size)
        return attrs.evolve(spec, size=None if self.input_size is None else self.input_size * self.embedding_dim)

    @override
    def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
        """Return the joined vectors of a batch's numbers, in its layout; the padding is zeros.

        Raises:
            ShapeError: if the batch has another number of features.
            CompositionError: if the number of features is not known yet.
        """
        check_features("EmbedNumbers", self.input_size, value)
        return map_vectors(value, self._embed)

    def _make_weights(self, size: int) -> None:
        self.input_size = size
        inner = 1
        if self.kind == "periodic":
            inner = 2 * self.frequencies
            self.frequency = nn.Parameter(torch.empty(size, self.frequencies))
            nn.init.normal_(self.frequency, std=self.sigma)
        self.weight = nn.Parameter(torch.empty(size, inner, self.embedding_dim))
        self.bias = nn.Parameter(torch.empty(size, self.embedding_dim))
        # The bound of torch's linear layers.
        for weight in (self.weight, self.bias):
            nn.init.uniform_(weight, -(inner**-0.5), inner**-0.5)

    def _embed(self, numbers: Float[Tensor, "*steps number"]) -> Float[Tensor, "*steps feature"]:
        weight, bias = cast("Tensor", self.weight), cast("Tensor", self.bias)
        if self.frequency is None:
            vectors = numbers.unsqueeze(-1) * weight.squeeze(1) + bias
        else:
            angles = 2 * math.pi * self.frequency * numbers.unsqueeze(-1)
            waves = torch.cat([angles.cos(), angles.sin()], dim=-1)
            # One product per number: number x steps x wave.
            flat = waves.flatten(0, -3).transpose(0, 1)
            products = multiply_exactly(flat, weight) if self.deterministic else torch.bmm(flat, weight)
            vectors = products.transpose(0, 1).reshape(*numbers.shape, self.embedding_dim) + bias
        return vectors.relu().flatten(-2)

    @override
    def extra_repr(self) -> str:
        return f"{self.input_size}, embedding_dim={self.embedding_dim}, kind={self.kind!r}"
