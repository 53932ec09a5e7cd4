"""A module whose hook takes an argument."""

from collections.abc import Mapping

from pipeline.hooks import EncoderFactory
from pipeline_recurrent import LSTM


def pipeline_encoders(prefix: str) -> Mapping[str, EncoderFactory]:
    """Offer an encoder, by a name that depends on the caller."""
    return {f"{prefix}_lstm": LSTM}
