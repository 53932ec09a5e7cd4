"""A bucket's batches as row numbers, for a stock `DataLoader`."""

from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
from torch.utils.data import Sampler
from typing_extensions import override

from pipeline.batching.plan import Plan
from pipeline.batching.policy import Policy
from pipeline.errors import OptionError


@final
class BucketSampler(Sampler[list[int]]):
    """Lists of row numbers, a list a batch: made by `Bucket.sampler` for a `DataLoader`'s `batch_sampler`.

    Each pass is an epoch, and has the batches of its plan.

    Args:
        lengths: each row's length.
        policy: what a batch may hold.
        seed: what the order is drawn from; None shuffles nothing.

    Raises:
        OptionError: if some rows would be cut: a row number says nothing of a part.
    """

    def __init__(self, lengths: Sequence[int], policy: Policy, seed: int | None) -> None:
        self._lengths = np.asarray(lengths) if len(lengths) else np.empty(0, np.int64)
        self._policy = policy
        self._seed = seed
        self._epoch = 0
        self._plan = self._planned()
        if self._plan.pieces.limit is not None:
            msg = (
                f"some rows are long, and {policy} would cut them, but a sampler gives whole rows; cut them before, or "
                'let them stand alone: long_rows="alone".'
            )
            raise OptionError(msg, long_rows=policy.long_rows)

    def __len__(self) -> int:
        return len(self._plan)

    @override
    def __iter__(self) -> Iterator[list[int]]:
        plan = self._plan
        self._epoch += 1
        self._plan = self._planned()
        for batch in plan:
            yield batch.tolist()

    def _planned(self) -> Plan:
        return Plan.of(self._lengths, self._policy, seed=self._seed, epoch=self._epoch)
