"""Transformer encoders on packed rows."""

from collections.abc import Mapping

try:
    from pipeline.extend import EncoderFactory, Status, hookimpl
except ModuleNotFoundError as _error:
    if _error.name != "pipeline.extend":
        raise
    import pipeline

    _found = pipeline.__file__ or pipeline.__path__
    _message = f"`pipeline` must be the library ragged-pipeline, got {_found}; rename that file or folder."
    raise ImportError(_message) from _error
from pipeline_transformer.encoders import Transformer, causal_transformer
from pipeline_transformer.feed_forward import Activation
from pipeline_transformer.layer import Norm
from pipeline_transformer.native_layers import describe
from pipeline_transformer.positions import Positions

__all__ = [
    "Activation",
    "Norm",
    "Positions",
    "Transformer",
    "causal_transformer",
    "pipeline_encoders",
    "pipeline_status",
]


@hookimpl
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """Offer the encoders of this package, by name."""
    return {"transformer": Transformer, "causal_transformer": causal_transformer}


@hookimpl
def pipeline_status() -> Mapping[str, Status]:
    """Report what computes the layers of transformers on this machine, and why."""
    return {"transformer": describe}
