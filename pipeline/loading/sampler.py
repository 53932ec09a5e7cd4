"""The batches of a plan as row numbers, epoch after epoch, for a `DataLoader`."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Final, Self, final

import numpy.typing as npt
from torch.utils.data import Sampler
from typing_extensions import TypeIs, override

from pipeline.batching.cursor import Cursor
from pipeline.batching.pieces import Pieces
from pipeline.batching.plan import Plan
from pipeline.batching.policy import Policy
from pipeline.batching.ranks import Uneven
from pipeline.errors import OptionError
from pipeline.loading.ranks import taking_part


@final
class PlannedBatches(Sampler[list[int]]):
    """A list of row numbers a batch, planned: the `batch_sampler` of a `DataLoader`.

    Every rank gets as many batches as any other, and batches of like size at the same step. An epoch that was given to
    its end is followed by the next; one that was left early begins again.

    A `DataLoader` with workers asks for batches ahead of training, so this is ahead as well: what keeps a place in
    training is `pipeline.loading.Loader`, or torchdata's `StatefulDataLoader`.

    Args:
        lengths: how many steps each row has, as for `Plan.of`.
        policy: what a batch may hold.
        seed: what the order is drawn from; None shuffles nothing.
        rank: which rank this is. Left out, it is asked of `torch.distributed` when batches are.
        world_size: how many ranks there are; left out, as the rank.
        split_by_rank: give this rank its own batches. False gives all ranks' batches, those of a step one after the other, for
            what deals them out by itself, as `accelerator.prepare` does.
        worst_first: begin with the costliest batch.
        uneven: what becomes of rows that do not go round.
        cache: a folder where plans are kept as files.

    Raises:
        OptionError: for options outside their range, if one of `rank` and `world_size` is given alone, or later, if a
            launcher started several processes that are not joined when batches are asked for.

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
            taking_part(rank, world_size)
        self.lengths: Final = lengths
        self.policy: Final = policy
        self.seed: Final = seed
        self.split_by_rank: Final = split_by_rank
        self._ranks: Final = rank, world_size
        self._worst_first: Final = worst_first
        self._uneven: Final[Uneven] = uneven
        self._cache: Final = None if cache is None else Path(cache)
        self._begins = Cursor()
        self._skipped = 0
        self._given = 0
        self._turn = 0
        self._planned: tuple[object, Plan] | None = None

    @property
    def epoch(self) -> int:
        """The epoch that is under way, or comes next."""
        return self._begins.epoch

    @property
    def sampler(self) -> Self:
        """Itself: where frameworks look for what has a `set_epoch`."""
        return self

    @property
    def drop_last(self) -> bool:
        """False: no batch is left out. What asks this is about to deal batches out to ranks.

        Raises:
            OptionError: if that is done already.
        """
        _, world_size = taking_part(*self._ranks)
        if self.split_by_rank and world_size > 1:
            msg = (
                f"these are the batches of one rank of {world_size} already, but what reads drop_last deals them out once "
                "more, so that most rows were lost; leave the loader out of accelerator.prepare, or make it with "
                "PlannedBatches(..., split_by_rank=False)."
            )
            raise OptionError(msg, world_size=world_size)
        return False

    @property
    def plan(self) -> Plan:
        """The batches of the iteration that is under way, or comes next."""
        return self._plan_after(self._begins)

    @property
    def pieces(self) -> Pieces:
        """What the numbers in a batch mean, where the policy truncates or splits long rows: for `CutRows`."""
        return self.plan.pieces

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next: another, or the same one again. Nothing changes if that is under way.

        Raises:
            OptionError: if a state was loaded that stands within another epoch: its rest would be lost.
        """
        if epoch == self.epoch:
            if self._given and self._given == len(self.plan):
                self._given = self._skipped
            return
        if (self._begins.batches_done or self._skipped) and len(self.plan) > self._given:
            msg = (
                f"the state that was loaded stands within epoch {self.epoch}, but set_epoch({epoch}) arrived, and the "
                f"rest of that epoch would be lost; count epochs on from {self.epoch}."
            )
            raise OptionError(msg, epoch=epoch, wanted=self.epoch)
        self._stand(Cursor(epoch), 0)

    def state_dict(self) -> dict[str, object]:
        """How far this was asked for batches, as numbers, lists and text, for JSON or a checkpoint."""
        steps, within = divmod(self._given, self._each)
        return {"cursor": self.plan.cursor(steps).to_dict(), "within": within, "world_size": self.plan.world_size}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Stand where a state was taken, on however many ranks there are now.

        Raises:
            OptionError: if it is no such state, or belongs to other lengths, another policy or seed; or if it was taken
                between the batches of one step, and there are other ranks now.
        """
        match dict(state):
            case {"cursor": cursor, "within": int(within), "world_size": int(world_size), **rest} if (
                not rest and _is_state(cursor)
            ):
                begins = Cursor.from_dict(cursor)
            case _:
                msg = (
                    f"a state of batches has cursor, within and world_size, but {dict(state)} arrived; give what state_dict "
                    "gave."
                )
                raise OptionError(msg, state=state)
        plan = self._plan_after(begins)
        if within and (world_size != plan.world_size or self.split_by_rank):
            msg = (
                f"the state stands behind {within} of the {world_size} batches of one step, but there are {plan.world_size} "
                "ranks now; go on with as many, or from a state that was taken behind a whole step."
            )
            raise OptionError(msg, within=within, world_size=world_size)
        self._stand(begins, within)

    def __len__(self) -> int:
        """How many batches the epoch has for this rank, those before a state that was loaded among them."""
        return sum(steps for _, steps in self._begins.batches_done) * self._each + len(self.plan)

    @override
    def __iter__(self) -> Iterator[list[int]]:
        if self._skipped < self._given == len(self.plan):
            # Given to its end, by someone who counts, and did not ask whether there is more.
            self._stand(self._begins.next_epoch(), 0)
        self._turn += 1
        self._given = self._skipped
        return self._batches(self.plan, self._turn)

    def _batches(self, plan: Plan, turn: int) -> Iterator[list[int]]:
        for batch in range(self._skipped, len(plan)):
            if turn == self._turn:
                self._given = batch + 1
            yield plan[batch].tolist()
        if turn == self._turn:
            self._stand(plan.begins.next_epoch(), 0)

    def _stand(self, begins: Cursor, skipped: int) -> None:
        self._begins, self._skipped, self._given = begins, skipped, skipped
        self._turn += 1

    @property
    def _each(self) -> int:
        """How many batches of a step this gives."""
        return 1 if self.split_by_rank else self.plan.world_size

    def _plan_after(self, begins: Cursor) -> Plan:
        """The batches behind a place: made once, and again when the ranks are others."""
        rank, world_size = taking_part(*self._ranks)
        wanted = begins, rank, world_size
        if self._planned is None or self._planned[0] != wanted:
            plan = Plan.of(
                self.lengths,
                self.policy,
                seed=self.seed,
                world_size=world_size,
                worst_first=self._worst_first,
                uneven=self._uneven,
                after=begins,
                cache=self._cache,
            )
            self._planned = wanted, plan.rank(rank) if self.split_by_rank else plan
        return self._planned[1]


def _is_state(value: object) -> TypeIs[Mapping[str, object]]:
    return isinstance(value, Mapping)
