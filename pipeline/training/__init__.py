"""Train a pipe: the loop, optimizers, metrics, checkpoints, and adapters for other training libraries."""

from pipeline.training.compare import compare
from pipeline.training.comparison import ComparedModel, Comparison
from pipeline.training.confusion import ClassResult, Confusion
from pipeline.training.evaluation import Evaluation
from pipeline.training.history import Epoch, History
from pipeline.training.options import FitOptions
from pipeline.training.torch_metric import TorchMetric

__all__ = [
    "ClassResult",
    "ComparedModel",
    "Comparison",
    "Confusion",
    "Epoch",
    "Evaluation",
    "FitOptions",
    "History",
    "TorchMetric",
    "compare",
]
