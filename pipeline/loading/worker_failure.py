"""An error raised in a worker, sent to the training process in place of its batch."""

import copy
import pickle
import traceback
from typing import final

import attrs

from pipeline.errors import WorkerError


class RemoteTracebackError(Exception):
    """Traceback in the worker: the cause of the error that is raised in the training process."""


@final
@attrs.frozen
class WorkerFailure:
    """An error raised in a worker, sent in place of its batch.

    Attributes:
        error: the error itself; None if its class cannot be pickled.
        name: the name of its class.
        text: its formatted traceback, with message and notes.
        worker: the worker's number.
    """

    error: "Exception | _ErrorParts | None"
    name: str
    text: str
    worker: int

    @classmethod
    def from_error(cls, error: Exception, worker: int) -> "WorkerFailure":
        """Prepare an error for sending to the training process."""
        text = "".join(traceback.format_exception(error))
        return cls(_prepare_for_pickling(error), type(error).__name__, text, worker)

    def to_error(self) -> Exception:
        """Return the error to raise in the training process: of its own class with its details, if it was picklable."""
        error = self.error.to_error() if isinstance(self.error, _ErrorParts) else self.error
        if error is None:
            msg = f"worker {self.worker} raised {self.name}, which cannot be pickled; its traceback is:\n{self.text}"
            error = WorkerError(msg, worker=self.worker, raised=self.name)
        error.add_note(f"It was raised in worker {self.worker}.")
        error.__cause__ = RemoteTracebackError(f"\n{self.text}")
        return error


@final
@attrs.frozen
class _ErrorParts:
    """The class, arguments and attributes of an error that cannot be pickled as it is."""

    cls: type[Exception]
    args: tuple[object, ...]
    attributes: dict[str, object]

    def to_error(self) -> Exception:
        """Build the error without calling its `__init__`, which may take other arguments than `args`."""
        error = self.cls.__new__(self.cls, *self.args)
        error.args = self.args
        error.__dict__.update(self.attributes)
        return error


def _prepare_for_pickling(error: Exception) -> Exception | _ErrorParts | None:
    """Return the error, or its parts if only these can be pickled; attributes that cannot are sent as text."""
    if _survives_pickling(error):
        return error
    args = tuple(value if _can_be_pickled(value) else repr(value) for value in error.args)
    given: dict[str, object] = vars(error)
    attributes: dict[str, object] = {
        name: value if _can_be_pickled(value) else repr(value) for name, value in given.items()
    }
    parts = _ErrorParts(type(error), args, attributes)
    try:
        rebuilt = parts.to_error()
    except Exception:  # noqa: BLE001 - a class with an unusual `__new__`
        return None
    return parts if _can_be_pickled(parts) and type(rebuilt) is type(error) else None


def _can_be_pickled(value: object) -> bool:
    try:
        pickle.loads(pickle.dumps(value))  # noqa: S301 - just pickled
    except Exception:  # noqa: BLE001 - any error means that it cannot be sent
        return False
    return True


def _survives_pickling(error: Exception) -> bool:
    """Return whether an error is the same after pickling.

    Exceptions are rebuilt from `args`, so one whose `__init__` takes other arguments fails to unpickle or changes its
    message. `copy.copy` rebuilds it in the same way as unpickling.
    """
    try:
        pickle.dumps(error)
        rebuilt = copy.copy(error)
    except Exception:  # noqa: BLE001 - any error in rebuilding means that it cannot be sent
        return False
    return type(rebuilt) is type(error) and str(rebuilt) == str(error)
