"""Mark tests whose workers die."""

import gc
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import pytest

P = ParamSpec("P")


def kills_workers(test: Callable[P, None]) -> Callable[P, None]:
    """Mark a test whose workers die.

    A death is reported by a signal handler, which may interrupt torch while it opens a file. Nobody closes that file.
    The garbage collector warns of it: here, so that it does not happen in a later test.
    """

    @wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            test(*args, **kwargs)
        finally:
            gc.collect()

    return pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")(run)
