"""States in a rectangle with the longest row first, and back: for those who leave out what lies behind shorter rows."""

from jaxtyping import Float
from torch import Tensor

from pipeline.data.batches import Padded
from pipeline.data.states import MaybeCausal, S, States


def ranked(states: States[MaybeCausal]) -> Float[Tensor, "occupied time hidden"]:
    """The rows that have steps, the longest first, with zeros behind the shorter ones.

    Nothing is copied if all rows are of one length.

    Example:
        >>> import torch
        >>> states = States.from_padded(torch.tensor([[[1.0], [9.0]], [[2.0], [3.0]]]), torch.tensor([1, 2]))
        >>> ranked(states).squeeze(2).tolist()
        [[2.0, 3.0], [1.0, 0.0]]
    """
    order, steps = states.order, states.steps
    if isinstance(steps, Padded) and order.fills(steps.width):
        return steps.values
    values, cells = steps.packed().values, order.longest * order.occupied
    if order.steps < cells:
        values = values.new_zeros(cells, values.shape[1]).index_copy_(0, order.grid, values)
    return values.reshape(order.longest, order.occupied, values.shape[1]).transpose(0, 1)


def unranked(values: Float[Tensor, "occupied time hidden"], states: States[S]) -> States[S]:
    """States with other vectors a step, of a rectangle as `ranked` made it of them."""
    order, steps = states.order, states.steps
    if isinstance(steps, Padded) and order.fills(steps.width):
        return states.with_values(steps.with_values(values))
    flat = values.transpose(0, 1).flatten(0, 1)
    found = steps.packed().with_values(flat if order.steps == len(flat) else flat.index_select(0, order.grid))
    return states.with_values(found.padded() if isinstance(steps, Padded) else found)
