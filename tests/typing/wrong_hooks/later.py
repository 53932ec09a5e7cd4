"""A module whose hook must be awaited."""

from collections.abc import Mapping

from pipeline.hooks import TokenizerFactory


async def pipeline_tokenizers() -> Mapping[str, TokenizerFactory]:
    """Offer nothing yet."""
    return {}
