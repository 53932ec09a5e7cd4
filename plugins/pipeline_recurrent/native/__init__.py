"""Compiled kernels for recurrent layers: compiling, finding and loading them. `engines/native.py` calls them."""

from pipeline_recurrent.native.library import UnavailableError, available, instructions

__all__ = ["UnavailableError", "available", "instructions"]
