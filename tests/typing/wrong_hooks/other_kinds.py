"""A module whose hooks give parts of other kinds than stages, heads, embedders, policies, sources, metrics, engines."""

from collections.abc import Callable, Mapping

from pipeline import Classify, Pool, Row, Vectors
from pipeline.batching import Plan
from pipeline.extend import EncoderFactory, Engine
from pipeline_recurrent import LSTM


class Fast(Engine):
    """An engine."""

    name = "fast"
    computes = "pipeline_recurrent"


def pipeline_stages() -> Mapping[str, EncoderFactory]:
    """Offer an encoder, which is no stage."""
    return {"lstm": LSTM}


def pipeline_heads() -> Mapping[str, type[Pool]]:
    """Offer a stage that returns no predictions."""
    return {"pool": Pool}


def pipeline_embedders() -> Mapping[str, type[Classify[int]]]:
    """Offer a stage that returns no vectors."""
    return {"classify": Classify[int]}


def pipeline_policies() -> Mapping[str, type[Plan]]:
    """Offer a plan."""
    return {"plan": Plan}


def pipeline_sources() -> Mapping[str, type[Row[Vectors]]]:
    """Offer a row."""
    return {"row": Row[Vectors]}


def pipeline_metrics() -> Mapping[str, Callable[[], float]]:
    """Offer a number."""
    return {"number": float}


def pipeline_engines() -> Mapping[str, Engine]:
    """Offer an engine that all encoders would share."""
    return {"fast": Fast()}
