"""The recurrent encoders by name: LSTM, GRU and the plain RNN; `bilstm` and `bigru` are their bidirectional forms."""

from collections.abc import Mapping
from functools import partial
from typing import Literal, final, get_args, overload

from torch import nn
from typing_extensions import Unpack, override

from pipeline.extend import Causal, MaybeCausal, OptionError, S_co
from pipeline_recurrent.engines.choose import EngineName
from pipeline_recurrent.merge import Merge
from pipeline_recurrent.recurrent import Options, Recurrent, expand_options
from pipeline_recurrent.torch_modules import TorchModule

Nonlinearity = Literal["tanh", "relu"]
"""The activation of a plain RNN."""


@final
class LSTM(Recurrent[S_co]):
    """Long short-term memory over packed rows. In one direction it is causal.

    The `carry` of its states is `(h, c)`, each (layers x directions) x batch x hidden.

    Args:
        input_size: features of an input vector.
        hidden_size: features of a state, per direction.
        bidirectional: also read each row backward, from its own last real step.
        num_layers: number of stacked layers. Between layers, the directions are always concatenated.
        bias: whether the gates have biases.
        dropout: probability on the output of every layer but the last.
        layer_norm: normalize the output of every layer but the last, before dropout.
        residual: add its input to the output of every layer but the first.
        merge: how the two directions of the last layer are joined, if `bidirectional`.
        engine: "packed" (torch's kernel), "dense" (torch's kernel on padded rows), "plain" (torch operations with a
            backward pass of our own), "native" (compiled), "cudnn" (on a GPU), or "auto": the fastest for each batch.
            All compute the same numbers, up to rounding.
        highway: between layers, weigh a layer's output and its input by a gate that reads the input; instead of
            `residual`.
        dropout_per: "step" draws a mask for every step, "row" one per row for all of its steps.
        weight_dropout: probability on the recurrent weights: in training, some are zero, the same at all steps of the
            batch.
        zoneout: probability that a number of h stays what it was a step before; in evaluation the mean of both. It is
            computed by the engine "plain" one step after another, which takes two to three times as long; it is not
            exported.
        zoneout_cell: the same for the cells of an LSTM.
        proj_size: of an LSTM: project h to this number of features, as in `nn.LSTM`; 0 for no projection. It is
            computed by torch's kernels ("packed", or "cudnn" on a GPU), and not exported.

    Raises:
        OptionError: if an option is out of its range.

    Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", Neural Computation 9(8), with the forget
    gate of Gers et al. 2000; gates and weight names as in torch's `nn.LSTM`. `highway`: Srivastava et al. 2015,
    arXiv:1505.00387. `dropout_per="row"`: Gal and Ghahramani 2016, arXiv:1512.05287. `weight_dropout`: Merity et al.
    2018, "Regularizing and Optimizing LSTM Language Models", arXiv:1708.02182. `zoneout`: Krueger et al. 2017,
    arXiv:1606.01305. `proj_size`: Sak, Senior and Beaufays 2014, arXiv:1402.1128.

    Example:
        >>> import torch
        >>> from pipeline import Encode, Padded, Vectors
        >>> batch = Padded(Vectors, torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> states = Encode(LSTM(4, 5, bidirectional=True))(batch)
        >>> bool((states.padded().values[1, 0] == states.final[1]).all())
        True
    """

    # The types of `self` make causality a part of the type: `LSTM(...)` is an LSTM[Causal], but with
    # `bidirectional=True`, or with a bool that is known only at run time, it is an LSTM[MaybeCausal].
    @overload
    def __init__(
        self: "LSTM[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: Literal[False] = False,
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: "LSTM[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: bool = False,
        **options: Unpack[Options],
    ) -> None: ...
    @expand_options
    def __init__(
        self, input_size: int, hidden_size: int, *, bidirectional: bool = False, **options: Unpack[Options]
    ) -> None:
        super().__init__(nn.LSTM, input_size, hidden_size, bidirectional=bidirectional, **options)

    @classmethod
    def from_torch(
        cls, module: nn.LSTM, *, merge: Merge = "concat", engine: EngineName = "auto"
    ) -> "LSTM[MaybeCausal]":
        """Return an encoder with a copy of a torch module's weights; its layout (`batch_first`) does not matter.

        Its type does not say that it is causal. Where that is needed, construct the encoder and use `load_torch`.

        """
        # Whether a module is bidirectional is known only at run time, hence MaybeCausal.
        sizes, options = (module.input_size, module.hidden_size), _read_options(module, merge, engine)
        return LSTM(*sizes, bidirectional=module.bidirectional, **options).load_torch(module)


