"""The recurrent encoders by name: LSTM, GRU and the plain RNN, and the bidirectional forms of the former."""

from typing import Literal, TypedDict, final, get_args, overload

from torch import nn
from typing_extensions import Unpack

from pipeline.data.states import Causal, MaybeCausal, S_co
from pipeline.errors import OptionError
from pipeline_recurrent.engines.choose import EngineName
from pipeline_recurrent.recurrent import Merge, Recurrent, check_sizes

Nonlinearity = Literal["tanh", "relu"]
"""What squashes the sum of a plain RNN."""


class _Options(TypedDict, total=False):
    """What both directions of sight take alike; `LSTM` says what each means."""

    num_layers: int
    bias: bool
    dropout: float
    layer_norm: bool
    residual: bool
    merge: Merge
    engine: EngineName


@final
class LSTM(Recurrent[S_co]):
    """Long short-term memory over packed rows. In one direction it is causal.

    Its states `carried` are `(h, c)`, each layers (x directions) x batch x hidden.

    Args:
        input_size: features of a step that comes in.
        hidden_size: features of a state, a direction.
        num_layers: how many are stacked; between layers the directions are always side by side.
        bias: whether the gates have biases.
        dropout: on the output of every layer but the last.
        bidirectional: read each row from its own last real step backwards as well.
        layer_norm: normalise the output of every layer but the last, before dropout.
        residual: add what comes in to what every layer but the first gives.
        merge: how the two directions of the last layer are joined.
        engine: who computes: "packed" (torch's kernel), "dense" (torch's on padded rows), "plain" (torch operations
            with a backward pass of our own), "native" (compiled), "cudnn" (on a GPU), or "auto": the fastest for
            each batch. All give the same numbers, up to rounding.

    Raises:
        OptionError: if an option is outside its range.

    Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", Neural Computation 9(8), with the forget
    gate of Gers et al. 2000; gates and weight names as torch's `nn.LSTM`.

    Example:
        >>> import torch
        >>> from pipeline import Encode, Padded, Vectors
        >>> batch = Padded(Vectors, torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> states = Encode(LSTM(4, 5, bidirectional=True))(batch)
        >>> bool((states.padded().values[1, 0] == states.final[1]).all())
        True
    """

    @overload
    def __init__(
        self: "LSTM[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> None: ...
    @overload
    def __init__(
        self: "LSTM[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: bool,
        **options: Unpack[_Options],
    ) -> None: ...
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        layer_norm: bool = False,
        residual: bool = False,
        merge: Merge = "concat",
        engine: EngineName = "auto",
    ) -> None:
        check_sizes(input_size, hidden_size, num_layers, dropout)
        module = nn.LSTM(input_size, hidden_size, num_layers, bias, dropout=dropout, bidirectional=bidirectional)
        super().__init__(module, merge, engine, layer_norm=layer_norm, residual=residual)

    @classmethod
    def from_torch(
        cls, module: nn.LSTM, *, merge: Merge = "concat", engine: EngineName = "auto"
    ) -> "LSTM[MaybeCausal]":
        """An encoder with a copy of an existing module's weights; its layout (`batch_first`) does not matter.

        Its type does not say that it is causal. Where that is needed, make the encoder and `take` the weights.

        Raises:
            OptionError: if the module is of another kind, or has projections (`proj_size`).
        """
        options: _Options = {
            "num_layers": module.num_layers,
            "bias": module.bias,
            "dropout": module.dropout if module.num_layers > 1 else 0.0,
            "merge": merge,
            "engine": engine,
        }
        encoder = LSTM(module.input_size, module.hidden_size, bidirectional=module.bidirectional, **options)
        return encoder.load_torch(module)


@final
class GRU(Recurrent[S_co]):
    """Gated recurrent units over packed rows. In one direction they are causal.

    Its state `carried` is `(h,)`, layers (x directions) x batch x hidden. The options are those of `LSTM`.

    Raises:
        OptionError: if an option is outside its range.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", arXiv:1406.1078;
    the reset gate stands behind the recurrent product, and weights are named, as in torch's `nn.GRU`.

    Example:
        >>> GRU(4, 5, num_layers=2, bidirectional=True, merge="mean").output_size
        5
    """

    @overload
    def __init__(
        self: "GRU[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> None: ...
    @overload
    def __init__(
        self: "GRU[MaybeCausal]", input_size: int, hidden_size: int, *, bidirectional: bool, **options: Unpack[_Options]
    ) -> None: ...
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        layer_norm: bool = False,
        residual: bool = False,
        merge: Merge = "concat",
        engine: EngineName = "auto",
    ) -> None:
        check_sizes(input_size, hidden_size, num_layers, dropout)
        module = nn.GRU(input_size, hidden_size, num_layers, bias, dropout=dropout, bidirectional=bidirectional)
        super().__init__(module, merge, engine, layer_norm=layer_norm, residual=residual)

    @classmethod
    def from_torch(cls, module: nn.GRU, *, merge: Merge = "concat", engine: EngineName = "auto") -> "GRU[MaybeCausal]":
        """An encoder with a copy of an existing module's weights; its layout (`batch_first`) does not matter.

        Its type does not say that it is causal. Where that is needed, make the encoder and `take` the weights.

        Raises:
            OptionError: if the module is of another kind, or has projections (`proj_size`).
        """
        options: _Options = {
            "num_layers": module.num_layers,
            "bias": module.bias,
            "dropout": module.dropout if module.num_layers > 1 else 0.0,
            "merge": merge,
            "engine": engine,
        }
        encoder = GRU(module.input_size, module.hidden_size, bidirectional=module.bidirectional, **options)
        return encoder.load_torch(module)


