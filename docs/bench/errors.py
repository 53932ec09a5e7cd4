"""Errors of the benchmarks."""


class MissingPackageError(Exception):
    """The package of a candidate is not installed; the message says how to install it."""


class MismatchError(Exception):
    """Two candidates do not compute the same, so that comparing their times would be meaningless."""


class LengthsError(ValueError):
    """A file of row lengths that cannot be used."""


class RecordError(ValueError):
    """A file that is not a record of a run, or has another format."""
