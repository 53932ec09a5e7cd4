"""The native engine: recurrent layers through kernels compiled for this machine, where that was possible."""

from pipeline_recurrent.engines.run import Cell, Weights
from pipeline_recurrent.native.library import UnavailableError, available, instructions
from pipeline_recurrent.native.recurrence import layer

__all__ = ["Cell", "UnavailableError", "Weights", "available", "instructions", "layer"]
