"""What can go wrong, one class a kind of mistake, each also a built-in exception.

Every message names the argument, the rule, what arrived and what to do; the values in it
are in `details`, for programs that want to react.
"""

from collections.abc import Mapping


class PipelineError(Exception):
    """Anything that this library refuses.

    Attributes:
        details: the values that the message mentions, by name.

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
    """A tensor of the wrong shape, dtype or device, or no tensor at all."""


class LengthError(PipelineError, ValueError):
    """Lengths that cannot be true of the values beside them, or a row longer than allowed."""


class ValuesError(PipelineError, ValueError):
    """Invalid values in a sequence: NaN or infinite features, ids out of range."""


class PaddingLeakError(PipelineError, ValueError):
    """Padding that got into an answer, found under poison."""


class EmptyBatchError(PipelineError, ValueError):
    """A batch of no rows, where a row of no steps is legal."""


class TextError(PipelineError, ValueError):
    """An input that is not text, or text that no file could hold (lone surrogates)."""


class RecordError(PipelineError, ValueError):
    """A malformed record of a file or a data set, or a file that is not of its format."""


class SourceError(PipelineError, OSError):
    """A file that is not there, cannot be read, or changed while it was."""


class UnsizedError(PipelineError, TypeError):
    """A length or a random record of what can only be read from its beginning."""


class MissingExtraError(PipelineError, ImportError):
    """An optional package that is not installed."""


class TargetError(PipelineError, ValueError):
    """A target that is missing, or that does not fit its row."""


class LabelError(PipelineError, LookupError):
    """A class name, or a class id, that the labels do not have."""


class OptionError(PipelineError, ValueError):
    """An option outside its range, or one that contradicts another."""


class CompositionError(PipelineError, TypeError):
    """Two stages that do not fit each other, found when they are joined."""


class UnknownNameError(PipelineError, LookupError):
    """A name that no plugin offers."""


class UnknownOptionError(PipelineError, TypeError):
    """An option that a registered part does not take, or one that it needs and did not get."""


class PluginError(PipelineError, RuntimeError):
    """A plugin that breaks the rules: two that offer one name, or something that is no part."""


class WorkerError(PipelineError, RuntimeError):
    """A worker of a loader that died, gave nothing in time, or raised what cannot leave its process."""


class PlanError(PipelineError, ValueError):
    """A file that should hold a plan of batches, and is damaged or none at all."""
