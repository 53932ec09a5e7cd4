"""minGRU for `pipeline`: a recurrent encoder whose gates look at the input alone."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from pipeline import Causal, Encoder, Packed, Padded, States, Vectors
from pipeline.errors import ShapeError
from pipeline.hooks import EncoderFactory, hookimpl

__all__ = ["MinGRU", "pipeline_encoders", "scan"]


@final
class MinGRU(Encoder[Causal]):
    """Each state is a mix of the one before and of a candidate: h[t] = (1 - z[t]) h[t-1] + z[t] candidate[t].

    Neither the gate z nor the candidate looks at the state, so all steps are computed at once. What it
    carries is `(h,)`, 1 x batch x hidden.

    Args:
        input_size: features of a step that comes in.
        hidden_size: features of a state.

    Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, section 3.1; their candidate
    is not squashed, and neither is ours. They scan in log space; we scan the numbers themselves.

    Example:
        >>> batch = Packed(Vectors, torch.ones(4, 3), torch.tensor([3, 0, 1]))
        >>> states = MinGRU(3, 5)(batch)
        >>> states.values.shape, states.final[1].tolist()
        (torch.Size([4, 5]), [0.0, 0.0, 0.0, 0.0, 0.0])
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = hidden_size
        self.causal = True
        self.gate = nn.Linear(input_size, hidden_size)
        self.candidate = nn.Linear(input_size, hidden_size)

    def forward(self, batch: Packed[Vectors]) -> States[Causal]:
        """The states of a batch.

        Raises:
            ShapeError: if the initial state is not one tensor, 1 x batch x hidden.
        """
        gate = torch.sigmoid(self.gate(batch.values))
        both = torch.cat([1 - gate, gate * self.candidate(batch.values)], dim=-1)
        # In packed order a row's steps lie apart; a scan over time wants them side by side.
        rectangle = Packed(Vectors, both, batch.lengths, width=batch.width, order=batch.order).padded().values
        decay, update = rectangle.chunk(2, dim=-1)
        # The initial state goes first, as a step of its own, so that a row without steps ends in it.
        update = torch.cat([self._initial(batch).transpose(0, 1), update], dim=1)
        hidden = scan(_later(decay, 1), update)
        last = batch.order.lengths_on_device.reshape(-1, 1, 1).expand(-1, 1, self.output_size)
        final = hidden.gather(1, last).squeeze(1)
        steps = Padded(Vectors, hidden[:, 1:], batch.lengths, order=batch.order).packed()
        return States(
            steps.values,
            batch.lengths,
            final,
            width=batch.width,
            carried=(final.unsqueeze(0),),
            riders=batch.riders,
            order=batch.order,
        )

    def _initial(self, batch: Packed[Vectors]) -> Tensor:
        """What each row starts from: the batch's own initial state, or zeros."""
        shape = (1, len(batch.lengths), self.output_size)
        if batch.initial is None:
            return batch.values.new_zeros(shape)
        came = [tuple(state.shape) for state in batch.initial]
        if came != [shape]:
            msg = f"initial must be one tensor of {shape}, but {came} arrived; pass what MinGRU gave as `carried`."
            raise ShapeError(msg, argument="initial")
        return batch.initial[0]


def scan(decay: Tensor, update: Tensor) -> Tensor:
    """Every h[t] = decay[t] h[t-1] + update[t] along axis 1, h[-1] being 0, in log2(time) rounds.

    A round joins each step with the one `shift` before it, which has taken in as many steps as itself.

    Source: Hillis and Steele 1986, "Data Parallel Algorithms", Communications of the ACM 29(12).

    Example:
        >>> scan(torch.full((1, 4, 1), 0.5), torch.ones(1, 4, 1)).flatten().tolist()
        [1.0, 1.5, 1.75, 1.875]
    """
    shift = 1
    while shift < update.shape[1]:
        update = update + decay * _later(update[:, :-shift], shift)
        decay = decay * _later(decay[:, :-shift], shift)
        shift *= 2
    return update


def _later(values: Tensor, shift: int) -> Tensor:
    """Values `shift` steps later along axis 1, zeros before them."""
    return nn.functional.pad(values, (0, 0, shift, 0))


@hookimpl
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """The encoder of this package, by name."""
    return {"mingru": MinGRU}
