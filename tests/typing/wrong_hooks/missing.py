"""A module that implements no hook."""

from pipeline_recurrent import LSTM

__all__ = ["LSTM"]
