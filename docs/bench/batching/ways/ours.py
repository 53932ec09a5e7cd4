"""Plans, with the default pools or with one."""

from collections.abc import Iterator, Sequence

from torch import Tensor
from typing_extensions import override

from bench.batching.corpus import Lengths
from bench.batching.epoch import Batch
from bench.batching.ways.way import Loading, Room, Way, tensors
from pipeline import Ids, Pad, Row
from pipeline.batching import Budget, Cursor, Plan, Policy, Rows
from pipeline.loading import Loader, PlannedBatches


class Ours(Way):
    """A plan an epoch."""

    def __init__(self, lengths: Lengths, room: Room) -> None:
        super().__init__(lengths, room)
        self.policy: Policy = Rows(room.rows) if room.max_padded_steps is None else Budget(room.max_padded_steps)

    def plan(self, epoch: int, world_size: int = 1) -> Plan:
        """The plan of an epoch."""
        return Plan.of(self.lengths, self.policy, epoch=epoch, world_size=world_size)

    @override
    def batches(self, epoch: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        return iter(self.plan(epoch, world_size).rank(rank))

    @override
    def resumed(self, epoch: int, steps: int) -> Iterator[Batch]:
        return iter(Plan.of(self.lengths, self.policy, after=Cursor(epoch, ((1, steps),))))

    @override
    def loading(self, ids: Sequence[list[int]]) -> Loading:
        rows = [Row(Ids(values), row_id=place) for place, values in enumerate(tensors(ids))]
        loader = Loader(rows, PlannedBatches(self.lengths, self.policy), Pad())

        def epoch() -> Iterator[Tensor]:
            return (batch.values for batch in loader)

        return epoch


class OnePool(Ours):
    """All rows sorted together: the least padding."""

    def __init__(self, lengths: Lengths, room: Room) -> None:
        super().__init__(lengths, room)
        self.policy = (
            Rows(room.rows, batches_per_sort=None)
            if room.max_padded_steps is None
            else Budget(room.max_padded_steps, batches_per_sort=None)
        )
