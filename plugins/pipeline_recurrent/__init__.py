"""Recurrent encoders over packed rows: LSTM, GRU, plain RNN; and minGRU, minLSTM and LRU by a parallel scan."""

from collections.abc import Mapping

try:
    from pipeline.extend import EmbedderFactory, EncoderFactory, EngineFactory, Status, hookimpl
except ModuleNotFoundError as _error:
    if _error.name != "pipeline.extend":
        raise
    import pipeline

    _found = pipeline.__file__ or pipeline.__path__
    _message = f"`pipeline` must be the library ragged-pipeline, got {_found}; rename that file or folder."
    raise ImportError(_message) from _error
from pipeline_recurrent.encoders import GRU, LSTM, RNN, bigru, bilstm
from pipeline_recurrent.engines import ENGINES, EngineName, describe_engines
from pipeline_recurrent.lru import LRU, Mix
from pipeline_recurrent.merge import Merge
from pipeline_recurrent.min_rnn import Candidate, MinGRU, MinLSTM
from pipeline_recurrent.precompute import precompute_inputs
from pipeline_recurrent.restarts import MarkRestarts, Restarting

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "RNN",
    "Candidate",
    "EngineName",
    "MarkRestarts",
    "Merge",
    "MinGRU",
    "MinLSTM",
    "Mix",
    "Restarting",
    "bigru",
    "bilstm",
    "pipeline_embedders",
    "pipeline_encoders",
    "pipeline_engines",
    "pipeline_status",
    "precompute_inputs",
]


@hookimpl
def pipeline_encoders() -> Mapping[str, EncoderFactory]:
    """Offer the encoders of this package, by name."""
    gated: dict[str, EncoderFactory] = {"lstm": LSTM, "gru": GRU, "bilstm": bilstm, "bigru": bigru, "rnn": RNN}
    return {**gated, "min_gru": MinGRU, "min_lstm": MinLSTM, "lru": LRU, "restarting": Restarting}


@hookimpl
def pipeline_embedders() -> Mapping[str, EmbedderFactory]:
    """Offer the embedders of this package, by name."""
    return {"mark_restarts": MarkRestarts}


@hookimpl
def pipeline_engines() -> Mapping[str, EngineFactory]:
    """Offer the engines of this package, by name."""
    return {name: type(engine) for name, engine in ENGINES.items()}


@hookimpl
def pipeline_status() -> Mapping[str, Status]:
    """Report which engines compute on this machine, and why."""
    return {"recurrent engines": describe_engines}
