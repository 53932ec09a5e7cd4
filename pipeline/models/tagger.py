"""A model that predicts one class per step."""

from typing import overload

from typing_extensions import Unpack

from pipeline.core.chain import Chain
from pipeline.data.batches import Padded
from pipeline.data.kinds import Ids
from pipeline.data.scores import StepScores
from pipeline.labels import Labels
from pipeline.models.encoder import EncoderOptions, make_encoder
from pipeline.models.step_head import Constraints, make_name_head, make_number_head
from pipeline.stages.dropout import Dropout


class TaggerOptions(EncoderOptions, total=False):
    """The options of `tagger`, which describes them."""

    head: str
    constraints: Constraints | None


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
    states = make_encoder(num_embeddings, embedding_dim, hidden_size, encoder, attention, dropout) >> Dropout(dropout)
    if isinstance(classes, int):
        return states >> make_number_head(head, classes, constraints)
    return states >> make_name_head(head, classes, constraints)
