"""The batches of an epoch, decided before any row is read."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import cast, final, get_args

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.cursor import Cursor
from pipeline.batching.file import read, write
from pipeline.batching.lengths import Lengths
from pipeline.batching.making import Making, check_served, digest_of
from pipeline.batching.numbers import IntArray, one_of, whole
from pipeline.batching.pieces import Pieces, pieces_of
from pipeline.batching.policy import Policy
from pipeline.batching.ranks import Uneven
from pipeline.data.report import Report
from pipeline.errors import OptionError, PlanError


@final
@attrs.frozen(eq=False)
class Plan:
    """A list of batches, each an array of row numbers: views into one order, four bytes a row.

    Made by `Plan.of`. Batch `i` holds `order[starts[i]:stops[i]]`; batches `i * world_size` to `i * world_size + world_size - 1` are
    the ranks' at step `i`, of like size.

    Attributes:
        order: numbers of rows, or of their pieces, as `pieces` says.
        starts: where each batch begins in the order.
        stops: where it ends.
        shapes: what each batch is padded to: rows, then steps, a column for each of a row's lengths.
        steps: how many real steps each batch has.
        pieces: what a number in the order means, where long rows are truncated or split.
        repeated: rows that stand in the plan once more than they should, so that ranks have equal numbers of batches.
        dropped: rows that are left out for that.
        world_size: how many ranks take part.
        begins: where in the epoch the plan begins: at its beginning, or where another one was left.
        taken_by: which rank's batches these are; None for all.
    """

    order: IntArray
    starts: IntArray
    stops: IntArray
    shapes: IntArray
    steps: IntArray
    pieces: Pieces
    repeated: IntArray
    dropped: IntArray
    world_size: int
    begins: Cursor
    taken_by: int | None = None

    @classmethod
    def of(
        cls,
        lengths: npt.ArrayLike,
        policy: Policy,
        *,
        seed: int | None = 0,
        epoch: int | None = None,
        world_size: int = 1,
        worst_first: bool = False,
        uneven: Uneven = "repeat",
        after: Cursor | None = None,
        cache: str | PathLike[str] | None = None,
    ) -> "Plan":
        """The plan that follows from lengths, policy, seed, epoch and ranks, and from nothing else.

        Args:
            lengths: how many steps each row has, of shape (rows,); or of its source and target, of shape (rows, 2).
                Batches are then padded to both: they have rows x (longest source + longest target) steps.
            policy: what a batch may hold.
            seed: what pools and order are drawn from. None shuffles nothing: pools are of neighbouring rows, and
                batches stand pool by pool, the longest first.
            epoch: each has an order of its own. 0, or the cursor's, if left out.
            world_size: how many ranks take part; all get the same number of batches.
            worst_first: the step with the costliest batch comes first, so that memory that runs out does so at once.
            uneven: what becomes of rows that do not go round, once even batches of one row would be too few:
                `repeat` some, `drop` some (at most `world_size` - 1), or `raise`.
            after: where a run stands: what it has not yet served is planned, for as many ranks as there are now.
            cache: a folder where plans are kept as files: read from there, or made and written.

        Raises:
            ShapeError: for lengths that are no whole numbers, or of another shape.
            LengthError: for a length below 0, or a long row, if the policy refuses those.
            OptionError: for options outside their range, or a cursor that belongs to another plan.
            PlanError: for a kept file that is damaged.

        Example:
            >>> from pipeline.batching import Budget
            >>> plan = Plan.of([4, 1, 5, 2], Budget(10), seed=None)
            >>> [batch.tolist() for batch in plan]
            [[2, 0], [3, 1]]
            >>> print(plan.report())
            4 rows in 2 batches: 12 real steps, 14 padded, 14.3% of the padded work wasted
        """
        world_size = whole("world_size", world_size, least=1)
        seed = None if seed is None else whole("seed", seed, least=0)
        one_of("uneven", uneven, get_args(Uneven))
        checked = Lengths.of(lengths)
        making = Making(checked, pieces_of(checked, policy), policy, seed, worst_first, uneven)
        stands = Cursor.standing(after, epoch, making.recipe())
        # On as many ranks as before, the plan that was left is taken up again.
        goes_on = bool(stands.batches_done) and stands.batches_done[-1][0] == world_size
        begins = attrs.evolve(stands, batches_done=stands.batches_done[:-1]) if goes_on else stands
        return cls._read_or_make(making, begins, world_size, cache).left(stands)

    @classmethod
    def _read_or_make(
        cls, making: Making, begins: Cursor, world_size: int, cache: str | PathLike[str] | None
    ) -> "Plan":
        if cache is not None:
            path = _path(cache, _digest(begins, world_size, None))
            if path.exists():
                plan = cls.read(path)
                if plan.digest == path.stem:
                    return plan
                msg = f"{path} holds another plan than its name says; delete it, and it is made anew."
                raise PlanError(msg, path=path)
        batches, repeated, dropped = making.batches(begins.epoch, begins.batches_done, world_size)
        fields = attrs.asdict(batches, recurse=False)
        plan = cls(
            **fields, pieces=making.pieces, repeated=repeated, dropped=dropped, world_size=world_size, begins=begins
        )
        if cache is not None:
            plan.save(cache)
        return plan

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, batch: int) -> IntArray:
        return self.order[self.starts[batch] : self.stops[batch]]

    def __iter__(self) -> Iterator[IntArray]:
        for start, stop in zip(self.starts.tolist(), self.stops.tolist(), strict=True):
            yield self.order[start:stop]

    @property
    def rows(self) -> int:
        """How many rows the plan was made for."""
        return self.pieces.rows

    @property
    def longest(self) -> IntArray:
        """How many steps each batch is padded to: of shape (batches,), or (batches, 2) for two lengths a row."""
        return self.shapes[:, 1] if self.shapes.shape[1] == 2 else self.shapes[:, 1:]

    @property
    def padded(self) -> npt.NDArray[np.int64]:
        """How many steps each batch has when it is padded, of shape (batches,)."""
        padded: npt.NDArray[np.int64] = self.shapes[:, 0] * self.shapes[:, 1:].sum(axis=1, dtype=np.int64)
        return padded

    @property
    def recipe(self) -> str:
        """A digest of lengths, policy, seed and options: the same at every epoch and for any number of ranks."""
        return self.begins.recipe or ""

    @property
    def digest(self) -> str:
        """A digest of all that the plan was made of: two plans of one digest are the same."""
        return _digest(self.begins, self.world_size, self.taken_by)

    def rank(self, rank: int) -> "Plan":
        """The batches of one rank: every `world_size`-th.

        Raises:
            OptionError: for a rank that does not take part.

        Example:
            >>> from pipeline.batching import Rows
            >>> plan = Plan.of([3, 3, 5, 5], Rows(1), world_size=2)
            >>> [len(plan.rank(rank)) for rank in range(2)]
            [2, 2]
        """
        whole("rank", rank, least=0)
        if rank >= self.world_size or self.taken_by is not None:
            has = (
                f"there are {self.world_size} ranks"
                if self.taken_by is None
                else f"it is rank {self.taken_by}'s already"
            )
            msg = f"rank {rank} has no part in this plan: {has}."
            raise OptionError(msg, rank=rank, world_size=self.world_size)
        return attrs.evolve(self._from(rank, self.world_size), taken_by=rank)

    def cursor(self, batches_done: int) -> Cursor:
        """Where a run stands after so many steps of this plan: each takes a batch on every rank.

        Raises:
            OptionError: for more batches_done than there are.
        """
        whole("batches_done", batches_done, least=0)
        check_served(batches_done, self._training_steps())
        return self.begins.after(self.world_size, batches_done)

    def left(self, cursor: Cursor) -> "Plan":
        """What is left of the plan where a run stands.

        Raises:
            OptionError: for a cursor of another plan. For other ranks, a plan is made by `Plan.of(..., after=cursor)`.
        """
        steps = cursor.since(self.begins, self.world_size)
        check_served(steps, self._training_steps())
        each = self.world_size if self.taken_by is None else 1
        return attrs.evolve(self._from(steps * each, 1), begins=self.begins.after(self.world_size, steps))

    def report(self) -> Report:
        """Real and padded steps of all its batches."""
        rows = int((self.stops - self.starts).sum(dtype=np.int64))
        return Report(len(self), rows, int(self.steps.sum(dtype=np.int64)), int(self.padded.sum()))

    def save(self, folder: str | PathLike[str]) -> Path:
        """Keep the plan as a file in a folder, named by its digest; other processes see all of it or nothing.

        Example:
            >>> import tempfile
            >>> from pipeline.batching import Rows
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = Plan.of([3, 1, 2], Rows(2)).save(folder)
            ...     Plan.read(path).report().rows
            3
        """
        path = _path(folder, self.digest)
        facts: dict[str, object] = {
            "begins": self.begins.to_dict(),
            "world_size": self.world_size,
            "taken_by": self.taken_by,
        }
        facts |= {"rows": self.pieces.rows, "limit": self.pieces.limit}
        arrays = {"order": self.order, "starts": self.starts, "stops": self.stops, "shapes": self.shapes}
        arrays |= {"steps": self.steps, "repeated": self.repeated, "dropped": self.dropped}
        arrays |= {"further": self.pieces.further, "further_begins": self.pieces.begins}
        write(path, facts, arrays)
        return path

    @classmethod
    def read(cls, path: str | PathLike[str]) -> "Plan":
        """A plan that was kept, memory-mapped: what is not looked at is not read.

        Raises:
            PlanError: for a file that is no plan, or not a whole one.
        """
        facts, arrays = read(Path(path))
        match facts:
            case {
                "begins": begins,
                "world_size": int(world_size),
                "taken_by": int() | None as taken_by,
                "rows": int(rows),
                "limit": int() | None as limit,
            } if isinstance(begins, Mapping):
                pieces = Pieces(rows, limit, arrays.pop("further"), arrays.pop("further_begins"))
                return cls(
                    **arrays,
                    pieces=pieces,
                    world_size=world_size,
                    begins=Cursor.from_dict(cast("Mapping[str, object]", begins)),
                    taken_by=taken_by,
                )
            case _:
                msg = f"{path} cannot be read as a plan: it does not say what one says; delete it, and it is made anew."
                raise PlanError(msg, path=path)

    def _from(self, first: int, every: int) -> "Plan":
        which = slice(first, None, every)
        return attrs.evolve(
            self,
            starts=self.starts[which],
            stops=self.stops[which],
            shapes=self.shapes[which],
            steps=self.steps[which],
        )

    def _training_steps(self) -> int:
        return len(self) // (self.world_size if self.taken_by is None else 1)


def _digest(begins: Cursor, world_size: int, taken_by: int | None) -> str:
    return digest_of([begins.to_dict(), world_size, taken_by])


def _path(folder: str | PathLike[str], digest: str) -> Path:
    return Path(folder) / f"{digest}.plan"
