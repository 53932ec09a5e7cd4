"""Whole models: stages composed as anyone would compose them."""

from typing import overload

from pipeline.core.chain import Chain
from pipeline.data.batches import Padded
from pipeline.data.rows import Ids
from pipeline.data.scores import Scores, StepScores
from pipeline.labels import Labels
from pipeline.stages.attend import AttendEarlier
from pipeline.stages.dropout import Dropout
from pipeline.stages.embed import Embed
from pipeline.stages.encode import Encode
from pipeline.stages.heads import Classify, NextToken, Tag
from pipeline.stages.pack import Pack
from pipeline.stages.pool import Pool


@overload
def classifier(
    num_embeddings: int,
    classes: int,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    pooling: str = "max",
    dropout: float = 0.0,
) -> Chain[Padded[Ids], Scores[int]]: ...
@overload
def classifier(
    num_embeddings: int,
    classes: Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    pooling: str = "max",
    dropout: float = 0.0,
) -> Chain[Padded[Ids], Scores[str]]: ...
def classifier(
    num_embeddings: int,
    classes: int | Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    pooling: str = "max",
    dropout: float = 0.0,
) -> Chain[Padded[Ids], Scores[int]] | Chain[Padded[Ids], Scores[str]]:
    """A class for every row.

    Example:
        >>> classifier(1_000, Labels(["ham", "spam"]))
        Pack >> Embed >> Dropout >> Encode >> Pool >> Dropout >> Classify
    """
    states = (
        Pack() >> Embed(num_embeddings, embedding_dim) >> Dropout(dropout) >> Encode(encoder, hidden_size=hidden_size)
    )
    pooled = states >> Pool(pooling) >> Dropout(dropout)
    return pooled >> Classify(classes) if isinstance(classes, int) else pooled >> Classify(classes)


@overload
def tagger(
    num_embeddings: int,
    classes: int,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    dropout: float = 0.0,
) -> Chain[Padded[Ids], StepScores[int]]: ...
@overload
def tagger(
    num_embeddings: int,
    classes: Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    dropout: float = 0.0,
) -> Chain[Padded[Ids], StepScores[str]]: ...
def tagger(
    num_embeddings: int,
    classes: int | Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    dropout: float = 0.0,
) -> Chain[Padded[Ids], StepScores[int]] | Chain[Padded[Ids], StepScores[str]]:
    """A class for every step.

    Example:
        >>> tagger(1_000, 17)
        Pack >> Embed >> Dropout >> Encode >> Dropout >> Tag
    """
    states = (
        Pack() >> Embed(num_embeddings, embedding_dim) >> Dropout(dropout) >> Encode(encoder, hidden_size=hidden_size)
    )
    dropped = states >> Dropout(dropout)
    return dropped >> Tag(classes) if isinstance(classes, int) else dropped >> Tag(classes)


def language_model(
    num_embeddings: int,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "lstm",
    attention: str = "general",
    dropout: float = 0.0,
    tied: bool = False,
) -> Chain[Padded[Ids], StepScores[int]]:
    """The next token of every step, from a context that attends over all earlier states.

    Args:
        num_embeddings: how many tokens there are.
        embedding_dim: features of an embedded token.
        hidden_size: features of a state; equal to `embedding_dim` for tied weights.
        encoder: the name of a causal encoder.
        attention: the name of an attention.
        dropout: on embeddings and on contexts.
        tied: whether the scores share the embedding's weights.

    Raises:
        CompositionError: if the encoder is not causal, or tied sizes differ.

    Example:
        >>> language_model(1_000)
        Pack >> Embed >> Dropout >> Encode >> AttendEarlier >> Dropout >> NextToken
    """
    embed = Embed(num_embeddings, embedding_dim)
    states = Pack() >> embed >> Dropout(dropout) >> Encode(encoder, causal=True, hidden_size=hidden_size)
    return states >> AttendEarlier(attention) >> Dropout(dropout) >> NextToken(embed if tied else num_embeddings)
