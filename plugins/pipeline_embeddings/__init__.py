"""Embedders: vectors from files, characters, numbers and times, positions."""

from collections.abc import Mapping

try:
    from pipeline.extend import EmbedderFactory, StageFactory, hookimpl
except ModuleNotFoundError as _error:
    if _error.name != "pipeline.extend":
        raise
    import pipeline

    _found = pipeline.__file__ or pipeline.__path__
    _message = f"`pipeline` must be the library ragged-pipeline, got {_found}; rename that file or folder."
    raise ImportError(_message) from _error
from pipeline_embeddings.characters import CharacterCNN, CharacterLSTM
from pipeline_embeddings.coverage import Coverage
from pipeline_embeddings.embed_numbers import EmbedNumbers
from pipeline_embeddings.positions import Positions
from pipeline_embeddings.pretrained import WordVectors, list_vector_words, read_vectors
from pipeline_embeddings.standardize import Standardize
from pipeline_embeddings.times import Time2Vec, TimeSinceLast

__all__ = [
    "CharacterCNN",
    "CharacterLSTM",
    "Coverage",
    "EmbedNumbers",
    "Positions",
    "Standardize",
    "Time2Vec",
    "TimeSinceLast",
    "WordVectors",
    "list_vector_words",
    "pipeline_embedders",
    "pipeline_stages",
    "read_vectors",
]


@hookimpl
def pipeline_embedders() -> Mapping[str, EmbedderFactory]:
    """Offer the embedders of this package, by name."""
    return {
        "character_cnn": CharacterCNN,
        "character_lstm": CharacterLSTM,
        "embed_numbers": EmbedNumbers,
        "time2vec": Time2Vec,
    }


@hookimpl
def pipeline_stages() -> Mapping[str, StageFactory]:
    """Offer the stages of this package that change vectors, by name."""
    return {"positions": Positions, "standardize": Standardize, "time_since_last": TimeSinceLast}
