"""A module whose hooks give parts of another kind."""

from collections.abc import Mapping

from pipeline.hooks import AttentionFactory, EncoderFactory
from pipeline_attention import Dot
from pipeline_recurrent import LSTM


def pipeline_encoders() -> Mapping[str, AttentionFactory]:
    """Offer an attention as an encoder."""
    return {"dot": Dot}


def pipeline_attentions() -> Mapping[str, EncoderFactory]:
    """Offer an encoder as an attention."""
    return {"lstm": LSTM}


def pipeline_pools() -> Mapping[str, AttentionFactory]:
    """Offer an attention as a pool."""
    return {"dot": Dot}
