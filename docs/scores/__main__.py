"""Run the folder as a program: `python docs/scores NAME FOLDER`."""

import sys
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":
    # `python docs/scores` puts the folder itself on the path. The package `scores` is found from its parent.
    sys.path[0] = str(Path(__file__).parents[1])
    sys.exit(import_module("scores.command").main(sys.argv[1:]))
