"""Compile the kernels of a folder in place: `python -m pipeline.native FOLDER`."""

import sys
from pathlib import Path

from pipeline.native.compile import compile_in_place

if len(sys.argv) < 2:
    sys.exit("usage: python -m pipeline.native FOLDER")
sys.exit(compile_in_place(Path(sys.argv[1]), sys.argv[2:]))
