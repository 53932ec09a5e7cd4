"""Run as a folder: `python docs/bench NAME...`."""

import os
import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # Python puts the folder that it runs on the path; what is imported is the package that the folder is.
    sys.path[0] = str(Path(__file__).parents[1])
    # Torch's profiler, which counts memory, reads this as it is loaded, and otherwise tells of every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    sys.exit(import_module("bench.command").main(sys.argv[1:]))
