"""Training, as a rank of several does it: for processes that import it by name."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import FromIds, Pad
from pipeline.batching import Budget
from pipeline.loading import Loader, PlannedBatches, RowDataset
from support.untyped import learn, listed, seed


class Sums(nn.Module):
    """A loss of one number a row, so that every batch has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Embedding(13, 2)

    def forward(self, values: Tensor) -> Tensor:
        """The mean of what the ids are embedded to."""
        embedded: Tensor = self.weights(values % 13)
        return embedded.square().mean()


def trained_on_a_rank(counts: list[int], workers: int) -> dict[str, Any]:
    """Two epochs: the places of each batch, the state of the loader, and the weights in the end."""
    seed(0)
    rows = RowDataset([[place] * count for place, count in enumerate(counts)], FromIds())
    loader = Loader(rows, PlannedBatches(counts, Budget(40), seed=3), Pad(), num_workers=workers)
    model = DistributedDataParallel(Sums())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    places: list[list[list[int]]] = []
    for _ in range(2):
        places.append([])
        for batch in loader:
            learn(model(batch.values), optimiser)
            places[-1].append(listed(batch.metadata.row_ids))
    weights = [weight.detach().clone() for weight in model.parameters()]
    return {"places": places, "state": loader.state_dict(), "weights": weights}
