"""From lengths and a policy to batches: sorted, cut, made equal for the ranks, shuffled."""

import hashlib
import json
import operator
from typing import Final, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.batches import Batches
from pipeline.batching.coding import Coding
from pipeline.batching.cut import cut
from pipeline.batching.draws import Draws
from pipeline.batching.lengths import Lengths
from pipeline.batching.numbers import IntArray, narrow
from pipeline.batching.pieces import Pieces
from pipeline.batching.policy import Policy
from pipeline.batching.ranks import Uneven, arranged, divided, evened, with_worst_first
from pipeline.batching.sorting import Unsorted, sort_rows
from pipeline.errors import OptionError

_SAMPLE: Final = 1 << 14
"""How many rows say how many batches there will be: enough to size pools."""

_FORM: Final = 1
"""Which way of making plans this is: another one is another recipe."""

Stretch = tuple[int, int]
"""A number of ranks, and how many steps they made."""


@final
@attrs.frozen(eq=False)
class Making:
    """All that a run's plans are made of but the epoch and the ranks."""

    lengths: Lengths
    pieces: Pieces
    policy: Policy
    seed: int | None
    worst_first: bool
    uneven: Uneven

    def recipe(self) -> str:
        """A digest of it all."""
        said = {
            "form": _FORM,
            "lengths": self.lengths.digest(),
            "policy": said_of(self.policy),
            "seed": self.seed,
            "worst_first": self.worst_first,
            "uneven": self.uneven,
        }
        return digest_of(said)

    def batches(self, epoch: int, served: tuple[Stretch, ...], world_size: int) -> tuple[Batches, IntArray, IntArray]:
        """The batches of what is left of an epoch, with the rows that are repeated and those that are dropped.

        Raises:
            OptionError: if the rows do not go round, or if more was served than there is.
        """
        left: IntArray | None = None
        for past, (ranks, steps) in enumerate(served):
            batches, _, _ = self.made(left, self._draws(epoch, served[:past]), ranks)
            check_served(steps, len(batches) // ranks)
            left = self._unserved(left, batches.taken(slice(steps * ranks)))
        return self.made(left, self._draws(epoch, served), world_size)

    def _draws(self, epoch: int, served: tuple[Stretch, ...]) -> Draws | None:
        if self.seed is None:
            return None
        return Draws(self.seed, (epoch, *(number for stretch in served for number in stretch)))

    def made(
        self, numbers: IntArray | None, draws: Draws | None, world_size: int
    ) -> tuple[Batches, IntArray, IntArray]:
        """The batches of some pieces, or of all, with the rows that are repeated and those that are dropped.

        Raises:
            OptionError: if the rows do not go round.
        """
        count = len(self.pieces) if numbers is None else len(numbers)
        sample = self._sample(numbers, count, draws)
        expected = self._batches_of(sample) * count / max(len(sample), 1)
        pools = 1 if self.policy.batches_per_sort is None else max(1, int(expected) // self.policy.batches_per_sort)
        coding = Coding.of(self.lengths, self.pieces, self.policy, sample, expected / pools)
        rows = sort_rows(Unsorted(self.lengths, self.pieces, numbers, coding), pools, draws)
        starts = divided(cut(rows, self.policy), len(rows.order), world_size)
        batches, repeated, dropped = evened(Batches.of(rows, starts, self.policy), world_size, self.uneven, draws)
        batches = arranged(batches, world_size, draws)
        if self.worst_first:
            batches = with_worst_first(batches, world_size, self.policy)
        return batches, repeated, dropped

    def _sample(self, numbers: IntArray | None, count: int, draws: Draws | None) -> npt.NDArray[np.int64]:
        """The lengths of some rows, or of all if they are few."""
        if count <= _SAMPLE:
            chosen = np.arange(count)
        elif draws is None:
            chosen = np.arange(_SAMPLE) * count // _SAMPLE
        else:
            chosen = (draws.words(_SAMPLE) * np.float64(count / (1 << 32))).astype(np.int64)
        return self.pieces.lengths(self.lengths, chosen if numbers is None else numbers[chosen])

    def _batches_of(self, sample: npt.NDArray[np.int64]) -> float:
        """About how many batches rows of such lengths make."""
        sizes, counts = np.unique(sample.sum(axis=1), return_counts=True)
        rooms = np.fromiter((self.policy.room(size) for size in sizes.tolist()), np.float64, len(sizes))
        return float((counts / rooms).sum())

    def _unserved(self, numbers: IntArray | None, served: Batches) -> IntArray:
        left = np.ones(len(self.pieces), np.bool_) if numbers is None else np.zeros(len(self.pieces), np.bool_)
        if numbers is not None:
            left[numbers] = True
        for start, stop in zip(served.starts.tolist(), served.stops.tolist(), strict=True):
            left[served.order[start:stop]] = False
        return np.flatnonzero(left).astype(narrow(len(left)), copy=False)


def said_of(policy: Policy) -> list[object]:
    """A policy as JSON can say it: its class, and its fields."""
    return [type(policy).__module__, type(policy).__qualname__, attrs.asdict(policy)]


def digest_of(said: object) -> str:
    """A digest of what JSON can say, in 32 letters."""
    try:
        text = json.dumps(said, sort_keys=True, default=operator.index)
    except TypeError as error:
        msg = (
            f"a policy's fields must be numbers, text, or tuples of them, so that a plan can be told by them: {error}."
        )
        raise OptionError(msg) from error
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def check_served(steps: int, made: int) -> None:
    """Refuse a cursor that stands behind the end.

    Raises:
        OptionError: if more steps were made than there are.
    """
    if steps > made:
        msg = f"the cursor stands behind {steps} steps, but there are {made}; it belongs to another plan."
        raise OptionError(msg, steps=steps, made=made)
