"""The native engine: recurrent layers through kernels compiled for this machine, where that was possible."""

from pipeline_recurrent.native.library import UnavailableError, available
from pipeline_recurrent.native.plan import Cell
from pipeline_recurrent.native.recurrence import Weights, layer

__all__ = ["Cell", "UnavailableError", "Weights", "available", "layer"]
