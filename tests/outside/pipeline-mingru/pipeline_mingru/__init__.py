"""minGRU for `pipeline`: a recurrent encoder whose gates look at the input alone."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pipeline import Batch, Causal, Encoder, States, Vectors
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

    Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, section 3.1, whose candidate is not
    squashed, and neither is ours.

    Example:
        >>> from pipeline import Padded
        >>> states = MinGRU(3, 5)(Padded(Vectors, torch.ones(3, 4, 3), torch.tensor([3, 0, 1])))
        >>> states.packed().values.shape, states.final[1].tolist()
        (torch.Size([4, 5]), [0.0, 0.0, 0.0, 0.0, 0.0])
    """

    layouts = ("padded",)
    stateful = True
    exportable = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = hidden_size
        self.causal = True
        self.gate = nn.Linear(input_size, hidden_size)
        self.candidate = nn.Linear(input_size, hidden_size)

    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        """The states of a batch.

        Raises:
            ShapeError: if the initial state is not one tensor, 1 x batch x hidden.
        """
        rows = batch.padded().fill_padding(0)
        gate, candidate, start = self.gate(rows.values), self.candidate(rows.values), self._initial(batch)
        hidden = scan(logsigmoid(-gate), logsigmoid(gate), candidate, start)
        # What a row starts from goes before its steps, so that one without steps ends in it.
        last = rows.order.lengths_on_device.reshape(-1, 1, 1).expand(-1, 1, self.output_size)
        final = torch.cat([start.unsqueeze(1), hidden], dim=1).gather(1, last).squeeze(1)
        return States(rows.with_values(hidden), final, carry=(final.unsqueeze(0),))

    def _initial(self, batch: Batch[Vectors]) -> Tensor:
        """What each row starts from: the batch's own initial state, or zeros."""
        # Not len(...), which a graph would take for a number that never changes.
        shape = (1, batch.lengths.shape[0], self.output_size)
        if batch.initial_carry is None:
            return batch.values.new_zeros(shape[1:])
        came = [tuple(state.shape) for state in batch.initial_carry]
        if came != [shape]:
            msg = f"initial_carry must be one tensor of {shape}, but {came} arrived; pass what MinGRU gave as `carry`."
            raise ShapeError(msg, argument="initial")
        return batch.initial_carry[0].squeeze(0)


def scan(keep: Tensor, take: Tensor, values: Tensor, start: Tensor) -> Tensor:
    """Every h[t] = exp(keep[t]) h[t-1] + exp(take[t]) values[t] along axis 1, from h[-1] = start, with no loop over it.

    A logarithm wants positive numbers, so each value goes in as the difference of two that are 1 or more.

    Source: Heinsen 2023, "Efficient Parallelization of a Ubiquitous Sequential Computation", arXiv:2311.06281.

    Example:
        >>> half, whole = torch.full((1, 4, 1), 0.5).log(), torch.zeros(1, 4, 1)
        >>> hidden = scan(half, whole, torch.ones(1, 4, 1), torch.zeros(1, 1))
        >>> hidden.flatten().round(decimals=3).tolist()
        [1.0, 1.5, 1.75, 1.875]
    """
    kept = keep.cumsum(1)
    more, less = (
        (kept + (take + part.log1p() - kept).logcumsumexp(1)).exp() for part in (values.clamp(min=0), (-values).relu())
    )
    return kept.exp() * start.unsqueeze(1) + more - less


@hookimpl
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """The encoder of this package, by name."""
    return {"mingru": MinGRU}
