"""Whole models, composed of stages: classifiers, a matcher of pairs, two taggers and a language model."""

from typing import Literal, TypeAlias, TypedDict, cast, overload

from typing_extensions import Unpack

from pipeline.core.chain import Chain
from pipeline.core.stage import ModuleStage, Stage
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Ids, Nested, Vectors
from pipeline.data.scores import Scores, StepScores
from pipeline.data.states import MaybeCausal, Pooled, States
from pipeline.labels import Labels
from pipeline.registry import registry
from pipeline.stages.attend import Attend, AttendEarlier
from pipeline.stages.attend_output import Output
from pipeline.stages.dropout import Dropout
from pipeline.stages.each_step import EachStep
from pipeline.stages.embed import Embed
from pipeline.stages.embed_fields import EmbedFields, through
from pipeline.stages.encode import Encode
from pipeline.stages.heads import Classify, NextToken
from pipeline.stages.join import Join
from pipeline.stages.pack import Pack
from pipeline.stages.pool import Pool
from pipeline.stages.spell_words import SpelledWord
from pipeline.stages.tokenize_pair import TextPair
from pipeline.stages.word_dropout import WordDropout

Constraints: TypeAlias = Literal["bio", "bioes"]
"""The rules of spans that a head may keep: of BIO, or of BIOES and BILOU."""


class EncoderOptions(TypedDict, total=False):
    """The options of `classifier` and `tagger`, which describe them."""

    embedding_dim: int
    hidden_size: int
    encoder: str
    attention: str | None
    dropout: float


class TaggerOptions(EncoderOptions, total=False):
    """The options of `tagger`, which describes them."""

    head: str
    constraints: Constraints | None


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
    states = _make_encoder(num_embeddings, embedding_dim, hidden_size, encoder, attention, dropout)
    pooled = states >> Pool(pooling) >> Dropout(dropout)
    # Two equal calls: each selects another overload of Classify, and so another type of prediction.
    return pooled >> Classify(classes) if isinstance(classes, int) else pooled >> Classify(classes)


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
    first = _make_reader(*sizes, encoder, attention, pooling, dropout)
    second = first if shared else _make_reader(*sizes, encoder, attention, pooling, dropout)
    compared = Pack(TextPair) >> Join(TextPair.first >> first, TextPair.second >> second, how="compare")
    pairs = compared >> Dropout(dropout)
    return pairs >> Classify(classes) if isinstance(classes, int) else pairs >> Classify(classes)


@overload
def tagger(
    num_embeddings: int, classes: int, **options: Unpack[TaggerOptions]
) -> Chain[Padded[Ids], StepScores[int]]: ...
@overload
def tagger(
    num_embeddings: int, classes: Labels, **options: Unpack[TaggerOptions]
) -> Chain[Padded[Ids], StepScores[str]]: ...
def tagger(
    num_embeddings: int,
    classes: int | Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 128,
    encoder: str = "bilstm",
    attention: str | None = None,
    dropout: float = 0.0,
    head: str = "tag",
    constraints: Constraints | None = None,
) -> Chain[Padded[Ids], StepScores[int]] | Chain[Padded[Ids], StepScores[str]]:
    """Make a model that predicts one class per step.

    Args:
        num_embeddings: the number of ids, such as `tokenize.vocab_size`.
        classes: the number of classes, or the labels; with labels, predictions are class names.
        embedding_dim: as in `classifier`.
        hidden_size: as in `classifier`.
        encoder: as in `classifier`.
        attention: as in `classifier`.
        dropout: the dropout probability of embeddings and states.
        head: the registered name of a head that scores steps: `tag` chooses the class of each step by itself, `crf`
            those of a row together.
        constraints: the rules of spans for a head that has such an option, as `crf` has.

    Raises:
        UnknownNameError: if no plugin offers the encoder, the attention or the head.
        UnknownOptionError: if the head has no constraints.

    Example:
        >>> tagger(1_000, 17)
        Pack >> Embed >> Dropout >> Encode >> Dropout >> Tag
        >>> tagger(1_000, Labels(["O", "B-per", "I-per"]), head="crf", constraints="bio")
        Pack >> Embed >> Dropout >> Encode >> Dropout >> CRF
    """
    states = _make_encoder(num_embeddings, embedding_dim, hidden_size, encoder, attention, dropout) >> Dropout(dropout)
    if isinstance(classes, int):
        return states >> _make_number_head(head, classes, constraints)
    return states >> _make_name_head(head, classes, constraints)


class CharacterTaggerOptions(TypedDict, total=False):
    """The options of `character_tagger`, which describes them."""

    embedding_dim: int
    hidden_size: int
    encoder: str
    num_layers: int
    characters: "str | Stage[Batch[Nested[Ids]], Batch[Vectors]]"
    dropout: float
    word_dropout: float
    head: str
    constraints: Constraints | None


