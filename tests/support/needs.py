"""Mark slow tests, and tests that need optional packages: only the session `extras` runs them, and nothing else.

The hook that skips them elsewhere is in tests/conftest.py.
"""

from collections.abc import Container, Iterable

import pytest

from pipeline_recurrent.native import available

SLOW = pytest.mark.slow
"""Marks a test that takes seconds, and whose faster relatives show nearly the same."""

KERNELS = pytest.mark.skipif(available() is not None, reason=f"needs the compiled kernels: {available()}")
"""Marks a test of recurrent encoders that must give the same bits in every batch."""


def mark_slow(names: Iterable[str], *, quick: Container[str]) -> list[object]:
    """Return names as parameters of a test, all but the quick ones marked as slow."""
    return [pytest.param(name, marks=() if name in quick else SLOW) for name in names]


def needs(*packages: str) -> pytest.MarkDecorator:
    """Mark a test that needs optional packages.

    It is skipped where they are missing. In the session `extras` it runs, and fails without them.
    """
    return pytest.mark.extras(*packages)
