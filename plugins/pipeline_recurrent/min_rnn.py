"""minGRU and minLSTM: gated recurrences whose gates read the input only, so that all steps are scanned at once."""

from collections.abc import Callable
from typing import ClassVar, Literal, TypeAlias, final, get_args, overload

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import logsigmoid
from typing_extensions import Unpack, override

from pipeline.extend import Causal, MaybeCausal, OptionError, S_co, compute_sigmoid
from pipeline_recurrent.scan_layer import ScanLayer
from pipeline_recurrent.scanned import Scanned, ScanOptions, expand_scan_options

Candidate: TypeAlias = Literal["linear", "positive"]
"""The activation of the candidate: none, or x + 0.5 for x >= 0 and sigmoid(x) below, which is positive."""


class _MinRNN(Scanned[S_co]):
    """The base class of both: an encoder of layers with a candidate."""

    def __init__(
        self,
        make_layer: Callable[[int, int, Candidate], ScanLayer],
        input_size: int,
        hidden_size: int,
        candidate: Candidate,
        *,
        bidirectional: bool,
        **options: Unpack[ScanOptions],
    ) -> None:
        if candidate not in get_args(Candidate):
            msg = f"candidate must be linear or positive, got {candidate!r}."
            raise OptionError(msg, candidate=candidate)
        super().__init__(
            lambda size: make_layer(size, hidden_size, candidate),
            input_size,
            hidden_size,
            bidirectional=bidirectional,
            **options,
        )
        self.candidate: Candidate = candidate

    @override
    def get_config(self) -> dict[str, object]:
        return {**super().get_config(), "candidate": self.candidate}


@final
class MinGRU(_MinRNN[S_co]):
    """A gated average of candidates, by a parallel scan over packed rows: h[t] = (1 - z[t]) h[t-1] + z[t] c[t].

    The gate z and the candidate c are linear in the input, so a step costs a matrix product that does not wait for the
    step before. In one direction it is causal. The `carry` of its states is `(h,)`, (layers x directions) x batch x
    hidden.

    Args:
        input_size: features of an input vector.
        hidden_size: features of a state, per direction.
        candidate: "linear", as in section 3.1 of the paper; or "positive", as in its appendix, where the candidate goes
            through a positive function, so that the states stay positive.
        bidirectional: also read each row backward, from its own last real step.
        num_layers: number of stacked layers. Between layers, the directions are always concatenated.
        dropout: probability on the output of every layer but the last.
        layer_norm: normalize the output of every layer but the last, before dropout.
        residual: add its input to the output of every layer but the first.
        merge: how the two directions of the last layer are joined, if `bidirectional`.

    Raises:
        OptionError: if an option is out of its range.

    Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201. Theirs scans logarithms, which needs
    positive numbers; ours scans the numbers themselves, so that the linear form can be trained in parallel too.

    Example:
        >>> from pipeline import Encode, Padded, Vectors
        >>> batch = Padded(Vectors, torch.ones(2, 3, 4), torch.tensor([3, 1]))
        >>> states = Encode(MinGRU(4, 5, num_layers=2))(batch)
        >>> states.final.shape, states.carry[0].shape
        (torch.Size([2, 5]), torch.Size([2, 2, 5]))
    """

    @overload
    def __init__(
        self: "MinGRU[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        candidate: Candidate = "linear",
        bidirectional: Literal[False] = False,
        **options: Unpack[ScanOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: "MinGRU[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        candidate: Candidate = "linear",
        bidirectional: bool = False,
        **options: Unpack[ScanOptions],
    ) -> None: ...
    @expand_scan_options
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        candidate: Candidate = "linear",
        bidirectional: bool = False,
        **options: Unpack[ScanOptions],
    ) -> None:
        super().__init__(_MinGRULayer, input_size, hidden_size, candidate, bidirectional=bidirectional, **options)


@final
class MinLSTM(_MinRNN[S_co]):
    """A gated average with a forget and an input gate, by a parallel scan: h[t] = f'[t] h[t-1] + i'[t] c[t].

    The gates are divided by their sum, f' = f / (f + i) and i' = i / (f + i), and read the input only. In one direction
    it is causal. The `carry` of its states is `(h,)`: unlike an LSTM it has no cell besides.

    Args:
        input_size: features of an input vector.
        hidden_size: features of a state, per direction.
        candidate: see `MinGRU`, as for the other options.
        bidirectional: also read each row backward, from its own last real step.

    Raises:
        OptionError: if an option is out of its range.

    Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, section 3.2.

    Example:
        >>> MinLSTM(4, 5, bidirectional=True, merge="mean").output_size
        5
    """

    @overload
    def __init__(
        self: "MinLSTM[Causal]",
        input_size: int,
        hidden_size: int,
        *,
        candidate: Candidate = "linear",
        bidirectional: Literal[False] = False,
        **options: Unpack[ScanOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: "MinLSTM[MaybeCausal]",
        input_size: int,
        hidden_size: int,
        *,
        candidate: Candidate = "linear",
        bidirectional: bool = False,
        **options: Unpack[ScanOptions],
    ) -> None: ...
    @expand_scan_options
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        candidate: Candidate = "linear",
        bidirectional: bool = False,
        **options: Unpack[ScanOptions],
    ) -> None:
        super().__init__(_MinLSTMLayer, input_size, hidden_size, candidate, bidirectional=bidirectional, **options)


class _MinRNNLayer(ScanLayer):
    """Gates and candidate, by one product.

    Attributes:
        columns: how many of these there are.
    """

    columns: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int, candidate: Candidate) -> None:
        super().__init__()
        self.state_size = self.output_size = hidden_size
        self.candidate: Candidate = candidate
        self.is_positive = candidate == "positive"
        self.linear: nn.Linear = nn.Linear(input_size, self.columns * hidden_size)

    @property
    @override
    def projection(self) -> nn.Linear:
        return self.linear

    @property
    def sigmoid(self) -> Callable[[Tensor], Tensor]:
        """The sigmoid in torch's operations."""
        return compute_sigmoid if self.deterministic else torch.sigmoid


@final
class _MinGRULayer(_MinRNNLayer):
    recurrence = "min_gru"
    columns = 2

    @override
    def make_terms(self, product: Float[Tensor, "*axes columns"], *constants: Tensor) -> tuple[Tensor, Tensor]:
        gate, candidate = product.chunk(2, dim=-1)
        # 1 - sigmoid(gate) would round to 0 where sigmoid(-gate) is still a number.
        return self.sigmoid(-gate), self.sigmoid(gate) * activate(candidate, self.candidate, self.sigmoid)


@final
class _MinLSTMLayer(_MinRNNLayer):
    recurrence = "min_lstm"
    columns = 3

    @override
    def make_terms(self, product: Float[Tensor, "*axes columns"], *constants: Tensor) -> tuple[Tensor, Tensor]:
        forget, take, candidate = product.chunk(3, dim=-1)
        # f / (f + i) = sigmoid(log f - log i), which does not divide zero by zero where both gates are closed.
        ratio = logsigmoid(forget) - logsigmoid(take)
        return self.sigmoid(ratio), self.sigmoid(-ratio) * activate(candidate, self.candidate, self.sigmoid)


def activate(values: Tensor, candidate: Candidate, sigmoid: Callable[[Tensor], Tensor] = torch.sigmoid) -> Tensor:
    """Return candidates after their activation."""
    return values if candidate == "linear" else torch.where(values >= 0, values + 0.5, sigmoid(values))
