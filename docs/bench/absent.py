"""A candidate that is not there."""


class AbsentError(Exception):
    """A package that is needed for a candidate is not installed; the message says how to get it."""
