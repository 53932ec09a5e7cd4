"""Engines of the recurrent encoders: different ways to compute the same numbers."""

from pipeline_recurrent.engines.choose import ENGINES, EngineName, choose_engine, describe_engines
from pipeline_recurrent.engines.engine import (
    Cell,
    Engine,
    LayeredEngine,
    LayerInputs,
    LayerOutputs,
    StackInputs,
    Weights,
)

__all__ = [
    "ENGINES",
    "Cell",
    "Engine",
    "EngineName",
    "LayerInputs",
    "LayerOutputs",
    "LayeredEngine",
    "StackInputs",
    "Weights",
    "choose_engine",
    "describe_engines",
]
