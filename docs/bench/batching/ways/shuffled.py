"""Random batches, as torch makes them by itself: `RandomSampler`, `BatchSampler`, `pad_sequence`."""

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler
from typing_extensions import override

from bench.batching.epoch import Batch
from bench.batching.ways.way import Loading, Way, tensors


class Shuffled(Way):
    """So many rows a batch, as they come out of a shuffle."""

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return iter(self._sampler(epoch, rank, world_size))

    @override
    def loading(self, ids: Sequence[list[int]]) -> Loading:
        rows = cast("Dataset[Tensor]", tensors(ids))
        loader = DataLoader(rows, batch_sampler=self._sampler(0, 0, 1), collate_fn=_collated)

        def epoch() -> Iterator[Tensor]:
            return (padded for padded, _ in loader)

        return epoch

    def _sampler(self, epoch: int, rank: int, world_size: int) -> BatchSampler:
        rows = range(len(self.lengths))
        sampler: Sampler[int] = RandomSampler(rows, generator=torch.Generator().manual_seed(epoch))
        if world_size > 1:
            data = cast("Dataset[int]", rows)
            # Its constructor takes any data set, of whatever: what it is a sampler of has to be said.
            distributed: DistributedSampler[int] = DistributedSampler(data, num_replicas=world_size, rank=rank)
            distributed.set_epoch(epoch)
            sampler = distributed
        return BatchSampler(sampler, self.room.rows, drop_last=False)


def _collated(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Padded ids, and how long each row is."""
    return pad_sequence(rows, batch_first=True), torch.tensor([len(row) for row in rows])
