"""What may be absent where tests run: skipped with its reason, and a failure in the session that is made to have it."""

import os
from importlib.util import find_spec

import pytest


def needs(*packages: str) -> pytest.MarkDecorator:
    """Mark tests that need optional packages.

    Without them, the tests are skipped; where `PIPELINE_TESTS_EXTRAS` is 1, as in the session `extras`, they run, and
    fail.
    """
    absent = [package for package in packages if find_spec(package) is None]
    is_made_for_it = os.environ.get("PIPELINE_TESTS_EXTRAS") == "1"
    return pytest.mark.skipif(
        bool(absent) and not is_made_for_it, reason=f"{', '.join(absent)} not installed; `nox -s extras` has all"
    )
