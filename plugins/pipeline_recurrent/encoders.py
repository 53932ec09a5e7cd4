"""The recurrent encoders by name: LSTM and GRU, and their bidirectional forms."""

from typing import Literal, TypedDict, final, overload

from torch import nn
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import Unpack, override

from pipeline.sequences.batches import Carry
from pipeline.sequences.states import Causal, S_co, Sight
from pipeline_recurrent.recurrent import Merge, Recurrent


class _Options(TypedDict, total=False):
    """What both directions of sight take alike; `__init__` says what each means."""

    num_layers: int
    bias: bool
    dropout: float
    merge: Merge


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
        merge: how the two directions of the last layer are joined.

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
        self: "LSTM[Sight]", input_size: int, hidden_size: int, *, bidirectional: bool, **options: Unpack[_Options]
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
        merge: Merge = "concat",
    ) -> None:
        super().__init__(nn.LSTM, input_size, hidden_size, num_layers, bias, dropout, bidirectional, merge)

    @classmethod
    def from_torch(cls, module: nn.LSTM, *, merge: Merge = "concat") -> "LSTM[Sight]":
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
        }
        encoder = LSTM(module.input_size, module.hidden_size, bidirectional=module.bidirectional, **options)
        return encoder.take(module)

    @property
    @override
    def _states(self) -> int:
        return 2

    @override
    def _call(self, sequence: PackedSequence, started: Carry) -> tuple[PackedSequence, Carry]:
        steps, (h, c) = self.rnn(sequence, (started[0], started[1]))
        return steps, (h, c)


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
        self: "GRU[Sight]", input_size: int, hidden_size: int, *, bidirectional: bool, **options: Unpack[_Options]
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
        merge: Merge = "concat",
    ) -> None:
        super().__init__(nn.GRU, input_size, hidden_size, num_layers, bias, dropout, bidirectional, merge)

    @classmethod
    def from_torch(cls, module: nn.GRU, *, merge: Merge = "concat") -> "GRU[Sight]":
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
        }
        encoder = GRU(module.input_size, module.hidden_size, bidirectional=module.bidirectional, **options)
        return encoder.take(module)

    @property
    @override
    def _states(self) -> int:
        return 1

    @override
    def _call(self, sequence: PackedSequence, started: Carry) -> tuple[PackedSequence, Carry]:
        steps, h = self.rnn(sequence, started[0])
        return steps, (h,)


def bilstm(
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    merge: Merge = "concat",
) -> LSTM[Sight]:
    """An `LSTM` that reads both ways."""
    return LSTM(
        input_size, hidden_size, bidirectional=True, num_layers=num_layers, bias=bias, dropout=dropout, merge=merge
    )


def bigru(
    input_size: int,
    hidden_size: int,
    *,
    num_layers: int = 1,
    bias: bool = True,
    dropout: float = 0.0,
    merge: Merge = "concat",
) -> GRU[Sight]:
    """A `GRU` that reads both ways."""
    return GRU(
        input_size, hidden_size, bidirectional=True, num_layers=num_layers, bias=bias, dropout=dropout, merge=merge
    )
