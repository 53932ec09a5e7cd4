"""A module whose hooks give parts, not what makes them."""

from collections.abc import Mapping

from pipeline import Attention, Encoder, Sight
from pipeline_attention import Dot
from pipeline_recurrent import LSTM


def pipeline_encoders() -> Mapping[str, Encoder[Sight]]:
    """Offer one encoder, which all models would share."""
    return {"lstm": LSTM(3, 4)}


def pipeline_attentions() -> Mapping[str, Attention]:
    """Offer one attention, which all models would share."""
    return {"dot": Dot(3)}
