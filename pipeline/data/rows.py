"""One sequence at a time: what a user hands in, and what it becomes on its way to a batch."""

from collections.abc import Sequence
from typing import Final, Generic, Self

import attrs
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import TypeIs, TypeVar, override

from pipeline.data.lists import alone
from pipeline.errors import TextError
from pipeline.labels import Target


class Kind:
    """What the steps of a sequence are: `Ids`, `Vectors` or `Hidden`."""


@attrs.frozen(eq=False)
class Ids(Kind):
    """Numbered tokens.

    Attributes:
        values: one id a step.
        offsets: where each token stands in its text, as start and end in characters; a token
            that the text does not hold (bos, eos) has an empty span.
    """

    values: Int64[Tensor, " time"]
    offsets: Int64[Tensor, "time 2"] | None = None

    @override
    def __reduce__(self) -> tuple[type[Self], tuple[Tensor, Tensor | None]]:
        # A part of a larger tensor would be pickled, or deeply copied, with all of that.
        return type(self), (alone(self.values), None if self.offsets is None else alone(self.offsets))


@attrs.frozen(eq=False)
class Hidden(Kind):
    """Vectors whose steps may have seen others of their row: what an encoder or an attention gave."""

    values: Float[Tensor, "time feature"]


@attrs.frozen(eq=False)
class Vectors(Hidden):
    """Feature vectors: frames of sound, readings of sensors, embedded tokens.

    A step has seen no other, so these are taken wherever hidden vectors are, and not the other way round:
    what reads them in one direction is causal.
    """


K = TypeVar("K", bound=Kind)
K_co = TypeVar("K_co", bound=Kind, covariant=True)
X_co = TypeVar("X_co", covariant=True)

FILLER: Final = -1
"""The place of a row that stands for none of the input: it has no steps, and fills a batch up to its shape."""


@attrs.frozen(eq=False)
class Example(Generic[X_co]):
    """An input and, in training, its target.

    Example:
        >>> Example("a fine film", target="positive").target
        'positive'
    """

    input: X_co
    target: Target = None


@attrs.frozen(eq=False)
class Row(Generic[K_co]):
    """A sequence on its way to a batch.

    Attributes:
        sequence: the steps.
        target: as in the example that it came from; a class a step has one entry a step.
        place: where it stood in the input, from 0.
        asked: the steps of which an answer is wanted; None means all. The steps that a
            tokenizer adds (bos, eos, later pieces of a split word) are not asked.
        begin: where in its row the sequence begins: above 0 for a later part of a row that was cut.
    """

    sequence: K_co
    target: Target = None
    row_id: int = 0
    answer_mask: Sequence[bool] | None = None
    start_step: int = 0

    def __len__(self) -> int:
        return values_of(self.sequence).size(0)


def values_of(sequence: Kind) -> Tensor:
    """The tensor of a sequence of either kind, time first."""
    assert isinstance(sequence, Ids | Hidden)
    return sequence.values


def is_row(value: object) -> TypeIs[Row[Kind]]:
    """Whether something is a row."""
    return isinstance(value, Row)


def refuse_text(inputs: object) -> None:
    """Refuse one text where many inputs are meant: a type checker lets it pass, since its letters are texts too.

    Raises:
        TextError: if it is a text.
    """
    if isinstance(inputs, str):
        msg = (
            f"inputs must be many, but one text arrived, {inputs[:40]!r}, and its letters would be taken for them; "
            "pass [text]."
        )
        raise TextError(msg)
