"""Train on one of several ranks; the processes of the ranks import this module."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import FromIds, Pad
from pipeline.batching import Budget
from pipeline.loading import Loader, PlannedBatches, RowDataset
from support.untyped import seed, to_list, train_step


class MeanSquare(nn.Module):
    """A model whose output is a loss, so that every batch has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Embedding(13, 2)

    def forward(self, values: Tensor) -> Tensor:
        """Return the mean square of the embedded ids."""
        embedded: Tensor = self.weights(values % 13)
        return embedded.square().mean()


def train_on_rank(counts: list[int], workers: int) -> dict[str, Any]:
    """Train for two epochs; return the row ids of each batch, the state of the loader, and the final weights."""
    seed(0)
    rows = RowDataset([[row] * count for row, count in enumerate(counts)], FromIds())
    loader = Loader(rows, PlannedBatches(counts, Budget(40), seed=3), Pad(), num_workers=workers)
    model = DistributedDataParallel(MeanSquare())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    row_ids: list[list[list[int]]] = []
    for _ in range(2):
        row_ids.append([])
        for batch in loader:
            train_step(model(batch.values), optimizer)
            row_ids[-1].append(to_list(batch.metadata.row_ids))
    weights = [weight.detach().clone() for weight in model.parameters()]
    return {"row_ids": row_ids, "state": loader.state_dict(), "weights": weights}
