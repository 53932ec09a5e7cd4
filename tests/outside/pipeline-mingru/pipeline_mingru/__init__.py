"""minGRU for `pipeline`: a recurrent encoder whose gates depend on the input only."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from pipeline.extend import Batch, Causal, Encoder, EncoderFactory, ShapeError, States, Vectors, hookimpl

__all__ = ["MinGRU", "pipeline_encoders", "scan"]


@final
class MinGRU(Encoder[Causal]):
    """A gated average of candidates: h[t] = (1 - z[t]) h[t-1] + z[t] candidate[t].

    The gate z and the candidate do not depend on the state, so all steps are computed at once. The carry is `(h,)`,
    1 x batch x hidden.

    Args:
        input_size: features per step of the input.
        hidden_size: features per step of the output.

    Source: Feng et al. 2024, "Were RNNs All We Needed?", arXiv:2410.01201, section 3.1. As there, the candidate has no
    nonlinearity.

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
        """Return the states of a batch.

        Raises:
            ShapeError: if the initial carry is not one tensor, 1 x batch x hidden.
        """
        rows = batch.padded().fill_padding(0)
        gate, candidate, start = self.gate(rows.values), self.candidate(rows.values), self._initial_state(batch)
        hidden = scan(logsigmoid(-gate), logsigmoid(gate), candidate, start)
        # With the initial state before the steps, an empty row's final state is its initial state.
        last = rows.order.lengths_on_device.reshape(-1, 1, 1).expand(-1, 1, self.output_size)
        final = torch.cat([start.unsqueeze(1), hidden], dim=1).gather(1, last).squeeze(1)
        return self.make_states(rows.with_values(hidden), final, carry=(final.unsqueeze(0),))

    def _initial_state(self, batch: Batch[Vectors]) -> Tensor:
        """Return each row's initial state: the batch's initial carry, or zeros."""
        # Not len(...), which an exported graph would store as a constant.
        shape = (1, batch.lengths.shape[0], self.output_size)
        if batch.initial_carry is None:
            return batch.values.new_zeros(shape[1:])
        got = [tuple(state.shape) for state in batch.initial_carry]
        if got != [shape]:
            msg = f"initial_carry must be one tensor of shape {shape}, got {got}; pass the `carry` of MinGRU's states."
            raise ShapeError(msg, argument="initial_carry")
        return batch.initial_carry[0].squeeze(0)


def scan(keep: Tensor, take: Tensor, values: Tensor, start: Tensor) -> Tensor:
    """Compute h[t] = exp(keep[t]) h[t-1] + exp(take[t]) values[t] along axis 1, from h[-1] = start, without a loop.

    Logarithms need positive numbers, so each value is written as the difference of two numbers that are 1 or more.

    Source: Heinsen 2023, "Efficient Parallelization of a Ubiquitous Sequential Computation", arXiv:2311.06281.

    Example:
        >>> half, whole = torch.full((1, 4, 1), 0.5).log(), torch.zeros(1, 4, 1)
        >>> hidden = scan(half, whole, torch.ones(1, 4, 1), torch.zeros(1, 1))
        >>> hidden.flatten().round(decimals=3).tolist()
        [1.0, 1.5, 1.75, 1.875]
    """
    kept = keep.cumsum(1)
    positive, negative = (
        (kept + (take + part.log1p() - kept).logcumsumexp(1)).exp() for part in (values.clamp(min=0), (-values).relu())
    )
    return kept.exp() * start.unsqueeze(1) + positive - negative


@hookimpl
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """Return the encoder of this package, by name."""
    return {"mingru": MinGRU}
