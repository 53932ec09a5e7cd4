"""What all tests share."""

import multiprocessing
import os

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