@overload
def character_tagger(
    num_embeddings: int, num_characters: int, classes: int, **options: Unpack[CharacterTaggerOptions]
) -> Chain[Padded[SpelledWord], StepScores[int]]: ...
@overload
def character_tagger(
    num_embeddings: int, num_characters: int, classes: Labels, **options: Unpack[CharacterTaggerOptions]
) -> Chain[Padded[SpelledWord], StepScores[str]]: ...
def character_tagger(
    num_embeddings: int,
    num_characters: int,
    classes: int | Labels,
    *,
    embedding_dim: int = 100,
    hidden_size: int = 200,
    encoder: str = "bilstm",
    num_layers: int = 1,
    characters: str | Stage[Batch[Nested[Ids]], Batch[Vectors]] = "character_lstm",
    dropout: float = 0.5,
    word_dropout: float = 0.25,
    head: str = "tag",
    constraints: Constraints | None = None,
) -> Chain[Padded[SpelledWord], StepScores[int]] | Chain[Padded[SpelledWord], StepScores[str]]:
    """Make a model that predicts one class per word, from the words and their characters; `SpellWords` reads them.

    Args:
        num_embeddings: the number of ids of words, such as `spell.vocab_size`.
        num_characters: the number of ids of characters, such as `spell.num_characters`.
        classes: the number of classes, or the labels; with labels, predictions are class names.
        embedding_dim: the number of features of an embedded word.
        hidden_size: the number of features of an encoder's state, in each direction.
        encoder: the registered name of an encoder.
        num_layers: the number of layers of the encoder.
        characters: an embedder of characters, such as `CharacterLSTM(num_characters, hidden_size=100)`, or the
            registered name of one, which then has the sizes of its paper: `character_lstm`, `character_cnn`, or a
            plugin's.
        dropout: the dropout probability of embeddings and states.
        word_dropout: the probability with which a word is replaced by the unknown one in training. Its characters stay.
        head: as in `tagger`.
        constraints: as in `tagger`.

    Raises:
        UnknownNameError: if no plugin offers the encoder, the embedder of characters, or the head.
        UnknownOptionError: if the head has no constraints.

    Source: Lample et al. 2016, "Neural Architectures for Named Entity Recognition", arXiv:1603.01360; with `head="crf"`
    their model.

    Example:
        >>> character_tagger(1_000, 80, 17)
        Pack >> EmbedFields >> Dropout >> Encode >> Dropout >> Tag
    """
    word = WordDropout(word_dropout) >> Embed(num_embeddings, embedding_dim, init="uniform")
    if isinstance(characters, str):
        made = registry().embedders.make(characters, num_embeddings=num_characters)
        characters = cast("Stage[Batch[Nested[Ids]], Batch[Vectors]]", made)
    fields = EmbedFields(SpelledWord, word=through(word), characters=through(characters))
    states = (
        Pack(SpelledWord)
        >> fields
        >> Dropout(dropout)
        >> Encode(encoder, hidden_size=hidden_size, num_layers=num_layers)
        >> Dropout(dropout)
    )
    if isinstance(classes, int):
        return states >> _make_number_head(head, classes, constraints)
    return states >> _make_name_head(head, classes, constraints)


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


def _make_encoder(
    num_embeddings: int, embedding_dim: int, hidden_size: int, encoder: str, attention: str | None, dropout: float
) -> Chain[Padded[Ids], States[MaybeCausal]]:
    embedded = Pack() >> Embed(num_embeddings, embedding_dim) >> Dropout(dropout)
    states = embedded >> Encode(encoder, hidden_size=hidden_size)
    return states if attention is None else states >> Attend(attention)


def _make_reader(
    num_embeddings: int,
    embedding_dim: int,
    hidden_size: int,
    encoder: str,
    attention: str | None,
    pooling: str,
    dropout: float,
) -> Chain[Batch[Ids], Pooled]:
    states = Embed(num_embeddings, embedding_dim) >> Dropout(dropout) >> Encode(encoder, hidden_size=hidden_size)
    return (states if attention is None else states >> Attend(attention)) >> Pool(pooling)


# Of a registered head, a checker does not know what it returns: the stage before it checks that it takes states, and a
# head of other predictions is wrong here.


def _make_number_head(
    head: str, classes: int, constraints: Constraints | None
) -> ModuleStage[States[MaybeCausal], StepScores[int]]:
    made: object = registry().heads.make(head, classes=classes, **_get_options(constraints))
    return cast("ModuleStage[States[MaybeCausal], StepScores[int]]", made)


def _make_name_head(
    head: str, classes: Labels, constraints: Constraints | None
) -> ModuleStage[States[MaybeCausal], StepScores[str]]:
    made: object = registry().heads.make(head, classes=classes, **_get_options(constraints))
    return cast("ModuleStage[States[MaybeCausal], StepScores[str]]", made)


def _get_options(constraints: Constraints | None) -> dict[str, object]:
    return {} if constraints is None else {"constraints": constraints}
