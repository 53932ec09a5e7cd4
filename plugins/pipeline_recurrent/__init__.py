"""Recurrent encoders: LSTM, GRU and the plain RNN over packed rows, in one direction or both."""

from collections.abc import Mapping

from pipeline.hooks import EncoderFactory, Status, hookimpl
from pipeline_recurrent.encoders import GRU, LSTM, RNN, bigru, bilstm
from pipeline_recurrent.engines import EngineName
from pipeline_recurrent.engines.status import status
from pipeline_recurrent.precompute import precompute_inputs
from pipeline_recurrent.recurrent import Merge

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "EngineName",
    "Merge",
    "bigru",
    "bilstm",
    "pipeline_encoders",
    "pipeline_status",
    "precompute_inputs",
]


@hookimpl
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """The encoders of this package, by name."""
    return {"lstm": LSTM, "gru": GRU, "bilstm": bilstm, "bigru": bigru, "rnn": RNN}


@hookimpl
def pipeline_status() -> Mapping[str, Status]:
    """Which engines compute here, and why."""
    return {"recurrent engines": status}
