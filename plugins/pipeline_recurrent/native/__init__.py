"""Compiled kernels for recurrent layers: compiling, finding and loading them.

`engines/native.py` and `scan_layer.py` call them.
"""

from pipeline.native import UnavailableError
from pipeline_recurrent.native.library import available, instructions

__all__ = ["UnavailableError", "available", "instructions"]
