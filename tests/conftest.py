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

# On a busy machine a slow draw is no failure; in CI the same examples are tried each time.
settings.register_profile("here", deadline=None, max_examples=30)
settings.register_profile("ci", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
