"""Batches of a plan as lists of row numbers, epoch after epoch, for a `DataLoader`."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Final, Self, final

import attrs
import numpy.typing as npt
from torch.utils.data import Sampler
from typing_extensions import TypeIs, override

from pipeline.batching.batches import Uneven
from pipeline.batching.cursor import Cursor
from pipeline.batching.epochs import EpochState
from pipeline.batching.lengths import RowSplits
from pipeline.batching.plan import Plan
from pipeline.batching.policies import Policy
from pipeline.errors import OptionError
from pipeline.loading.ranks import get_rank_and_world_size


@final
class PlannedBatches(Sampler[list[int]]):
    """Batch sampler that follows a plan: one list of row numbers per batch.

    All ranks get the same number of batches, and batches of similar size at the same training step. Each iteration is
    an epoch: the one set by `set_epoch`, the rest of the one of a loaded state, or else the one after that of the last
    iteration, even if that was left early. It starts when its first batch is requested.

    A stock `DataLoader` does not compare rows with their planned lengths, as a `Loader` does. With it, use
    `Pad(policy=...)`, which rejects batches that exceed the limits of the policy.

    A `DataLoader` with workers draws batches ahead of training, so the state of this sampler runs ahead as well. For
    the state of the training loop, use `pipeline.loading.Loader` or torchdata's `StatefulDataLoader`.

    Args:
        lengths: the number of steps of each row, as for `Plan.of`.
        policy: what a batch may hold.
        seed: determines the order; None does not shuffle.
        rank: the rank of this process. By default, that of `torch.distributed` when batches are first requested.
        world_size: the number of ranks; by default that of `torch.distributed`.
        split_by_rank: yield only this rank's batches. False yields the batches of all ranks, those of one training step
            one after the other, for libraries that distribute them themselves, such as `accelerator.prepare`.
        worst_first: begin with the most expensive batch.
        uneven: what to do with rows that cannot be distributed evenly over the ranks.
        cache: a folder in which to keep plans as files.

    Raises:
        OptionError: for options out of range; if only one of `rank` and `world_size` is given; or, when batches are
            requested, if a launcher started several processes and `torch.distributed` is not initialized.

    Example:
        >>> from pipeline.batching import Budget
        >>> batches = PlannedBatches([4, 1, 5, 2], Budget(10), seed=None)
        >>> len(batches), list(batches)
        (2, [[2, 0], [3, 1]])
        >>> batches.epoch
        1
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        policy: Policy,
        *,
        seed: int | None = 0,
        rank: int | None = None,
        world_size: int | None = None,
        split_by_rank: bool = True,
        worst_first: bool = False,
        uneven: Uneven = "repeat",
        cache: str | PathLike[str] | None = None,
    ) -> None:
        if rank is not None or world_size is not None:
            get_rank_and_world_size(rank, world_size)
        self.lengths: Final = lengths
        self.policy: Final = policy
        self.seed: Final = seed
        self.split_by_rank: Final = split_by_rank
        self._rank_options: Final = rank, world_size
        self._worst_first: Final = worst_first
        self._uneven: Final[Uneven] = uneven
        self._cache: Final = None if cache is None else Path(cache)
        self._epochs: Final = EpochState(_start_epoch)
        self._planned: tuple[object, Plan] | None = None

    @property
    def epoch(self) -> int:
        """The current epoch, or the next one if none has begun."""
        return self._epochs.epoch

    @property
    def sampler(self) -> Self:
        """This object: frameworks look here for `set_epoch`."""
        return self

    @property
    def drop_last(self) -> bool:
        """False: all batches are yielded. Libraries read this before they distribute batches over ranks.

        Raises:
            OptionError: if the batches are already those of one of several ranks.
        """
        _, world_size = get_rank_and_world_size(*self._rank_options)
        if self.split_by_rank and world_size > 1:
            msg = (
                f"these batches already belong to one rank of {world_size}; splitting them again would drop most rows. "
                "Leave the loader out of accelerator.prepare, or create PlannedBatches(..., split_by_rank=False)."
            )
            raise OptionError(msg, world_size=world_size)
        return False

    @property
    def plan(self) -> Plan:
        """The plan of the current iteration, or of the next one if none has begun."""
        return self._plan_after(self._epochs.position.start)

    @property
    def splits(self) -> RowSplits:
        """The part of a row that each number in a batch stands for, if the policy cuts long rows: for `CutRows`."""
        return self.plan.splits

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration, up to its first batch. Does not change an iteration that is running.

        Raises:
            OptionError: if a state within another epoch was loaded: the rest of that epoch would be lost.
        """
        self._epochs.set_epoch(epoch)

    def state_dict(self) -> dict[str, object]:
        """Return the number of batches yielded so far, as numbers, lists and text, for JSON or a checkpoint."""
        steps, within_step = divmod(self._epochs.position.yielded, self._batches_per_step)
        cursor = self.plan.cursor(steps).to_dict()
        return {"cursor": cursor, "within_step": within_step, "world_size": self.plan.world_size}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue where a state was saved, on any number of ranks.

        Raises:
            OptionError: if it is not a state of this class; if it belongs to other lengths, another policy or another
                seed; or if it was saved between the batches of one training step and the number of ranks has changed.
        """
        match dict(state):
            case {
                "cursor": cursor,
                "within_step": int(within_step),
                "world_size": int(world_size),
                **rest,
            } if not rest and _is_mapping(cursor):
                start = Cursor.from_dict(cursor)
            case _:
                msg = (
                    f"state must have cursor, within_step and world_size, got {dict(state)}; give the result of "
                    "PlannedBatches.state_dict()."
                )
                raise OptionError(msg, state=state)
        plan = self._plan_after(start)
        if within_step and (world_size != plan.world_size or self.split_by_rank):
            msg = (
                f"the state was saved after {within_step} of the {world_size} batches of one training step, but there "
                f"are {plan.world_size} ranks now; resume on {world_size} ranks with split_by_rank=False, or from a "
                "state saved after a whole step."
            )
            raise OptionError(msg, within_step=within_step, world_size=world_size)
        position = _Position(start, within_step, within_step)
        has_rest = bool(start.batches_done or within_step) and len(plan) > within_step
        self._epochs.load(start.epoch, position, has_rest=has_rest)

    def __len__(self) -> int:
        """Return this rank's number of batches in the epoch, including those before a loaded state."""
        return sum(steps for _, steps in self._epochs.position.start.batches_done) * self._batches_per_step + len(
            self.plan
        )

    @override
    def __iter__(self) -> Iterator[list[int]]:
        yield from self.start()

    def start(self) -> Iterator[list[int]]:
        """Start the next iteration now, and not when its first batch is requested: `plan` is its plan from now on."""
        iteration = self._epochs.begin()
        return self._iterate(self.plan, self._epochs.position, iteration)

    def _iterate(self, plan: Plan, position: "_Position", iteration: int) -> Iterator[list[int]]:
        for batch in range(position.skipped, len(plan)):
            self._epochs.move(iteration, _Position(position.start, position.skipped, yielded=batch + 1))
            yield plan[batch].tolist()
        self._epochs.end(iteration)

    @property
    def _batches_per_step(self) -> int:
        """The number of batches that this yields per training step."""
        return 1 if self.split_by_rank else self.plan.world_size

    def _plan_after(self, cursor: Cursor) -> Plan:
        """Return the plan after a cursor, from memory unless the cursor or the ranks have changed."""
        rank, world_size = get_rank_and_world_size(*self._rank_options)
        key = cursor, rank, world_size
        if self._planned is None or self._planned[0] != key:
            plan = Plan.of(
                self.lengths,
                self.policy,
                seed=self.seed,
                world_size=world_size,
                worst_first=self._worst_first,
                uneven=self._uneven,
                after=cursor,
                cache=self._cache,
            )
            self._planned = key, plan.rank(rank) if self.split_by_rank else plan
        return self._planned[1]


@attrs.frozen
class _Position:
    """Position in an epoch.

    Attributes:
        start: where the plan of the iteration starts. It counts whole training steps.
        skipped: the number of batches of that plan that were yielded before the state was saved. Without
            `split_by_rank`, a training step has several batches, and the state may be between them.
        yielded: the number of batches of the plan that were yielded, the skipped ones included.
    """

    start: Cursor
    skipped: int = 0
    yielded: int = 0


def _start_epoch(epoch: int) -> _Position:
    return _Position(Cursor(epoch))


def _is_mapping(value: object) -> TypeIs[Mapping[str, object]]:
    return isinstance(value, Mapping)
