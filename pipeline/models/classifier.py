"""A model that predicts one class per row."""

from typing import overload

from typing_extensions import Unpack

from pipeline.core.chain import Chain
from pipeline.data.batches import Padded
from pipeline.data.kinds import Ids
from pipeline.data.scores import Scores
from pipeline.labels import Labels
from pipeline.models.encoder import EncoderOptions, make_encoder
from pipeline.stages.dropout import Dropout
from pipeline.stages.heads import Classify
from pipeline.stages.pool import Pool


class ClassifierOptions(EncoderOptions, total=False):
    """The options of `classifier`, which describes them."""

    pooling: str


@overload
def classifier(
    num_embeddings: int, classes: int, **options: Unpack[ClassifierOptions]
) -> Chain[Padded[Ids], Scores[int]]: ...
@overload
def classifier(
    num_embeddings: int, classes: Labels, **options: Unpack[ClassifierOptions]
) -> Chain[Padded[Ids], Scores[str]]: ...
def classifier(
    num_embeddings: int,
    classes: int | Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    attention: str | None = None,
    pooling: str = "max",
    dropout: float = 0.0,
) -> Chain[Padded[Ids], Scores[int]] | Chain[Padded[Ids], Scores[str]]:
    """Make a model that predicts one class per row.

    Args:
        num_embeddings: the number of ids, such as `tokenize.vocab_size`.
        classes: the number of classes, or the labels; with labels, predictions are class names.
        embedding_dim: the number of features of an embedded id.
        hidden_size: the number of features of an encoder's state, in each direction.
        encoder: the registered name of an encoder.
        attention: the registered name of an attention, by which each state attends to all states; None for none.
        pooling: the registered name of a pooling.
        dropout: the dropout probability of embeddings and pooled vectors.

    Example:
        >>> classifier(1_000, Labels(["ham", "spam"]))
        Pack >> Embed >> Dropout >> Encode >> Pool >> Dropout >> Classify
    """
    states = make_encoder(num_embeddings, embedding_dim, hidden_size, encoder, attention, dropout)
    pooled = states >> Pool(pooling) >> Dropout(dropout)
    # Two equal calls: each selects another overload of Classify, and so another type of prediction.
    return pooled >> Classify(classes) if isinstance(classes, int) else pooled >> Classify(classes)
