"""Skip tests whose optional packages are missing, and slow ones, except in the session that runs them."""

import os
from importlib.util import find_spec

import pytest

from pipeline_recurrent.native import available

SLOW = pytest.mark.skipif(
    os.environ.get("PIPELINE_TESTS_EXTRAS") != "1", reason="takes many seconds; `nox -s extras` runs it"
)
"""Marks a test whose faster relatives show nearly the same."""

KERNELS = pytest.mark.skipif(available() is not None, reason=f"needs the compiled kernels: {available()}")
"""Marks a test of recurrent encoders that must give the same bits in every batch."""


def needs(*packages: str) -> pytest.MarkDecorator:
    """Mark tests that need optional packages.

    Without the packages, the tests are skipped; if `PIPELINE_TESTS_EXTRAS` is 1, as in the session `extras`, they run
    and fail.
    """
    missing = [package for package in packages if find_spec(package) is None]
    has_extras = os.environ.get("PIPELINE_TESTS_EXTRAS") == "1"
    return pytest.mark.skipif(
        bool(missing) and not has_extras, reason=f"{', '.join(missing)} not installed; `nox -s extras` has all"
    )
