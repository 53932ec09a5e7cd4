"""The engines behind the recurrent encoders: different ways to the same numbers."""

from pipeline_recurrent.engines.choose import ENGINES, EngineName, chosen
from pipeline_recurrent.engines.engine import Engine, Layered
from pipeline_recurrent.engines.run import Answer, Cell, Run, Weights

__all__ = ["ENGINES", "Answer", "Cell", "Engine", "EngineName", "Layered", "Run", "Weights", "chosen"]
