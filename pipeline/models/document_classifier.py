"""A model that predicts one class per document of sentences."""

from typing import overload

from typing_extensions import Unpack

from pipeline.core.chain import Chain
from pipeline.core.stage import Stage
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Ids, Nested
from pipeline.data.scores import Scores
from pipeline.data.states import Pooled
from pipeline.labels import Labels
from pipeline.models.encoder import EncoderOptions
from pipeline.stages.attend import Attend
from pipeline.stages.dropout import Dropout
from pipeline.stages.each_step import EachStep
from pipeline.stages.embed import Embed
from pipeline.stages.encode import Encode
from pipeline.stages.heads import Classify
from pipeline.stages.pack import Pack
from pipeline.stages.pool import Pool


class DocumentOptions(EncoderOptions, total=False):
    """The options of `document_classifier`, which describes them."""

    pooling: str
    sentence_hidden_size: int | None


@overload
def document_classifier(
    num_embeddings: int, classes: int, **options: Unpack[DocumentOptions]
) -> Chain[Padded[Nested[Ids]], Scores[int]]: ...
@overload
def document_classifier(
    num_embeddings: int, classes: Labels, **options: Unpack[DocumentOptions]
) -> Chain[Padded[Nested[Ids]], Scores[str]]: ...
def document_classifier(
    num_embeddings: int,
    classes: int | Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 50,
    sentence_hidden_size: int | None = None,
    encoder: str = "bigru",
    attention: str | None = None,
    pooling: str = "attention",
    dropout: float = 0.0,
) -> Chain[Padded[Nested[Ids]], Scores[int]] | Chain[Padded[Nested[Ids]], Scores[str]]:
    """Make a hierarchical attention network: it predicts one class per document, whose steps are its sentences.

    The words of each sentence are encoded and pooled to a vector, and the vectors of the sentences in the same way.

    Args:
        num_embeddings: the number of ids of words, such as `tokenize.vocab_size`.
        classes: the number of classes, or the labels; with labels, predictions are class names.
        embedding_dim: the number of features of an embedded word.
        hidden_size: the number of features of a word's state, in each direction.
        sentence_hidden_size: that of a sentence's state; by default `hidden_size`.
        encoder: the registered name of the encoder of both.
        attention: the registered name of an attention, by which each state attends to all states; None for none.
        pooling: the registered name of the pooling of both.
        dropout: the dropout probability of embeddings and of the vectors of sentences and documents.

    Source: Yang et al. 2016, "Hierarchical Attention Networks for Document Classification", NAACL,
    https://aclanthology.org/N16-1174. Their embeddings have 200 features, and start from word2vec.

    Example:
        >>> document_classifier(1_000, Labels(["ham", "spam"]))
        Pack >> EachStep >> Dropout >> Encode >> Pool >> Dropout >> Classify
    """
    words = Embed(num_embeddings, embedding_dim) >> Dropout(dropout) >> Encode(encoder, hidden_size=hidden_size)
    sentences = Encode(encoder, hidden_size=sentence_hidden_size or hidden_size)
    if attention is None:
        read: Stage[Batch[Ids], Pooled] = words >> Pool(pooling)
        encoded = Pack(Nested[Ids]) >> EachStep(read) >> Dropout(dropout) >> sentences
    else:
        read = words >> Attend(attention) >> Pool(pooling)
        encoded = Pack(Nested[Ids]) >> EachStep(read) >> Dropout(dropout) >> sentences >> Attend(attention)
    pooled = encoded >> Pool(pooling) >> Dropout(dropout)
    return pooled >> Classify(classes) if isinstance(classes, int) else pooled >> Classify(classes)
