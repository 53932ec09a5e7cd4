"""What the recurrent encoders share: packed rows through torch's kernel, directions merged, states in and out."""

from abc import abstractmethod
from typing import Literal, Self

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from typing_extensions import override

from pipeline.errors import OptionError, ShapeError
from pipeline.parts.encoder import Encoder
from pipeline.sequences.batches import Batch, Carry, Packed
from pipeline.sequences.rows import Vectors
from pipeline.sequences.states import S_co, States

Merge = Literal["concat", "mean", "sum", "max", "mul"]
"""How the two directions of the last layer are joined, states and final states alike."""


def merged(
    forward: Float[Tensor, "*axes hidden"], backward: Float[Tensor, "*axes hidden"], how: Merge
) -> Float[Tensor, "*axes merged"]:
    """The two directions as one: side by side for concat, elementwise for the others.

    Example:
        >>> one, two = torch.tensor([1.0, 4.0]), torch.tensor([3.0, 2.0])
        >>> [merged(one, two, how).tolist() for how in ("concat", "mean", "max", "mul")]
        [[1.0, 4.0, 3.0, 2.0], [2.0, 3.0], [3.0, 4.0], [3.0, 8.0]]
    """
    match how:
        case "concat":
            return torch.cat([forward, backward], dim=-1)
        case "mean":
            return (forward + backward) / 2
        case "sum":
            return forward + backward
        case "max":
            return torch.maximum(forward, backward)
        case "mul":
            return forward * backward


class Recurrent(Encoder[S_co]):
    """An encoder that runs one of torch's recurrent modules over packed rows.

    The module is an ordinary `nn.LSTM` or `nn.GRU` under the name `rnn`, so its weights go in and out
    under the names that they have there.
    """

    rnn: nn.LSTM | nn.GRU

    def __init__(
        self,
        module: type[nn.LSTM | nn.GRU],
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        dropout: float,
        bidirectional: bool,
        merge: Merge,
    ) -> None:
        super().__init__()
        for option, number in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if number < 1:
                msg = f"{option} must be 1 or more, but {number} arrived."
                raise OptionError(msg, **{option: number})
        if not 0 <= dropout < 1:
            msg = f"dropout must be a probability, 0 <= dropout < 1, but {dropout} arrived."
            raise OptionError(msg, dropout=dropout)
        if dropout and num_layers == 1:
            msg = f"dropout={dropout} acts between layers, but there is one; use the Dropout stage around Encode."
            raise OptionError(msg, dropout=dropout)
        if merge not in ("concat", "mean", "sum", "max", "mul"):
            msg = f"merge must be concat, mean, sum, max or mul, but {merge!r} arrived."
            raise OptionError(msg, merge=merge)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.merge: Merge = merge
        self.output_size: int = hidden_size * (2 if bidirectional and merge == "concat" else 1)
        self.causal: bool = not bidirectional
        self.stateful = True
        self.rnn = module(input_size, hidden_size, num_layers, bias, dropout=dropout, bidirectional=bidirectional)

    def take(self, module: nn.LSTM | nn.GRU) -> Self:
        """Copy an existing module's weights, dtype and device.

        Raises:
            OptionError: if the module is of another kind, or has projections (`proj_size`).
        """
        if type(self.rnn) is not type(module) or module.proj_size:
            msg = f"module must be an nn.{type(self.rnn).__name__} without projections, but {module} arrived."
            raise OptionError(msg)
        weight = next(module.parameters())
        self.rnn.to(weight.device, weight.dtype).load_state_dict(module.state_dict())
        return self

    @override
    def forward(self, batch: Batch[Vectors]) -> States[S_co]:
        """The states of packed rows.

        Raises:
            ShapeError: if the initial states, dtypes or devices do not fit.
        """
        packed = batch.packed()
        steps, carried = self._run(packed, self._initial(packed))
        final = carried[0].reshape(self.num_layers, -1, *carried[0].shape[1:])[-1]
        if self.bidirectional:
            steps = merged(steps[:, : self.hidden_size], steps[:, self.hidden_size :], self.merge)
        ended = merged(final[0], final[1], self.merge) if self.bidirectional else final[0]
        return States(packed.holding(steps), ended, carried=carried)

    def _run(self, batch: Packed[Vectors], initial: Carry) -> tuple[Float[Tensor, "steps hidden"], Carry]:
        """Torch's packed kernel over the rows that have steps; the others end as they began."""
        order = batch.order
        directions = 2 if self.bidirectional else 1
        if order.occupied == 0:
            return batch.values.new_zeros(0, self.hidden_size * directions), initial
        rows = order.rows[: order.occupied].to(batch.values.device, non_blocking=True)
        started = tuple(state.index_select(1, rows) for state in initial)
        sequence = PackedSequence(batch.values, order.batch_sizes)
        steps, ended = self._call(sequence, started)
        # Under autocast the kernel ends in another dtype than it began with.
        carried = tuple(state.to(end.dtype).index_copy(1, rows, end) for state, end in zip(initial, ended, strict=True))
        return steps.data, carried

    @abstractmethod
    def _call(self, sequence: PackedSequence, started: Carry) -> tuple[PackedSequence, Carry]:
        """Torch's own call, whose states are a tensor for a GRU and a pair for an LSTM."""

    @property
    @abstractmethod
    def _states(self) -> int:
        """How many tensors the encoder carries from step to step."""

    def _initial(self, batch: Packed[Vectors]) -> Carry:
        weight = next(self.rnn.parameters())
        # Autocast picks the dtype of the products itself.
        same_dtype = batch.values.dtype is weight.dtype or torch.is_autocast_enabled(weight.device.type)
        if not same_dtype or batch.values.device != weight.device:
            msg = (
                f"values are {batch.values.dtype} on {batch.values.device}, but {type(self).__name__} is "
                f"{weight.dtype} on {weight.device}; move one: batch.to(device), or encoder.to(dtype)."
            )
            raise ShapeError(msg)
        shape = (self.num_layers * (2 if self.bidirectional else 1), len(batch.lengths), self.hidden_size)
        if batch.initial is None:
            return tuple(batch.values.new_zeros(shape) for _ in range(self._states))
        if [tuple(state.shape) for state in batch.initial] != [shape] * self._states:
            came = ", ".join(str(tuple(state.shape)) for state in batch.initial)
            msg = (
                f"initial must be {self._states} tensor(s) of {shape}, layers (x directions) x batch x hidden, "
                f"but {came} arrived; pass what this encoder gave as `carried` for the same rows."
            )
            raise ShapeError(msg, argument="initial")
        return batch.initial
