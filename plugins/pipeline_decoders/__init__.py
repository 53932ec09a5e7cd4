"""Decoders: recurrent and transformer, with cross-attention; and masked-token pretraining."""

from collections.abc import Mapping

from pipeline.extend import HeadFactory, StageFactory, hookimpl
from pipeline_decoders.mask_tokens import MaskTokens
from pipeline_decoders.masked_token import MaskedToken
from pipeline_decoders.recurrent_decoder import RecurrentDecoder
from pipeline_decoders.text_decoder import SearchOptions, TextDecoder
from pipeline_decoders.transformer_decoder import TransformerDecoder

__all__ = [
    "MaskTokens",
    "MaskedToken",
    "RecurrentDecoder",
    "SearchOptions",
    "TextDecoder",
    "TransformerDecoder",
    "pipeline_heads",
    "pipeline_stages",
]


@hookimpl
def pipeline_stages() -> Mapping[str, StageFactory]:
    """Offer the stages of this package, by name."""
    return {"mask_tokens": MaskTokens}


@hookimpl
def pipeline_heads() -> Mapping[str, HeadFactory]:
    """Offer the heads of this package, by name."""
    return {
        "masked_token": MaskedToken,
        "recurrent_decoder": RecurrentDecoder,
        "transformer_decoder": TransformerDecoder,
    }
