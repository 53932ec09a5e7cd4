"""The stages that whole models share: from ids to states, and on to one vector per row."""

from typing import TypedDict

from pipeline.core.chain import Chain
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Ids
from pipeline.data.states import MaybeCausal, Pooled, States
from pipeline.stages.attend import Attend
from pipeline.stages.dropout import Dropout
from pipeline.stages.embed import Embed
from pipeline.stages.encode import Encode
from pipeline.stages.pack import Pack
from pipeline.stages.pool import Pool


class EncoderOptions(TypedDict, total=False):
    """The options of `classifier` and `tagger`, which describe them."""

    embedding_dim: int
    hidden_size: int
    encoder: str
    attention: str | None
    dropout: float


def make_encoder(
    num_embeddings: int, embedding_dim: int, hidden_size: int, encoder: str, attention: str | None, dropout: float
) -> Chain[Padded[Ids], States[MaybeCausal]]:
    """Return the stages from padded ids to states."""
    embedded = Pack() >> Embed(num_embeddings, embedding_dim) >> Dropout(dropout)
    states = embedded >> Encode(encoder, hidden_size=hidden_size)
    return states if attention is None else states >> Attend(attention)


def make_reader(
    num_embeddings: int,
    embedding_dim: int,
    hidden_size: int,
    encoder: str,
    attention: str | None,
    pooling: str,
    dropout: float,
) -> Chain[Batch[Ids], Pooled]:
    """Return the stages from ids to one vector per row."""
    states = Embed(num_embeddings, embedding_dim) >> Dropout(dropout) >> Encode(encoder, hidden_size=hidden_size)
    return (states if attention is None else states >> Attend(attention)) >> Pool(pooling)
