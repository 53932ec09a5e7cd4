"""The same number of batches for every rank, of like size at the same step."""

import heapq
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from pipeline.batching.adjacent import adjacent_correlation, chance_bound
from pipeline.batching.batches import Batches
from pipeline.batching.draws import Draws
from pipeline.batching.numbers import IntArray
from pipeline.batching.policy import Policy
from pipeline.errors import OptionError

_TRIES: Final = 20
"""How many orders are drawn at most."""

Uneven = Literal["repeat", "drop", "raise"]
"""What becomes of rows that are too few to go round, batches of one row each."""


def divided(starts: npt.NDArray[np.int64], rows: int, world_size: int) -> npt.NDArray[np.int64]:
    """Places where batches begin, their number a multiple of `world_size` if the rows allow it.

    The batches of the most rows are halved until it is; a part of a batch is never over the budget.

    Example:
        >>> divided(np.array([0, 6]), rows=8, world_size=3).tolist()
        [0, 3, 6]
    """
    wanted = min(-len(starts) % world_size, rows - len(starts))
    if wanted <= 0:
        return starts
    sizes = np.diff(starts, append=rows)
    # So many halvings reach no other batches than the largest of them.
    largest = np.argsort(-sizes, kind="stable")[:wanted]
    heap = [(-int(sizes[batch]), int(starts[batch])) for batch in largest]
    heapq.heapify(heap)
    added: list[int] = []
    for _ in range(wanted):
        size, start = heapq.heappop(heap)
        half = (-size + 1) // 2
        added.append(start + half)
        heapq.heappush(heap, (-half, start))
        heapq.heappush(heap, (size + half, start + half))
    return np.sort(np.concatenate([starts, np.asarray(added, np.int64)]))


def evened(
    batches: Batches, world_size: int, uneven: Uneven, draws: Draws | None
) -> tuple[Batches, IntArray, IntArray]:
    """The batches, their number a multiple of `world_size`, and the rows that are repeated for it, and dropped.

    Raises:
        OptionError: if the rows do not go round and `uneven` refuses that, or if dropping would leave none.
    """
    none = np.empty(0, batches.order.dtype)
    over = len(batches) % world_size
    if not over:
        return batches, none, none
    if uneven == "raise" or (uneven == "drop" and over == len(batches)):
        left = "" if uneven == "raise" else ", and dropping them would leave none"
        msg = (
            f"{len(batches.order)} rows do not make the same number of batches for {world_size} ranks{left}; "
            'take fewer ranks, or repeat some rows: uneven="repeat".'
        )
        raise OptionError(msg, rows=len(batches.order), world_size=world_size, uneven=uneven)
    # Every batch is a single row here, else one more could have been halved.
    mixed = np.arange(len(batches)) if draws is None else draws.permutation(len(batches))
    if uneven == "drop":
        kept, dropped = np.sort(mixed[over:]), mixed[:over]
        return batches.taken(kept), none, batches.order[batches.starts[dropped]]
    again = np.resize(mixed, world_size - over)
    every = np.concatenate([np.arange(len(batches)), again])
    return batches.taken(every), batches.order[batches.starts[again]], none


def arranged(batches: Batches, world_size: int, draws: Draws | None) -> Batches:
    """Batches in the order of training: groups of `world_size` like-sized ones, shuffled; the ranks of a group too.

    Of random orders, one in twenty happens to correlate by more than chance is granted: another is drawn for it.
    Without draws, batches stay in the order in which they were cut.
    """
    if draws is None or not len(batches):
        return batches
    mixed = draws.permutation(len(batches))
    if world_size > 1:
        widths = batches.shapes[:, 1:].sum(axis=1, dtype=np.int64)
        mixed = mixed[np.lexsort((batches.shapes[mixed, 0], widths[mixed]))]
    groups = mixed.reshape(-1, world_size)
    means = batches.steps / (batches.stops - batches.starts)
    order = _shuffled(groups, draws)
    for _ in range(_TRIES):
        if all(abs(adjacent_correlation(means[mine])) <= chance_bound(len(order)) for mine in order.T):
            break
        order = _shuffled(groups, draws)
    return batches.taken(order.ravel())


def _shuffled(groups: npt.NDArray[np.int64], draws: Draws) -> npt.NDArray[np.int64]:
    """The groups in random order, and each in a random order of its own."""
    groups = groups[draws.permutation(len(groups))]
    if groups.shape[1] == 1:
        return groups
    chances = draws.words(groups.size).reshape(groups.shape)
    return np.take_along_axis(groups, chances.argsort(axis=1, kind="stable"), axis=1)


def with_worst_first(batches: Batches, world_size: int, policy: Policy) -> Batches:
    """The same, the step with the costliest batch moved to the front: memory that runs out does so at once."""
    if not len(batches):
        return batches
    step = int(policy.work(batches.shapes).argmax()) // world_size
    steps = np.concatenate([[step], np.delete(np.arange(len(batches) // world_size), step)])
    return batches.taken((steps[:, None] * world_size + np.arange(world_size)).ravel())
