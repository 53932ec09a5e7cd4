"""The transformer encoder: `Transformer`, and `causal_transformer` for a choice by name."""

from typing import Literal, Self, final, overload

from torch import nn
from typing_extensions import Unpack

from pipeline.extend import Causal, MaybeCausal, S_co
from pipeline_transformer.options import expand_options
from pipeline_transformer.positions import Positions
from pipeline_transformer.torch_modules import copy_weights, read_options
from pipeline_transformer.transformer import BaseTransformer, Options


@final
class Transformer(BaseTransformer[S_co]):
    """A transformer encoder over packed rows: no padding is computed, on a CPU and, in half precision, on a GPU.

    With `causal=True`, a step attends to itself and to earlier steps, and the encoder is a `Transformer[Causal]`. The
    final state of a row is then its last step; else it is the mean of its steps. That of an empty row is zeros.

    Args:
        input_size: features of an input vector.
        hidden_size: features of a hidden vector. If it differs from `input_size`, a linear layer comes first.
        causal: whether a step attends to itself and earlier steps only.
        num_layers: the number of layers.
        num_heads: the number of heads of an attention; divides `hidden_size`.
        num_kv_heads: the number of heads of keys and values, each for several heads of queries (grouped-query
            attention); divides `num_heads`. None for one per head.
        feedforward_size: features within the feed-forward part; None for four times `hidden_size`.
        dropout: probability on the outputs of attention and feed-forward parts, and within the latter. For
            dropout of the input, place the Dropout stage before Encode.
        attention_dropout: probability on the weights of the attention; None for `dropout`. 0 is faster, because then
            no weights are stored.
        activation: of the feed-forward part: "gelu", "relu", or "swiglu", which has half as many weights again.
        norm: "pre" normalizes the input of each part, "post" its output with the residual.
        final_norm: whether the last layer's output is normalized; None for only with `norm="pre"`.
        positions: "sinusoidal" adds fixed vectors, "learned" adds learned ones; "rotary" rotates queries and keys;
            "alibi" and "relative" add to each score a fixed or a learned number by distance. None for no positions.
        max_length: the longest row for learned positions; has no effect on others.
        window: the largest distance to a step that is attended to; None for any.
        bias: whether linear layers and norms have biases.
        layer_norm_eps: the number that norms add to a variance.

    Raises:
        OptionError: if an option is out of its range.

    Source: Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762; here with pre-norm (Xiong et al. 2020,
    arXiv:2002.04745) and GELU by default. Grouped queries: Ainslie et al. 2023, arXiv:2305.13245. Rotary positions: Su
    et al. 2021, arXiv:2104.09864. ALiBi: Press et al. 2021, arXiv:2108.12409. Relative positions: Raffel et al. 2020,
    arXiv:1910.10683. SwiGLU: Shazeer 2020, arXiv:2002.05202. Windows: Beltagy et al. 2020, arXiv:2004.05150.

    Example:
        >>> import torch
        >>> from pipeline import Encode, Padded, Vectors
        >>> batch = Padded(Vectors, torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> states = Encode(Transformer(4, 8, causal=True, num_heads=2).eval())(batch)
        >>> bool((states.padded().values[1, 0] == states.final[1]).all())
        True
    """

    @overload
    def __init__(
        self: "Transformer[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        causal: Literal[True],
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: "Transformer[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        causal: bool = False,
        **options: Unpack[Options],
    ) -> None: ...
    @expand_options
    def __init__(self, input_size: int, hidden_size: int, *, causal: bool = False, **options: Unpack[Options]) -> None:
        super().__init__(input_size, hidden_size, causal=causal, **options)

    @classmethod
    def from_torch(
        cls, module: nn.TransformerEncoder, *, positions: Positions | None = None
    ) -> "Transformer[MaybeCausal]":
        """Return an encoder with a copy of the weights of torch's encoder, which has no positions of its own.

        For a causal encoder, construct it and use `load_torch`.

        Raises:
            OptionError: if the module has layers of another class, or an activation other than relu and gelu.
        """
        size, options = read_options(module)
        options["positions"] = positions
        encoder: Transformer[MaybeCausal] = Transformer(size, size, **options)
        return encoder.load_torch(module)

    def load_torch(self, module: nn.TransformerEncoder) -> Self:
        """Copy the weights of torch's encoder, with their dtype, device, and the training mode.

        Raises:
            OptionError: if the module has other options than this encoder.
        """
        copy_weights(module, self)
        return self


@expand_options
def causal_transformer(input_size: int, hidden_size: int, **options: Unpack[Options]) -> Transformer[Causal]:
    """Return a causal `Transformer`."""
    return Transformer(input_size, hidden_size, causal=True, **options)
