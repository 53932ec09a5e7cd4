"""A model that predicts the next token of every step."""

from pipeline.core.chain import Chain
from pipeline.data.batches import Padded
from pipeline.data.kinds import Ids
from pipeline.data.scores import StepScores
from pipeline.stages.attend_earlier import AttendEarlier
from pipeline.stages.attend_output import Output
from pipeline.stages.dropout import Dropout
from pipeline.stages.embed import Embed
from pipeline.stages.encode import Encode
from pipeline.stages.heads import NextToken
from pipeline.stages.pack import Pack


def language_model(
    num_embeddings: int,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "lstm",
    attention: str | None = "general",
    output: Output = "tanh",
    dropout: float = 0.0,
    tied: bool = False,
) -> Chain[Padded[Ids], StepScores[int]]:
    """Make a model that predicts the next token of every step, from its state and the earlier states of its row.

    Args:
        num_embeddings: the number of tokens, such as `tokenize.vocab_size`.
        embedding_dim: the number of features of an embedded token.
        hidden_size: the number of features of a state; equal to `embedding_dim` if weights are tied.
        encoder: the registered name of a causal encoder.
        attention: the registered name of an attention, by which each state attends to all earlier ones; None for none.
        output: what predicts the next token: the context alone (`"context"`), or context and state (`"concat"`,
            `"tanh"`), as for `AttendEarlier`. A context alone does not know the newest token, and is far worse.
        dropout: the dropout probability of embeddings and of what predicts the next token.
        tied: whether the scores share the embedding's weights.

    Raises:
        CompositionError: if the encoder is not causal, or tied sizes differ; with `output="concat"` they do.
        OptionError: if `output` is another word.

    Example:
        >>> language_model(1_000)
        Pack >> Embed >> Dropout >> Encode >> AttendEarlier >> Dropout >> NextToken
        >>> language_model(1_000, attention=None)
        Pack >> Embed >> Dropout >> Encode >> Dropout >> NextToken
    """
    embed = Embed(num_embeddings, embedding_dim)
    states = Pack() >> embed >> Dropout(dropout) >> Encode(encoder, causal=True, hidden_size=hidden_size)
    # Given the embedding instead of a number, NextToken scores with its weights.
    head = NextToken(embed if tied else num_embeddings)
    if attention is None:
        return states >> Dropout(dropout) >> head
    return states >> AttendEarlier(attention, output=output) >> Dropout(dropout) >> head
