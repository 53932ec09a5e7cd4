"""Convolutional encoders: `CNN` and `GatedCNN`, also causal and dilated, on rows of unequal length."""

from collections.abc import Mapping

try:
    from pipeline.extend import EncoderFactory, hookimpl
except ModuleNotFoundError as _error:
    if _error.name != "pipeline.extend":
        raise
    import pipeline

    _found = pipeline.__file__ or pipeline.__path__
    _message = f"`pipeline` must be the library ragged-pipeline, got {_found}; rename that file or folder."
    raise ImportError(_message) from _error
from pipeline_convolutional.encoders import CNN, Activation, GatedCNN, causal_cnn, causal_gated_cnn

__all__ = ["CNN", "Activation", "GatedCNN", "causal_cnn", "causal_gated_cnn", "pipeline_encoders"]


@hookimpl
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """Offer the encoders of this package, by name."""
    return {"cnn": CNN, "gated_cnn": GatedCNN, "causal_cnn": causal_cnn, "causal_gated_cnn": causal_gated_cnn}
