"""The convolutional encoders: `CNN` and `GatedCNN`; their causal forms by name."""

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict, final, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from typing_extensions import Unpack, override

from pipeline.extend import Causal, MaybeCausal, OptionError, S_co, check_int, compute_gelu, compute_sigmoid
from pipeline_convolutional.convolution import Convolutional

Activation = Literal["relu", "gelu", "tanh"]
"""The nonlinearity after a convolution."""


class CNNOptions(TypedDict, total=False):
    """The options of `CNN` besides its sizes and `causal`."""

    kernel_sizes: Sequence[int]
    num_layers: int
    dilation: int | Sequence[int]
    activation: Activation
    residual: bool
    dropout: float


class GatedCNNOptions(TypedDict, total=False):
    """The options of `GatedCNN` besides its sizes and `causal`."""

    kernel_size: int
    num_layers: int
    dilation: int | Sequence[int]
    residual: bool
    dropout: float


@final
class CNN(Convolutional[S_co]):
    """Convolutions of several widths side by side: `len(kernel_sizes) * hidden_size` features per step.

    With `Pool("max")` and `Dropout` it is Kim's classifier. With `causal=True` it is a `CNN[Causal]`; together with one
    width, `residual` and dilations of 1, 2, 4 and so on it is a temporal convolutional network.

    Args:
        input_size: features of an input vector.
        hidden_size: features for each width.
        causal: read the current and earlier steps only. Otherwise a kernel is centered, and one of an even width reads
            one more step after the current one than before it.
        kernel_sizes: the widths.
        num_layers: the number of layers; each reads the features of all widths of the layer before it.
        dilation: the distance of the steps that a kernel reads, which includes the current step; a sequence has one for
            each layer.
        activation: the nonlinearity after each convolution.
        residual: add its input to the output of every layer but the first.
        dropout: probability on the output of every layer but the last.

    Raises:
        OptionError: if an option is out of its range.

    Source: Kim 2014, "Convolutional Neural Networks for Sentence Classification", arXiv:1408.5882, whose windows stay
    inside the sentence; ours give one vector per step, with zeros before and after a row. Bai, Kolter and Koltun 2018,
    "An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling", arXiv:1803.01271,
    whose residual blocks have two convolutions with weight norm; ours have one without.

    Example:
        >>> import torch
        >>> from pipeline import Encode, Padded, Vectors
        >>> batch = Padded(Vectors, torch.ones(2, 3, 4), torch.tensor([3, 0]))
        >>> Encode(CNN(4, 5, kernel_sizes=(2, 3)))(batch).packed().values.shape
        torch.Size([3, 10])
    """

    # As for `LSTM`: causality is a part of the type.
    @overload
    def __init__(
        self: "CNN[Causal]", input_size: int, hidden_size: int, *, causal: Literal[True], **options: Unpack[CNNOptions]
    ) -> None: ...
    @overload
    def __init__(
        self: "CNN[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        causal: bool = False,
        **options: Unpack[CNNOptions],
    ) -> None: ...
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        causal: bool = False,
        kernel_sizes: Sequence[int] = (3, 4, 5),
        num_layers: int = 1,
        dilation: int | Sequence[int] = 1,
        activation: Activation = "relu",
        residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        if activation not in get_args(Activation):
            msg = f"activation must be relu, gelu or tanh, got {activation!r}."
            raise OptionError(msg, activation=activation)
        super().__init__(
            input_size,
            hidden_size,
            outputs=1,
            kernel_sizes=kernel_sizes,
            causal=causal,
            num_layers=num_layers,
            dilation=dilation,
            residual=residual,
            dropout=dropout,
        )
        self.kernel_sizes: Sequence[int] = tuple(kernel_sizes)
        self.activation: Activation = activation

    @override
    def get_config(self) -> Mapping[str, object]:
        return {**super().get_config(), "kernel_sizes": self.kernel_sizes, "activation": self.activation}

    @override
    def activate(self, values: Float[Tensor, "line time output"]) -> Float[Tensor, "line time hidden"]:
        if self.activation == "gelu":
            return compute_gelu(values) if self.deterministic else functional.gelu(values)
        return torch.relu(values) if self.activation == "relu" else torch.tanh(values)


@final
class GatedCNN(Convolutional[S_co]):
    """Convolutions with a gate: `(W * x + b) sigmoid(V * x + c)`, with the convolution `*` along time.

    With `causal=True` it is a `GatedCNN[Causal]`, for language models.

    Args:
        input_size: features of an input vector.
        hidden_size: features of a state.
        causal: read the current and earlier steps only. Otherwise a kernel is centered, and one of an even width reads
            one more step after the current one than before it.
        kernel_size: the width of the kernels.
        num_layers: the number of layers.
        dilation: the distance of the steps that a kernel reads, which includes the current step; a sequence has one for
            each layer.
        residual: add its input to the output of every layer but the first.
        dropout: probability on the output of every layer but the last.

    Raises:
        OptionError: if an option is out of its range.

    Source: Dauphin, Fan, Auli and Grangier 2017, "Language Modeling with Gated Convolutional Networks",
    arXiv:1612.08083, equation 1. Their residual blocks have up to five layers, some of them bottlenecks, with weight
    norm; ours are single layers without.

    Example:
        >>> GatedCNN(4, 5, causal=True).output_size
        5
    """

    @overload
    def __init__(
        self: "GatedCNN[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        causal: Literal[True],
        **options: Unpack[GatedCNNOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: "GatedCNN[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        causal: bool = False,
        **options: Unpack[GatedCNNOptions],
    ) -> None: ...
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        causal: bool = False,
        kernel_size: int = 3,
        num_layers: int = 1,
        dilation: int | Sequence[int] = 1,
        residual: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            outputs=2,
            kernel_sizes=(check_int("kernel_size", kernel_size, minimum=1),),
            causal=causal,
            num_layers=num_layers,
            dilation=dilation,
            residual=residual,
            dropout=dropout,
        )
        self.kernel_size: int = kernel_size

    @override
    def get_config(self) -> Mapping[str, object]:
        return {**super().get_config(), "kernel_size": self.kernel_size}

    @override
    def activate(self, values: Float[Tensor, "line time output"]) -> Float[Tensor, "line time hidden"]:
        if self.deterministic:
            steps, gates = values.chunk(2, dim=2)
            return steps * compute_sigmoid(gates)
        return functional.glu(values, dim=2)


def causal_cnn(
    input_size: int,
    hidden_size: int,
    *,
    kernel_sizes: Sequence[int] = (3, 4, 5),
    num_layers: int = 1,
    dilation: int | Sequence[int] = 1,
    activation: Activation = "relu",
    residual: bool = False,
    dropout: float = 0.0,
) -> CNN[Causal]:
    """Return a causal `CNN`."""
    return CNN(
        input_size,
        hidden_size,
        causal=True,
        kernel_sizes=kernel_sizes,
        num_layers=num_layers,
        dilation=dilation,
        activation=activation,
        residual=residual,
        dropout=dropout,
    )


def causal_gated_cnn(
    input_size: int,
    hidden_size: int,
    *,
    kernel_size: int = 3,
    num_layers: int = 1,
    dilation: int | Sequence[int] = 1,
    residual: bool = False,
    dropout: float = 0.0,
) -> GatedCNN[Causal]:
    """Return a causal `GatedCNN`."""
    return GatedCNN(
        input_size,
        hidden_size,
        causal=True,
        kernel_size=kernel_size,
        num_layers=num_layers,
        dilation=dilation,
        residual=residual,
        dropout=dropout,
    )
