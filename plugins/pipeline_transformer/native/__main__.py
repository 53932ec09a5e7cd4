"""Compile the kernels in place, for a checkout: `python -m pipeline_transformer.native`."""

import sys
from pathlib import Path

from pipeline.native import compile_in_place

sys.exit(compile_in_place(Path(__file__).parent, sys.argv[1:]))
