"""Inference with fixed weights: arranged once for the kernels, in float32, bfloat16 or int8."""

from pipeline_recurrent.frozen.inference import Inference, explain_unfit
from pipeline_recurrent.frozen.stack import FrozenStack

__all__ = ["FrozenStack", "Inference", "explain_unfit"]
