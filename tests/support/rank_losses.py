"""The gradient of a loss on one of several ranks; here, since other processes import it."""

import torch
from torch import Tensor

from pipeline import Scores, sum_over_ranks
from pipeline.extend import BatchMetadata
from support.untyped import as_any, seed, to_list

CLASSES = torch.tensor([2, -100, 0, 1, 2])
"""The targets of five rows; the second has none."""


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Draw the same numbers at every call."""
    seed(0)
    return torch.randn(shape, dtype=dtype)


def make_scores(values: Tensor, targets: Tensor) -> Scores:
    """Return scores of rows."""
    return Scores(values, range(values.shape[1]), metadata=BatchMetadata(torch.arange(len(targets)), targets))


def compute_gradient() -> tuple[list[float], dict[str, int]]:
    """Return the gradient of a weight over this rank's rows, averaged over ranks as by DDP, and sums by name."""
    rank, world_size = torch.distributed.get_rank(), torch.distributed.get_world_size()
    rows = slice(0, 2) if rank == 0 else slice(2, 5)
    factor = torch.ones(3, dtype=torch.float64, requires_grad=True)
    scores = make_scores(draw(5, 3)[rows] * factor, CLASSES[rows])
    weight = scores.metadata.weight
    torch.autograd.backward(scores.loss(over=sum_over_ranks(weight) / world_size))
    assert factor.grad is not None
    as_any(torch.distributed).all_reduce(factor.grad)
    sums = sum_over_ranks({"a": weight, "b": torch.tensor(rank)})
    return to_list(factor.grad / world_size), {name: int(each) for name, each in sums.items()}