@final
class GRU(Recurrent[S_co]):
    """Gated recurrent units over packed rows. In one direction they are causal.

    The `carry` of their states is `(h,)`, (layers x directions) x batch x hidden. The options are those of `LSTM`.

    Raises:
        OptionError: if an option is out of its range.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder", arXiv:1406.1078. As in torch's
    `nn.GRU`, from which the weight names are, the reset gate is applied after the recurrent product, not before.

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
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: "GRU[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        bidirectional: bool = False,
        **options: Unpack[Options],
    ) -> None: ...
    @expand_options
    def __init__(
        self, input_size: int, hidden_size: int, *, bidirectional: bool = False, **options: Unpack[Options]
    ) -> None:
        super().__init__(nn.GRU, input_size, hidden_size, bidirectional=bidirectional, **options)

    @classmethod
    def from_torch(cls, module: nn.GRU, *, merge: Merge = "concat", engine: EngineName = "auto") -> "GRU[MaybeCausal]":
        """Return an encoder with a copy of a torch module's weights, as `LSTM.from_torch` does."""
        sizes, options = (module.input_size, module.hidden_size), _read_options(module, merge, engine)
        return GRU(*sizes, bidirectional=module.bidirectional, **options).load_torch(module)


@final
class RNN(Recurrent[S_co]):
    """Plain recurrent units over packed rows. In one direction they are causal.

    The `carry` of their states is `(h,)`, (layers x directions) x batch x hidden. The options are those of `LSTM`, and:

    Args:
        input_size: features of an input vector.
        hidden_size: features of a state, per direction.
        nonlinearity: the activation, tanh or relu.
        bidirectional: also read each row backward, from its own last real step.

    Raises:
        OptionError: if an option is out of its range.

    Source: Elman 1990, "Finding Structure in Time", Cognitive Science 14(2); weight names as in torch's `nn.RNN`.

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
        **options: Unpack[Options],
    ) -> None: ...
    @overload
    def __init__(
        self: "RNN[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: Nonlinearity = "tanh",
        bidirectional: bool = False,
        **options: Unpack[Options],
    ) -> None: ...
    @expand_options
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        nonlinearity: Nonlinearity = "tanh",
        bidirectional: bool = False,
        **options: Unpack[Options],
    ) -> None:
        if nonlinearity not in get_args(Nonlinearity):
            msg = f"nonlinearity must be tanh or relu, got {nonlinearity!r}."
            raise OptionError(msg, nonlinearity=nonlinearity)
        make_module = partial(nn.RNN, nonlinearity=nonlinearity)
        super().__init__(make_module, input_size, hidden_size, bidirectional=bidirectional, **options)

    @override
    def get_config(self) -> Mapping[str, object]:
        return {**super().get_config(), "nonlinearity": "relu" if self.rnn.mode == "RNN_RELU" else "tanh"}

    @classmethod
    def from_torch(cls, module: nn.RNN, *, merge: Merge = "concat", engine: EngineName = "auto") -> "RNN[MaybeCausal]":
        """Return an encoder with a copy of a torch module's weights, as `LSTM.from_torch` does."""
        sizes, options = (module.input_size, module.hidden_size), _read_options(module, merge, engine)
        activation: Nonlinearity = "relu" if module.mode == "RNN_RELU" else "tanh"
        encoder = RNN(*sizes, nonlinearity=activation, bidirectional=module.bidirectional, **options)
        return encoder.load_torch(module)


def _read_options(module: TorchModule, merge: Merge, engine: EngineName) -> Options:
    """Return the options of an encoder with the shapes of a torch module."""
    return {
        "num_layers": module.num_layers,
        "bias": module.bias,
        # Torch accepts, and warns of, dropout in a single layer, where it does nothing.
        "dropout": module.dropout if module.num_layers > 1 else 0.0,
        "proj_size": module.proj_size,
        "merge": merge,
        "engine": engine,
    }


@expand_options
def bilstm(input_size: int, hidden_size: int, **options: Unpack[Options]) -> LSTM[MaybeCausal]:
    """Return a bidirectional `LSTM`."""
    return LSTM(input_size, hidden_size, bidirectional=True, **options)


@expand_options
def bigru(input_size: int, hidden_size: int, **options: Unpack[Options]) -> GRU[MaybeCausal]:
    """Return a bidirectional `GRU`."""
    return GRU(input_size, hidden_size, bidirectional=True, **options)
