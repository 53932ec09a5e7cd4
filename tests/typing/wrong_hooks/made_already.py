"""A module whose hooks give parts, not what makes them."""

from collections.abc import Mapping

from pipeline import Attention, Encoder, MaybeCausal
from pipeline_attention import Dot
from pipeline_recurrent import LSTM


def pipeline_encoders() -> Mapping[str, Encoder[MaybeCausal]]:
    """Offer one encoder, which all models would share."""
    return {"lstm": LSTM(3, 4)}


def pipeline_attentions() -> Mapping[str, Attention]:
    """Offer one attention, which all models would share."""
    return {"dot": Dot(3)}
