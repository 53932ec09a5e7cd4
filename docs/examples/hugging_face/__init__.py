"""A plugin that runs encoders of Hugging Face `transformers` on packed rows; see docs/parts/hugging-face.md."""

from collections.abc import Mapping

from hugging_face.encoder import HuggingFaceEncoder
from pipeline.extend import StageFactory, hookimpl

__all__ = ["HuggingFaceEncoder", "pipeline_stages"]


@hookimpl
def pipeline_stages() -> Mapping[str, StageFactory]:
    """Offer the stage, by name."""
    return {"hugging_face": HuggingFaceEncoder}
