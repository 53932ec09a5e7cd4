"""Where a run stands in its epoch."""

from collections.abc import Mapping, Sequence
from typing import cast

import attrs

from pipeline.batching.numbers import whole
from pipeline.errors import OptionError


def _merged(served: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for world_size, steps in served:
        whole("world_size", world_size, least=1)
        whole("steps", steps, least=0)
        if merged and merged[-1][0] == world_size:
            merged[-1] = (world_size, merged[-1][1] + steps)
        elif steps:
            merged.append((world_size, steps))
    return tuple(merged)


@attrs.frozen
class Cursor:
    """Where a run stands: its epoch, and how many steps it made there on how many ranks, one pair a stretch.

    All that a run has to keep beside its weights; what is left of the epoch is planned anew from it.

    Args:
        epoch: the epoch, from 0.
        batches_done: pairs of a number of ranks and of steps made on them. Neighbours on as many ranks become one.
        recipe: which lengths, policy and seed it belongs to, as `Plan.recipe` says; None if it may be any.

    Raises:
        OptionError: for an epoch or steps below 0, or ranks below 1.

    Example:
        >>> cursor = Cursor(epoch=3).after(world_size=2, batches_done=100).after(world_size=2, batches_done=50).after(world_size=4, batches_done=7)
        >>> cursor.batches_done
        ((2, 150), (4, 7))
        >>> Cursor.from_dict(cursor.to_dict()) == cursor
        True
    """

    epoch: int = 0
    batches_done: tuple[tuple[int, int], ...] = attrs.field(default=(), converter=_merged)
    recipe: str | None = None

    def __attrs_post_init__(self) -> None:
        whole("epoch", self.epoch, least=0)

    def after(self, world_size: int, batches_done: int) -> "Cursor":
        """Where the run stands after so many further steps on so many ranks."""
        return attrs.evolve(self, batches_done=(*self.batches_done, (world_size, batches_done)))

    def next_epoch(self) -> "Cursor":
        """The beginning of the next epoch."""
        return attrs.evolve(self, epoch=self.epoch + 1, batches_done=())

    @classmethod
    def standing(cls, after: "Cursor | None", epoch: int | None, recipe: str) -> "Cursor":
        """The cursor of a run that goes on, or of one that begins an epoch: the first, if none is given.

        Raises:
            OptionError: if what is given contradicts itself, or belongs to another recipe.
        """
        if after is None:
            return cls(0 if epoch is None else epoch, recipe=recipe)
        if epoch not in {None, after.epoch}:
            msg = f"the cursor stands in epoch {after.epoch}, but epoch={epoch} arrived too; leave it out."
            raise OptionError(msg, epoch=epoch, cursor=after)
        return after.belonging(recipe)

    def belonging(self, recipe: str | None) -> "Cursor":
        """The same cursor, of that recipe.

        Raises:
            OptionError: if it belongs to another.
        """
        if self.recipe not in {None, recipe}:
            msg = (
                "the cursor belongs to other lengths, another policy, another seed or other options than those that "
                "arrived; go on with the same, or begin an epoch anew."
            )
            raise OptionError(msg, recipe=self.recipe, wanted=recipe)
        return attrs.evolve(self, recipe=recipe)

    def since(self, begins: "Cursor", world_size: int) -> int:
        """How many steps on so many ranks lead from another cursor here.

        Raises:
            OptionError: if none do.
        """
        before = sum(steps for ranks, steps in begins.batches_done[-1:] if ranks == world_size)
        steps = sum(steps for ranks, steps in self.batches_done[-1:] if ranks == world_size) - before
        if steps < 0 or begins.after(world_size, steps) != self.belonging(begins.recipe):
            msg = (
                f"the cursor stands in epoch {self.epoch} after {self.batches_done}, but the plan begins in epoch "
                f"{begins.epoch} after {begins.batches_done}, for {world_size} ranks; plan anew: Plan.of(..., after=cursor)."
            )
            raise OptionError(msg, cursor=self, begins=begins)
        return steps

    def to_dict(self) -> dict[str, object]:
        """The cursor as numbers, lists and text, for JSON or a checkpoint."""
        return {"epoch": self.epoch, "batches_done": [list(pair) for pair in self.batches_done], "recipe": self.recipe}

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> "Cursor":
        """The cursor that `to_dict` wrote.

        Raises:
            OptionError: if it holds anything else.
        """
        known = dict(state)
        epoch, served, recipe = (known.pop(name, False) for name in ("epoch", "batches_done", "recipe"))
        if known or type(epoch) is not int or not isinstance(served, list | tuple) or isinstance(recipe, bool | int):
            msg = f"a cursor's state has epoch, served and recipe, but {dict(state)} arrived; give what to_dict gave."
            raise OptionError(msg, state=state)
        pairs = tuple(_pair(pair) for pair in cast("Sequence[object]", served))
        return cls(epoch, pairs, None if recipe is None else str(recipe))


def _pair(pair: object) -> tuple[int, int]:
    match pair:
        case [int(world_size), int(steps)]:
            return world_size, steps
        case _:
            msg = f"what a cursor has served are pairs of ranks and steps, but {pair!r} arrived."
            raise OptionError(msg, pair=pair)
