"""Workers that die or hang, told by what they had in hand.

torch learns of a worker's death by a signal, and raises wherever the training process happens to be: often in the
middle of a step, and not in the loader. So its handler is called by one of ours, which knows what the worker was at.
"""

import re
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import active_children
from types import FrameType
from typing import Final, final
from weakref import WeakSet

from pipeline.batching.plan import Plan
from pipeline.errors import WorkerError
from pipeline.loading.hands import Hand, Hands, Stage
from pipeline.loading.naming import listed, named

_PROCESSES: Final = re.compile(r"pid(?:\(s\))? ([\d, ]+)\)")
"""How torch names the processes of workers that died."""

_HANGS: Final = "timed out"
_AT_WORK: Final = {Stage.READING, Stage.COLLATING}

_PATIENCE: Final = 2.0
"""For how many seconds a death is looked for behind a pipe that broke."""


@final
class Watch:
    """What the workers of a loader are at, as its own process sees it.

    Args:
        hands: what each has in hand.
        dataset: what knows the records by name.
        plan: whose batches they make.
    """

    def __init__(self, hands: Hands, dataset: object, plan: Plan) -> None:
        self._hands: Final = hands
        self._dataset: Final = dataset
        self.plan = plan
        _watches.add(self)

    def explained(self, error: Exception) -> WorkerError | None:
        """The death or the hanging of a worker that is behind an error; None if it is something else."""
        if isinstance(error, OSError | EOFError):
            return self._behind_broken_pipe()
        if not isinstance(error, RuntimeError) or isinstance(error, WorkerError):
            return None
        said = str(error).strip().rstrip(".")
        if found := _PROCESSES.search(said):
            return self._blamed(said, {int(process) for process in found[1].split(",")})
        if _HANGS in said:
            at_work = {hand.process for hand in self._hands if hand.stage in _AT_WORK}
            return self._blamed(said, at_work) or _idle(said)
        return None

    def _behind_broken_pipe(self) -> WorkerError | None:
        """A worker that dies while it hands over a batch: the pipe breaks first, and its death is known after."""
        patience = time.monotonic() + _PATIENCE
        try:
            while time.monotonic() < patience:
                alive = {child.pid for child in active_children()}
                if dead := {hand.process for hand in self._hands} - alive - {0}:
                    names = ", ".join(map(str, sorted(dead)))
                    return self._blamed(f"DataLoader worker (pid {names}) died while it handed over a batch", dead)
                time.sleep(0.02)
        except WorkerError as told:  # out of the handler below
            return told
        return None

    def _blamed(self, said: str, processes: set[int]) -> WorkerError | None:
        blamed = [(worker, hand) for worker, hand in enumerate(self._hands) if hand.process in processes]
        if not blamed:
            return None
        at = "; ".join(f"worker {worker} {self._at(hand)}" for worker, hand in blamed)
        records = [record for _, hand in blamed for record in self._records(hand)]
        return WorkerError(f"{said}: {at}.", workers=[worker for worker, _ in blamed], records=records)

    def _at(self, hand: Hand) -> str:
        match hand:
            case Hand(stage=Stage.READING, record=int(record)):
                return f"was at {named(self._dataset, record)}, in batch {hand.batch}"
            case Hand(stage=Stage.GIVEN):
                return f"had just made batch {hand.batch}, of {listed(self._dataset, self._records(hand))}"
            case _:
                made = "reading" if hand.stage is Stage.READING else "collating"
                return f"was {made} batch {hand.batch}, of {listed(self._dataset, self._records(hand))}"

    def _records(self, hand: Hand) -> list[int]:
        if hand.record is not None:
            return [hand.record]
        records: list[int] = self.plan.pieces.rows_of(self.plan[hand.batch]).tolist()
        return records


def _idle(said: str) -> WorkerError:
    msg = f"{said}: no worker was at a record, since they had not begun yet; give them more time to start: timeout=..."
    return WorkerError(msg, workers=[], records=[])


_watches: "WeakSet[Watch]" = WeakSet()


def explained(error: RuntimeError) -> WorkerError | None:
    """What torch says of a worker of any loader, explained by that loader."""
    return next((told for watch in list(_watches) if (told := watch.explained(error)) is not None), None)


def heed_deaths() -> None:
    """Explain what torch's handler of the end of a process raises; where that is possible, and once."""
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    theirs = signal.getsignal(signal.SIGCHLD)
    if not callable(theirs) or isinstance(theirs, _Handler):
        return
    signal.signal(signal.SIGCHLD, _Handler(theirs))


@final
class _Handler:
    def __init__(self, theirs: Callable[[int, FrameType | None], object]) -> None:
        self._theirs: Final = theirs

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self._theirs(number, frame)
        except RuntimeError as error:
            told = explained(error)
            if told is None:
                raise
            raise told from error
