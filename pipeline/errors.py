"""The public errors. Each is also a built-in exception.

A message names the argument, the rule, the value and the fix. Its values are also in `details`, for programs.
"""

from collections.abc import Mapping

__all__ = [
    "CompositionError",
    "EmptyBatchError",
    "ExportError",
    "FolderError",
    "InferenceError",
    "LabelError",
    "LengthError",
    "LoadError",
    "MissingExtraError",
    "OptionError",
    "PaddingLeakError",
    "PipelineError",
    "PlanError",
    "PluginError",
    "RecordError",
    "SaveError",
    "ShapeError",
    "SourceError",
    "StageError",
    "TargetError",
    "TextError",
    "TrainingError",
    "UnknownNameError",
    "UnknownOptionError",
    "UnsizedError",
    "ValuesError",
    "WorkerError",
]


class PipelineError(Exception):
    """Base of all errors of this library.

    Attributes:
        details: the values in the message, by name.

    Example:
        >>> error = LengthError("lengths[2] is 9", row=2, length=9)
        >>> error.details["row"], isinstance(error, ValueError)
        (2, True)
    """

    details: Mapping[str, object]

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details


class ShapeError(PipelineError, TypeError):
    """A tensor with a wrong shape, dtype or device, or a value that is not a tensor."""


class LengthError(PipelineError, ValueError):
    """Lengths that do not fit their values, or a row longer than allowed."""


class ValuesError(PipelineError, ValueError):
    """Invalid values in a sequence: NaN or infinite features, ids out of range."""


class PaddingLeakError(PipelineError, ValueError):
    """Padding that affected a result, found by the padding check."""


class EmptyBatchError(PipelineError, ValueError):
    """A batch without rows. Rows without steps are allowed."""


class TextError(PipelineError, ValueError):
    """An input that is not text, or text that UTF-8 cannot encode (lone surrogates)."""


class RecordError(PipelineError, ValueError):
    """A malformed record of a file or data set, or a file of another format than expected."""


class SourceError(PipelineError, OSError):
    """A file that does not exist, cannot be read, or changed while it was read."""


class StageError(PipelineError, RuntimeError):
    """A StopIteration raised inside a stage, which would have ended the stream as if it had no more rows."""


class UnsizedError(PipelineError, TypeError):
    """A request for the length or a random record of a source that can only be read from its beginning."""


class MissingExtraError(PipelineError, ImportError):
    """An optional package that is not installed."""


class TargetError(PipelineError, ValueError):
    """A missing target, or one that does not fit its row."""


class LabelError(PipelineError, LookupError):
    """A class name, or a class id, that the labels do not have."""


class OptionError(PipelineError, ValueError):
    """An option outside its range, or one that contradicts another."""


class CompositionError(PipelineError, TypeError):
    """Two stages that do not fit each other, detected when they are joined."""


class UnknownNameError(PipelineError, LookupError):
    """A name that no installed plugin registers."""


class UnknownOptionError(PipelineError, TypeError):
    """An option that a registered part does not accept, or a missing required option."""


class PluginError(PipelineError, RuntimeError):
    """An invalid plugin: two that register one name, or an object that is not a part."""


class WorkerError(PipelineError, RuntimeError):
    """A worker of a loader that died, timed out, or raised an error that cannot be pickled."""


class TrainingError(PipelineError, RuntimeError):
    """A training that cannot continue: a loss or gradients that are NaN or infinite."""


class PlanError(PipelineError, ValueError):
    """A damaged plan file, or a file that is not a plan."""


class FolderError(PipelineError, OSError):
    """A folder that cannot be written or read: a full disk, missing rights, or another process that writes it."""


class SaveError(PipelineError, ValueError):
    """A pipe or a value that cannot be saved completely, such as a part without a registered name."""


class LoadError(PipelineError, ValueError):
    """A saved folder or file that is damaged, malicious, of an unknown format, or of another type than expected."""


class ExportError(PipelineError, ValueError):
    """A model cannot be exported, or the exported one does not give its results."""


class InferenceError(PipelineError, RuntimeError):
    """A change of a pipe for inference, whose weights are fixed."""
