"""A model that predicts one class per word, from the word and its characters."""

from typing import TypedDict, cast, overload

from typing_extensions import Unpack

from pipeline.core.chain import Chain
from pipeline.core.stage import Stage
from pipeline.data.batches import Batch, Padded
from pipeline.data.kinds import Ids, Nested, Vectors
from pipeline.data.scores import StepScores
from pipeline.labels import Labels
from pipeline.models.step_head import Constraints, make_name_head, make_number_head
from pipeline.registry import registry
from pipeline.stages.dropout import Dropout
from pipeline.stages.embed import Embed
from pipeline.stages.embed_fields import EmbedFields, through
from pipeline.stages.encode import Encode
from pipeline.stages.pack import Pack
from pipeline.stages.spell_words import SpelledWord
from pipeline.stages.word_dropout import WordDropout


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
        return states >> make_number_head(head, classes, constraints)
    return states >> make_name_head(head, classes, constraints)
