"""Run the folder: `python docs/examples/highlight`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # Python puts this folder itself on the path; the package `highlight` is found in the folder above it.
    sys.path[0] = str(Path(__file__).parents[1])
    sys.exit(import_module("highlight.run").main(sys.argv[1:]))