@final
class RNN(Recurrent[S_co]):
    """Plain recurrent units over packed rows. In one direction they are causal.

    Their state `carried` is `(h,)`, layers (x directions) x batch x hidden. The options are those of `LSTM`, and:

    Args:
        input_size: features of a step that comes in.
        hidden_size: features of a state, a direction.
        nonlinearity: what squashes the sum of what comes in and what was before: tanh or relu.
        bidirectional: read each row from its own last real step backwards as well.

    Raises:
        OptionError: if an option is outside its range.

    Source: Elman 1990, "Finding Structure in Time", Cognitive Science 14(2); weights named as in torch's `nn.RNN`.

    Example:
        >>> RNN(4, 5, nonlinearity="relu").causal
        True
    """

    @overload
    def __init__(
        self: "RNN[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: Nonlinearity = "tanh",
        bidirectional: Literal[False] = False,
        **options: Unpack[_Options],
    ) -> None: ...
    @overload
    def __init__(
        self: "RNN[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: Nonlinearity = "tanh",
        bidirectional: bool,
        **options: Unpack[_Options],
    ) -> None: ...
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: Nonlinearity = "tanh",
        num_layers: int = 1,
        bias: bool = True,
        dropout: float = 0.0,
        bidirectional: bool = False,
        layer_norm: bool = False,
        residual: bool = False,
        merge: Merge = "concat",
        engine: EngineName = "auto",
    ) -> None:
        check_sizes(input_size, hidden_size, num_layers, dropout)
        if nonlinearity not in get_args(Nonlinearity):
            msg = f"nonlinearity must be tanh or relu, but {nonlinearity!r} arrived."
            raise OptionError(msg, nonlinearity=nonlinearity)
        module = nn.RNN(
            input_size, hidden_size, num_layers, nonlinearity, bias, dropout=dropout, bidirectional=bidirectional
        )
        super().__init__(module, merge, engine, layer_norm=layer_norm, residual=residual)

    @classmethod
    def from_torch(cls, module: nn.RNN, *, merge: Merge = "concat", engine: EngineName = "auto") -> "RNN[MaybeCausal]":
        """An encoder with a copy of an existing module's weights; its layout (`batch_first`) does not matter.

        Its type does not say that it is causal. Where that is needed, make the encoder and `take` the weights.

        Raises:
            OptionError: if the module is of another kind.
        """
        options: _Options = {
            "num_layers": module.num_layers,
            "bias": module.bias,
            "dropout": module.dropout if module.num_layers > 1 else 0.0,
            "merge": merge,
            "engine": engine,
        }
        squash: Nonlinearity = "relu" if module.mode == "RNN_RELU" else "tanh"
        encoder = RNN(
            module.input_size, module.hidden_size, nonlinearity=squash, bidirectional=module.bidirectional, **options
        )
        return encoder.load_torch(module)


def bilstm(
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    layer_norm: bool = False,
    residual: bool = False,
    merge: Merge = "concat",
    engine: EngineName = "auto",
) -> LSTM[MaybeCausal]:
    """An `LSTM` that reads both ways."""
    return LSTM(
        input_size,
        hidden_size,
        bidirectional=True,
        num_layers=num_layers,
        bias=bias,
        dropout=dropout,
        layer_norm=layer_norm,
        residual=residual,
        merge=merge,
        engine=engine,
    )


def bigru(
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    layer_norm: bool = False,
    residual: bool = False,
    merge: Merge = "concat",
    engine: EngineName = "auto",
) -> GRU[MaybeCausal]:
    """A `GRU` that reads both ways."""
    return GRU(
        input_size,
        hidden_size,
        bidirectional=True,
        num_layers=num_layers,
        bias=bias,
        dropout=dropout,
        layer_norm=layer_norm,
        residual=residual,
        merge=merge,
        engine=engine,
    )
