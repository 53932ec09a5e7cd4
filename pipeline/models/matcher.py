"""A model that predicts one class per pair of texts."""

from typing import overload

from typing_extensions import Unpack

from pipeline.core.chain import Chain
from pipeline.data.batches import Padded
from pipeline.data.scores import Scores
from pipeline.labels import Labels
from pipeline.models.classifier import ClassifierOptions
from pipeline.models.encoder import make_reader
from pipeline.stages.dropout import Dropout
from pipeline.stages.heads import Classify
from pipeline.stages.join import Join
from pipeline.stages.pack import Pack
from pipeline.stages.tokenize_pair import TextPair


class MatcherOptions(ClassifierOptions, total=False):
    """The options of `matcher`, which describes them."""

    shared: bool


@overload
def matcher(
    num_embeddings: int, classes: int, **options: Unpack[MatcherOptions]
) -> Chain[Padded[TextPair], Scores[int]]: ...
@overload
def matcher(
    num_embeddings: int, classes: Labels, **options: Unpack[MatcherOptions]
) -> Chain[Padded[TextPair], Scores[str]]: ...
def matcher(
    num_embeddings: int,
    classes: int | Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    attention: str | None = None,
    pooling: str = "max",
    dropout: float = 0.0,
    shared: bool = True,
) -> Chain[Padded[TextPair], Scores[int]] | Chain[Padded[TextPair], Scores[str]]:
    """Make a model that predicts one class per pair of texts, such as entailment or paraphrase.

    Each text becomes a vector; u, v, |u - v| and u * v are classified.

    Args:
        num_embeddings: the number of ids, such as `tokenize.vocab_size`.
        classes: the number of classes, or the labels; with labels, predictions are class names.
        embedding_dim: as in `classifier`.
        hidden_size: as in `classifier`.
        encoder: as in `classifier`.
        attention: as in `classifier`.
        pooling: as in `classifier`.
        dropout: the dropout probability of embeddings and compared vectors.
        shared: whether both texts are read with the same weights.

    Source: Conneau et al. 2017, "Supervised Learning of Universal Sentence Representations", arXiv:1705.02364. They
    classify with a hidden layer of 512 features more.

    Example:
        >>> matcher(1_000, Labels(["no", "yes"]))
        Pack >> Join >> Dropout >> Classify
    """
    sizes = (num_embeddings, embedding_dim, hidden_size)
    first = make_reader(*sizes, encoder, attention, pooling, dropout)
    second = first if shared else make_reader(*sizes, encoder, attention, pooling, dropout)
    compared = Pack(TextPair) >> Join(TextPair.first >> first, TextPair.second >> second, how="compare")
    pairs = compared >> Dropout(dropout)
    return pairs >> Classify(classes) if isinstance(classes, int) else pairs >> Classify(classes)
