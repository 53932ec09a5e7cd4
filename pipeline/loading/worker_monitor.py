"""Name the record at which a worker died or hung.

Such a worker sends nothing, so its last entry in the shared `ProgressTable` says which record it was reading.

torch learns of a worker's death from the signal SIGCHLD, and raises wherever the training process happens to be: often
in the middle of a training step and not in the loader. So its signal handler is wrapped in one of ours, which replaces
torch's error by one that names the record.
"""

import re
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from multiprocessing import active_children
from types import FrameType
from typing import Final, final
from weakref import WeakSet

from typing_extensions import override

from pipeline.errors import WorkerError
from pipeline.loading.progress import ProgressTable, WorkerPhase, WorkerProgress
from pipeline.loading.records import (
    describe_record,
    describe_records,
)
from pipeline.loading.workers import NumberedBatches

_PIDS: Final = re.compile(r"pid(?:\(s\))? ([\d, ]+)\)")
"""The part of torch's messages that names the processes of workers that died."""

_TIMEOUT: Final = "timed out"
"""The part of torch's messages that says that no batch came within `timeout`."""

_BUSY: Final = {WorkerPhase.READING, WorkerPhase.COLLATING}

_PIPE_GRACE: Final = 2.0
"""Seconds to wait for a death after a broken pipe: the pipe closes before the system reports that the worker ended."""


class WorkerMonitor(ABC):
    """View of a loader's workers from the training process: turns torch's errors into ones that name the record.

    Args:
        progress: the table in which the workers report.
    """

    def __init__(self, progress: ProgressTable) -> None:
        self._progress: Final = progress
        self._reported: Final[set[int]] = set()
        _monitors.add(self)

    def explain(self, error: Exception) -> WorkerError | None:
        """Return an error that names the record, if this loader's worker died or hung; None for any other error."""
        # A worker that dies while it sends a batch breaks the pipe, which is an error of the system and not of torch.
        if isinstance(error, OSError | EOFError):
            return self._explain_broken_pipe()
        if not isinstance(error, RuntimeError) or isinstance(error, WorkerError):
            return None
        message = str(error).strip().rstrip(".")
        if pids := _find_pids(error):
            return self._blame(message, pids)
        if _TIMEOUT in message:
            # Idle workers and those that have finished their batch wait for the training process: they do not hang.
            busy = {progress.pid for progress in self._progress if progress.phase in _BUSY}
            return self._blame(message, busy) or _describe_idle_timeout(message)
        return None

    def has_reported(self, error: Exception) -> bool:
        """Return whether an error repeats deaths already reported: torch raises again while other workers end."""
        pids = _find_pids(error)
        return bool(pids) and self._reported.issuperset(pids)

    def _explain_broken_pipe(self) -> WorkerError | None:
        """Find the worker that died while it sent a batch; wait a moment, because its pipe breaks first."""
        deadline = time.monotonic() + _PIPE_GRACE
        try:
            while time.monotonic() < deadline:
                alive = {child.pid for child in active_children()}
                if dead := {progress.pid for progress in self._progress} - alive - {0}:
                    names = ", ".join(map(str, sorted(dead)))
                    return self._blame(f"DataLoader worker (pid {names}) died while it sent a batch", dead)
                time.sleep(0.02)
        except WorkerError as error:  # raised by the signal handler during the wait
            return error
        return None

    def _blame(self, message: str, pids: set[int]) -> WorkerError | None:
        """Build the error that says at which records the workers with these process ids were, if they are ours."""
        self._reported.update(pids)
        blamed = [(worker, progress) for worker, progress in enumerate(self._progress) if progress.pid in pids]
        if not blamed:
            return None
        details = "; ".join(f"worker {worker} {self._describe(progress)}" for worker, progress in blamed)
        # Workers of a stream may read the same records, and die at the same one.
        records = list(dict.fromkeys(record for _, progress in blamed for record in self._get_records(progress)))
        return WorkerError(f"{message}: {details}.", workers=[worker for worker, _ in blamed], records=records)

    @abstractmethod
    def _describe(self, progress: WorkerProgress) -> str:
        """Return what a worker was doing, with its records."""

    @abstractmethod
    def _get_records(self, progress: WorkerProgress) -> list[int]:
        """Return the records that a worker was at."""


@final
class PlanMonitor(WorkerMonitor):
    """Monitor of workers that make the batches of a plan.

    Args:
        progress: the table in which the workers report.
        dataset: the dataset, which names records.
        batches: the batches that the workers make.
    """

    def __init__(self, progress: ProgressTable, dataset: object, batches: NumberedBatches) -> None:
        super().__init__(progress)
        self._dataset: Final = dataset
        self._batches: Final = batches

    @override
    def _describe(self, progress: WorkerProgress) -> str:
        match progress:
            case WorkerProgress(phase=WorkerPhase.READING, record=int(record)):
                return f"was at {describe_record(self._dataset, record)}, in batch {progress.batch}"
            case WorkerProgress(phase=WorkerPhase.DONE):
                activity = "had just finished"
            case _:
                activity = "was reading" if progress.phase is WorkerPhase.READING else "was collating"
        records = describe_records(self._dataset, self._get_records(progress))
        return f"{activity} batch {progress.batch}, which holds {records}"

    @override
    def _get_records(self, progress: WorkerProgress) -> list[int]:
        return self._batches.get_records(progress.batch) if progress.record is None else [progress.record]


def _find_pids(error: Exception) -> set[int]:
    found = _PIDS.search(str(error))
    return {int(pid) for pid in found[1].split(",")} if found else set()


def _describe_idle_timeout(message: str) -> WorkerError:
    msg = (
        f"{message}: the workers had not started their first batch; give them more time to start with a larger timeout."
    )
    return WorkerError(msg, workers=[], records=[])


_monitors: "WeakSet[WorkerMonitor]" = WeakSet()
"""The monitors of all loaders of this process: a signal does not say to which of them a worker belongs."""


def install_sigchld_handler() -> None:
    """Wrap torch's handler of SIGCHLD, once, so that a worker's death names the record.

    Does nothing where that is impossible: on systems without the signal, and outside the main thread.
    """
    if not hasattr(signal, "SIGCHLD") or threading.current_thread() is not threading.main_thread():
        return
    handler = signal.getsignal(signal.SIGCHLD)
    if not callable(handler) or isinstance(handler, _SigchldHandler):
        return
    signal.signal(signal.SIGCHLD, _SigchldHandler(handler))


@final
class _SigchldHandler:
    def __init__(self, wrapped: Callable[[int, FrameType | None], object]) -> None:
        self._wrapped: Final = wrapped

    def __call__(self, number: int, frame: FrameType | None) -> None:
        try:
            self._wrapped(number, frame)
        except RuntimeError as error:
            monitors = list(_monitors)
            # After the first error, torch ends the other workers, and each of these deaths is signalled once more with
            # the same process ids. Raising again would hide the error that names the record.
            if any(monitor.has_reported(error) for monitor in monitors):
                return
            explained = next((found for monitor in monitors if (found := monitor.explain(error)) is not None), None)
            if explained is None:
                raise
            raise explained from error
