"""Run the folder as a program: `python docs/bench NAME...`."""

import os
import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # `python docs/bench` puts the folder itself on the path. The package `bench` is found from its parent.
    sys.path[0] = str(Path(__file__).parents[1])
    # The profiler that measures peak memory reads this once, when torch is imported; it logs every start otherwise.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    sys.exit(import_module("bench.command").main(sys.argv[1:]))
