"""Run the folder as a program: `python docs/court`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # `python docs/court` puts the folder itself on the path. The package `court` is found from its parent.
    sys.path[0] = str(Path(__file__).parents[1])
    sys.exit(import_module("court.command").main(sys.argv[1:]))
