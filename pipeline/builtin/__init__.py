"""The library's own plugin: poolings without weights, and tokenizers."""

from collections.abc import Mapping

from pipeline.builtin.pools import FinalPool, FirstPool, LastPool, MaxPool, MeanPool, SumPool
from pipeline.builtin.tokenizers import bpe, byte_level, characters, whole, words
from pipeline.hooks import PoolingFactory, TokenizerFactory, hookimpl


@hookimpl
def pipeline_pools() -> Mapping[str, PoolingFactory]:
    """Return the poolings without weights, by name."""
    return {
        "final": FinalPool,
        "first": FirstPool,
        "last": LastPool,
        "max": MaxPool,
        "mean": MeanPool,
        "sum": SumPool,
    }


@hookimpl
def pipeline_tokenizers() -> Mapping[str, TokenizerFactory]:
    """Return the tokenizers, by name."""
    return {"words": words, "characters": characters, "bytes": byte_level, "bpe": bpe, "whole": whole}
