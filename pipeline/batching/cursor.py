"""Cursors: the position of a run in a plan or in a stream, as a few numbers to store in a checkpoint."""

from collections.abc import Mapping, Sequence
from typing import cast

import attrs

from pipeline.checks.options import check_int
from pipeline.errors import OptionError


def _merge_stretches(stretches: Sequence[Sequence[int]]) -> tuple[tuple[int, int], ...]:
    """Merge neighbors with the same number of ranks, and leave out those without a batch."""
    merged: list[tuple[int, int]] = []
    for world_size, batches_done in stretches:
        check_int("world_size", world_size, minimum=1)
        check_int("batches_done", batches_done, minimum=0)
        if merged and merged[-1][0] == world_size:
            merged[-1] = (world_size, merged[-1][1] + batches_done)
        elif batches_done:
            merged.append((world_size, batches_done))
    return tuple(merged)


@attrs.frozen
class Cursor:
    """Position of a run: the epoch, and the number of batches that each rank has done in it.

    If a run is resumed on another number of ranks, `batches_done` gets another pair. The remaining rows follow from the
    pairs alone, so a checkpoint need not store which rows were used.

    Args:
        epoch: the epoch, from 0.
        batches_done: pairs (number of ranks, batches done on each). Neighbors with equal ranks are merged.
        recipe: the `Plan.recipe` that the position belongs to; None for any.

    Raises:
        OptionError: if an epoch or a number of batches is below 0, or a number of ranks below 1.

    Example:
        >>> cursor = Cursor(epoch=3).after(world_size=2, batches_done=100).after(world_size=2, batches_done=50)
        >>> cursor = cursor.after(world_size=4, batches_done=7)
        >>> cursor.batches_done
        ((2, 150), (4, 7))
        >>> Cursor.from_dict(cursor.to_dict()) == cursor
        True
    """

    epoch: int = 0
    batches_done: tuple[tuple[int, int], ...] = attrs.field(default=(), converter=_merge_stretches)
    recipe: str | None = None

    def __attrs_post_init__(self) -> None:
        check_int("epoch", self.epoch, minimum=0)

    def after(self, world_size: int, batches_done: int) -> "Cursor":
        """Return the position after further batches on that number of ranks."""
        return Cursor(self.epoch, (*self.batches_done, (world_size, batches_done)), self.recipe)

    def next_epoch(self) -> "Cursor":
        """Return the beginning of the next epoch."""
        return Cursor(self.epoch + 1, (), self.recipe)

    def with_recipe(self, recipe: str | None) -> "Cursor":
        """Return the same position with a recipe.

        Raises:
            OptionError: if it belongs to another recipe.
        """
        if self.recipe not in {None, recipe}:
            msg = (
                "cursor must belong to the same lengths, policy, seed and options, got one made with others; resume "
                "with the same, or start an epoch without the cursor."
            )
            raise OptionError(msg, recipe=self.recipe, wanted=recipe)
        return Cursor(self.epoch, self.batches_done, recipe)

    def count_batches_since(self, start: "Cursor", world_size: int) -> int:
        """Count the batches on `world_size` ranks that lead from another position to this one.

        Raises:
            OptionError: if it cannot be reached from there on that number of ranks.
        """
        # Only the last pair can differ, if it is for this number of ranks; the comparison below checks the others.
        before = sum(batches for ranks, batches in start.batches_done[-1:] if ranks == world_size)
        batches = sum(batches for ranks, batches in self.batches_done[-1:] if ranks == world_size) - before
        if batches < 0 or start.after(world_size, batches) != self.with_recipe(start.recipe):
            msg = (
                f"cursor must be reachable in this plan, which starts in epoch {start.epoch} after "
                f"{start.batches_done} for {world_size} ranks, got epoch {self.epoch} after "
                f"{self.batches_done}; build a plan with Plan.of(..., after=cursor)."
            )
            raise OptionError(msg, cursor=self, start=start)
        return batches

    def to_dict(self) -> dict[str, object]:
        """Return the cursor as numbers, lists and text, for JSON or a checkpoint."""
        return {"epoch": self.epoch, "batches_done": [list(pair) for pair in self.batches_done], "recipe": self.recipe}

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> "Cursor":
        """Rebuild the cursor that `to_dict` returned.

        Raises:
            OptionError: if the state has another form.
        """
        match dict(state):
            case {
                "epoch": int(epoch),
                "batches_done": pairs,
                "recipe": str() | None as recipe,
                **rest,
            } if not rest and not isinstance(epoch, bool) and isinstance(pairs, list | tuple):
                return cls(epoch, tuple(_check_pair(pair) for pair in cast("Sequence[object]", pairs)), recipe)
            case _:
                msg = (
                    f"state of a cursor must have epoch, batches_done and recipe, got {dict(state)}; pass what to_dict "
                    "returned."
                )
                raise OptionError(msg, state=state)


def _check_pair(pair: object) -> tuple[int, int]:
    match pair:
        case [int(world_size), int(batches_done)]:
            return world_size, batches_done
        case _:
            msg = f"batches_done of a cursor must have pairs (ranks, batches), got {pair!r}."
            raise OptionError(msg, pair=pair)


@attrs.frozen
class StreamCursor:
    """Position in a stream: the number of finished records, and the position of the stage in those after them.

    The rest of the stream follows from this and the records alone.

    Attributes:
        epoch: the epoch, from 0.
        rows: the number of finished rows at the start of the source; they are not processed again.
        position: the position in the rows after them, as numbers that only the stage interprets; empty at the start.
        recipe: a description of the stage, its seed and its ranks, to which the position belongs; None for any.

    Raises:
        OptionError: if an epoch or a number of rows is below 0.

    Example:
        >>> cursor = StreamCursor(epoch=3, rows=20_000, position=(2, 17))
        >>> StreamCursor.from_dict(cursor.to_dict()) == cursor
        True
    """

    epoch: int = 0
    rows: int = 0
    position: tuple[int, ...] = ()
    recipe: str | None = None

    def __attrs_post_init__(self) -> None:
        check_int("epoch", self.epoch, minimum=0)
        check_int("rows", self.rows, minimum=0)

    def to_dict(self) -> dict[str, object]:
        """Return the cursor as numbers, lists and text, for JSON or a checkpoint."""
        return {"epoch": self.epoch, "rows": self.rows, "position": list(self.position), "recipe": self.recipe}

    @classmethod
    def from_dict(cls, state: Mapping[str, object]) -> "StreamCursor":
        """Rebuild the cursor that `to_dict` returned.

        Raises:
            OptionError: if the state has another form.
        """
        match dict(state):
            case {
                "epoch": int(epoch),
                "rows": int(rows),
                "position": position,
                "recipe": str() | None as recipe,
                **rest,
            } if not rest and isinstance(position, list):
                numbers = cast("list[object]", position)
                checked = tuple(check_int("position", number, minimum=0) for number in numbers)
                return cls(epoch, rows, checked, recipe)
            case _:
                msg = (
                    f"state of a stream must have epoch, rows, position and recipe, got {dict(state)}; pass what "
                    "to_dict returned."
                )
                raise OptionError(msg, state=state)
