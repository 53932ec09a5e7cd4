"""What all tests share."""

import multiprocessing
import os
from importlib.util import find_spec

import pytest
from hypothesis import settings

# Files that are checked, never run.
collect_ignore_glob = ["typing/[!t]*.py"]

# Processes that are forked from a server share its imports: torch's takes seconds.
multiprocessing.set_forkserver_preload(["torch", "beartype", "jaxtyping"])

# pytest-xdist sets it in its processes: commands would then cut their tables to the width of a terminal.
os.environ.pop("COLUMNS", None)

# On a busy machine a slow draw is no failure. The same examples are tried each time, and others in the long session.
settings.register_profile("same", deadline=None, max_examples=30, derandomize=True)
settings.register_profile("long", deadline=None, max_examples=200)
settings.load_profile("long" if os.environ.get("PIPELINE_TESTS_LONG") else "same")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip slow tests, and those whose optional packages are missing, except in the session that runs them."""
    if os.environ.get("PIPELINE_TESTS_EXTRAS") == "1":
        return
    for item in items:
        missing = [name for mark in item.iter_markers("extras") for name in mark.args if find_spec(name) is None]
        if missing:
            reason = f"{', '.join(missing)} not installed; `nox -s extras` has all"
            item.add_marker(pytest.mark.skip(reason=reason))
        elif item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.skip(reason="takes many seconds; `nox -s extras` runs it"))
