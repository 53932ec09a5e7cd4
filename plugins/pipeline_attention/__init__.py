"""Attention variants, and a pooling by attention."""

from collections.abc import Mapping

try:
    from pipeline.extend import AttentionFactory, PoolingFactory, StageFactory, hookimpl
except ModuleNotFoundError as _error:
    if _error.name != "pipeline.extend":
        raise
    import pipeline

    _found = pipeline.__file__ or pipeline.__path__
    _message = f"`pipeline` must be the library ragged-pipeline, got {_found}; rename that file or folder."
    raise ImportError(_message) from _error
from pipeline_attention.attentions import Additive, Concat, Dot, General, ScaledDot
from pipeline_attention.multi_head import MultiHead
from pipeline_attention.neural_cache import NeuralCache
from pipeline_attention.pools import AttentionPool, StructuredAttentionPool, VectorAttentionPool

__all__ = [
    "Additive",
    "AttentionPool",
    "Concat",
    "Dot",
    "General",
    "MultiHead",
    "NeuralCache",
    "ScaledDot",
    "StructuredAttentionPool",
    "VectorAttentionPool",
    "pipeline_attentions",
    "pipeline_pools",
    "pipeline_stages",
]


@hookimpl
def pipeline_attentions() -> Mapping[str, AttentionFactory]:
    """Offer the attentions of this package, by name."""
    return {
        "dot": Dot,
        "scaled_dot": ScaledDot,
        "general": General,
        "additive": Additive,
        "concat": Concat,
        "multi_head": MultiHead,
    }


@hookimpl
def pipeline_pools() -> Mapping[str, PoolingFactory]:
    """Offer the poolings of this package, by name."""
    return {
        "attention": AttentionPool,
        "structured_attention": StructuredAttentionPool,
        "vector_attention": VectorAttentionPool,
    }


@hookimpl
def pipeline_stages() -> Mapping[str, StageFactory]:
    """Offer the stage of this package, by name."""
    return {"neural_cache": NeuralCache}
