"""What a worker raised, on its way to the process that trains."""

import copy
import pickle
import traceback
from typing import final

import attrs

from pipeline.errors import WorkerError


class RemoteTracebackError(Exception):
    """Where an error was raised in another process: the cause of the error here."""


@final
@attrs.frozen
class Failure:
    """An error out of a worker, in the place of its batch.

    Attributes:
        error: the error itself; None if it cannot leave its process.
        name: what it is called.
        text: what it said, with its notes and where it was raised.
        worker: the worker's number.
    """

    error: Exception | None
    name: str
    text: str
    worker: int

    @classmethod
    def of(cls, error: Exception, worker: int) -> "Failure":
        """An error, made ready to travel."""
        text = "".join(traceback.format_exception(error))
        return cls(error if _travels(error) else None, type(error).__name__, text, worker)

    def raised(self) -> Exception:
        """The error, as it is raised here: of its own class, with its details and notes, where it could travel."""
        error = self.error
        if error is None:
            msg = f"worker {self.worker} raised {self.name}, which cannot leave its process; it said:\n{self.text}"
            error = WorkerError(msg, worker=self.worker, raised=self.name)
        error.add_note(f"It was raised in worker {self.worker}.")
        error.__cause__ = RemoteTracebackError(f"\n{self.text}")
        return error


def _travels(error: Exception) -> bool:
    """Whether an error comes out of a pipe as it went in: some are made of other arguments than they keep."""
    try:
        pickle.dumps(error)
        again = copy.copy(error)
    except Exception:  # noqa: BLE001 - whatever making it again raises, it does not travel
        return False
    return type(again) is type(error) and str(again) == str(error)
