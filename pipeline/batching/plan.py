"""The batches of an epoch, determined before any row is read."""

from collections.abc import Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import cast, final, get_args

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.array_file import ArrayFileError, explain_failed_write, read_arrays, write_arrays
from pipeline.batching.arrays import IntArray
from pipeline.batching.batches import Uneven
from pipeline.batching.builder import PlanBuilder, check_batches_done, compute_digest, split_rows
from pipeline.batching.cursor import Cursor
from pipeline.batching.lengths import Lengths, RowSplits
from pipeline.batching.policies import Policy
from pipeline.checks.options import check_choice, check_int
from pipeline.data.report import Report
from pipeline.errors import OptionError, PlanError


@final
@attrs.frozen(eq=False)
class Plan:
    """List of batches, each an array of row numbers.

    Build one with `Plan.of`. Batch i is `order[starts[i]:stops[i]]`, a view: a plan takes 4 bytes per row. Batches
    `i * world_size` to `i * world_size + world_size - 1` are those of the ranks at step i, and have similar sizes.

    Attributes:
        order: numbers of rows, or of slices of rows as `splits` says.
        starts: where each batch starts in the order.
        stops: where it stops.
        shapes: what each batch is padded to: rows, then steps, one column per length of a row.
        steps: the number of real steps of each batch.
        splits: the meaning of a number in the order, if long rows are truncated or split.
        repeated: rows that occur once more than they should, so that all ranks have the same number of batches.
        dropped: rows that are left out for that.
        world_size: the number of ranks.
        start: the position at which the plan starts: the beginning of the epoch, or the cursor of an earlier run.
        selected_rank: the rank whose batches these are; None for all ranks.
    """

    order: IntArray
    starts: IntArray
    stops: IntArray
    shapes: IntArray
    steps: IntArray
    splits: RowSplits
    repeated: IntArray
    dropped: IntArray
    world_size: int
    start: Cursor
    selected_rank: int | None = None

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
        """Build the plan that follows from lengths, policy, seed, epoch and number of ranks, and from nothing else.

        Args:
            lengths: the steps of each row, of shape (rows,); or of each of its sides, such as source and target, of
                shape (rows, sides). A batch of the latter is padded on each side: it has rows x (longest source +
                longest target) steps.
            policy: the limit on a batch.
            seed: the seed of pools and orders. None shuffles nothing: pools are neighboring rows, and batches are in
                the order of the pools, longest first.
            epoch: each epoch has an order of its own. By default 0, or the epoch of the cursor.
            world_size: the number of ranks; all get the same number of batches.
            worst_first: put the step with the costliest batch first: if memory is too small for it, the first step
                fails.
            uneven: what happens to rows that do not divide by the ranks even in batches of one row: `repeat` some,
                `drop` some (fewer than `world_size`), or `raise` an error.
            after: the cursor of an earlier run: plan the rows that it has not used, for `world_size` ranks.
            cache: a folder of plan files: read the plan from there, or write it there.

        Raises:
            ShapeError: if the lengths are not integers, or have another shape.
            LengthError: if a length is negative, or a row is too long and the policy raises.
            OptionError: if an option is outside its range, or the cursor belongs to another plan.
            PlanError: if the file in the cache is damaged.
            SourceError: if the cache cannot be written, for example because the disk is full.

        Example:
            >>> from pipeline.batching import Budget
            >>> plan = Plan.of([4, 1, 5, 2], Budget(10), seed=None)
            >>> [batch.tolist() for batch in plan]
            [[2, 0], [3, 1]]
            >>> print(plan.report())
            4 rows in 2 batches: 12 real steps, 14 padded, 14.3% of the padded work wasted
        """
        world_size = check_int("world_size", world_size, minimum=1)
        seed = None if seed is None else check_int("seed", seed, minimum=0)
        check_choice("uneven", uneven, get_args(Uneven))
        checked = Lengths.of(lengths)
        builder = PlanBuilder(checked, split_rows(checked, policy), policy, seed, worst_first, uneven)
        recipe = builder.compute_recipe()
        if after is None:
            cursor = start = Cursor(0 if epoch is None else epoch, recipe=recipe)
        elif epoch not in {None, after.epoch}:
            msg = f"epoch must be that of the cursor, {after.epoch}, got {epoch}; leave it out."
            raise OptionError(msg, epoch=epoch, cursor=after)
        else:
            cursor = start = after.with_recipe(recipe)
            if start.batches_done and start.batches_done[-1][0] == world_size:
                # The same number of ranks: continue the plan that was left, instead of planning the rest again.
                start = attrs.evolve(start, batches_done=start.batches_done[:-1])
        plan = cls._read_or_build(builder, start, world_size, cache)
        return plan if cursor == start else plan.resume(cursor)

    @classmethod
    def _read_or_build(
        cls, builder: PlanBuilder, start: Cursor, world_size: int, cache: str | PathLike[str] | None
    ) -> "Plan":
        if cache is not None:
            path = _make_path(cache, _compute_plan_digest(start, world_size, None))
            if path.exists():
                plan = cls.read(path)
                if plan.digest != path.stem:
                    raise _build_error(path, "it has another plan than its name says")
                return plan
        batches, repeated, dropped = builder.build_rest(start.epoch, start.batches_done, world_size)
        order, starts, stops = batches.order, batches.starts, batches.stops
        shapes, steps, splits = batches.shapes, batches.steps, builder.splits
        plan = cls(order, starts, stops, shapes, steps, splits, repeated, dropped, world_size, start)
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
        """Number of rows that the plan was built for."""
        return self.splits.rows

    @property
    def longest(self) -> IntArray:
        """Steps that each batch is padded to: of shape (batches,), or (batches, 2) for two lengths per row."""
        return self.shapes[:, 1] if self.shapes.shape[1] == 2 else self.shapes[:, 1:]

    @property
    def padded(self) -> npt.NDArray[np.int64]:
        """Padded steps of each batch, of shape (batches,)."""
        padded: npt.NDArray[np.int64] = self.shapes[:, 0] * self.shapes[:, 1:].sum(axis=1, dtype=np.int64)
        return padded

    @property
    def recipe(self) -> str:
        """Digest of lengths, policy, seed and options: the same in every epoch and for any number of ranks."""
        return self.start.recipe or ""

    @property
    def digest(self) -> str:
        """Digest of everything that determines the plan: plans with equal digests are equal."""
        return _compute_plan_digest(self.start, self.world_size, self.selected_rank)

    def rank(self, rank: int) -> "Plan":
        """Return the batches of one rank: every `world_size`-th.

        Raises:
            OptionError: if there is no such rank, or the plan has the batches of one rank already.

        Example:
            >>> from pipeline.batching import Rows
            >>> plan = Plan.of([3, 3, 5, 5], Rows(1), world_size=2)
            >>> [len(plan.rank(rank)) for rank in range(2)]
            [2, 2]
        """
        check_int("rank", rank, minimum=0)
        if self.selected_rank is not None:
            msg = f"rank must be selected in a plan of all ranks, got {rank} in the plan of rank {self.selected_rank}."
            raise OptionError(msg, rank=rank, selected_rank=self.selected_rank)
        if rank >= self.world_size:
            msg = f"rank must be below world_size={self.world_size}, got {rank}."
            raise OptionError(msg, rank=rank, world_size=self.world_size)
        return attrs.evolve(self._select(rank, self.world_size), selected_rank=rank)

    def cursor(self, batches_done: int) -> Cursor:
        """Return the position after that many batches on each rank.

        Raises:
            OptionError: if there are fewer batches.
        """
        check_int("batches_done", batches_done, minimum=0)
        check_batches_done(batches_done, self._count_rank_batches())
        return self.start.after(self.world_size, batches_done)

    def resume(self, cursor: Cursor) -> "Plan":
        """Return the rest of this plan from a position on.

        For another number of ranks, build a plan with `Plan.of(..., after=cursor)`.

        Raises:
            OptionError: if the cursor belongs to another plan.
        """
        batches_done = cursor.count_batches_since(self.start, self.world_size)
        check_batches_done(batches_done, self._count_rank_batches())
        # A plan of one rank has one batch per step; a plan of all ranks has one for each of them.
        per_step = self.world_size if self.selected_rank is None else 1
        return attrs.evolve(
            self._select(batches_done * per_step, 1), start=self.start.after(self.world_size, batches_done)
        )

    def report(self) -> Report:
        """Count real and padded steps of all batches."""
        rows = int((self.stops - self.starts).sum(dtype=np.int64))
        return Report(len(self), rows, int(self.steps.sum(dtype=np.int64)), int(self.padded.sum()))

    def save(self, folder: str | PathLike[str]) -> Path:
        """Write the plan to a file in a folder, named by its digest. Other processes see all of the file or none.

        Example:
            >>> import tempfile
            >>> from pipeline.batching import Rows
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     path = Plan.of([3, 1, 2], Rows(2)).save(folder)
            ...     Plan.read(path).report().rows
            3
        """
        # The digest does not depend on the batches themselves, so a cached plan is found without building it.
        path = _make_path(folder, self.digest)
        metadata: dict[str, object] = {
            "kind": "pipeline plan",
            "start": self.start.to_dict(),
            "world_size": self.world_size,
            "selected_rank": self.selected_rank,
            "rows": self.splits.rows,
            "limit": self.splits.limit,
        }
        arrays = {"order": self.order, "starts": self.starts, "stops": self.stops, "shapes": self.shapes}
        arrays |= {"steps": self.steps, "repeated": self.repeated, "dropped": self.dropped}
        arrays |= {"extra_rows": self.splits.extra_rows, "extra_starts": self.splits.extra_starts}
        with explain_failed_write(path.parent):
            write_arrays(path, arrays, metadata)
        return path

    @classmethod
    def read(cls, path: str | PathLike[str]) -> "Plan":
        """Read a plan that was saved. The file is memory-mapped: batches are read when they are used.

        Raises:
            PlanError: if the file is not a plan, or is damaged.
        """
        path = Path(path)
        try:
            file = read_arrays(path)
        except ArrayFileError as error:
            raise _build_error(path, str(error.details["reason"])) from error
        arrays = cast("dict[str, IntArray]", file.arrays)
        match file.metadata:
            case {
                "kind": "pipeline plan",
                "start": start,
                "world_size": int(world_size),
                "selected_rank": int() | None as selected_rank,
                "rows": int(rows),
                "limit": int() | None as limit,
            } if isinstance(start, dict) and all(array.dtype.kind == "i" for array in arrays.values()):
                try:
                    splits = RowSplits(rows, limit, arrays.pop("extra_rows"), arrays.pop("extra_starts"))
                    return cls(
                        **arrays,
                        splits=splits,
                        world_size=world_size,
                        start=Cursor.from_dict(cast("Mapping[str, object]", start)),
                        selected_rank=selected_rank,
                    )
                except (KeyError, TypeError) as error:
                    raise _build_error(path, f"an array is missing or unknown ({error})") from error
            case _:
                raise _build_error(path, "it has the metadata of something else")

    def _select(self, first: int, every: int) -> "Plan":
        selected = slice(first, None, every)
        return attrs.evolve(
            self,
            starts=self.starts[selected],
            stops=self.stops[selected],
            shapes=self.shapes[selected],
            steps=self.steps[selected],
        )

    def _count_rank_batches(self) -> int:
        return len(self) // (self.world_size if self.selected_rank is None else 1)


def _compute_plan_digest(start: Cursor, world_size: int, selected_rank: int | None) -> str:
    return compute_digest([start.to_dict(), world_size, selected_rank])


def _make_path(folder: str | PathLike[str], digest: str) -> Path:
    return Path(folder) / f"{digest}.plan"


def _build_error(path: Path, reason: str) -> PlanError:
    msg = f"{path} cannot be read as a plan: {reason}; delete it, so that it is written again."
    return PlanError(msg, path=path)
