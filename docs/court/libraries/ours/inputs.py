"""Test rows of a single tensor as the inputs of models: vectors, ids, pairs of texts, documents, spelled words."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from pipeline import Ids, Nested, SpelledWord, TextPair, Vectors
from pipeline.data.kinds import Kind

SIZE: Final = 4
"""The features of vectors, and the sizes of layers."""

COUNT: Final = 9
"""The number of ids."""


@attrs.frozen(kw_only=True)
class Inputs:
    """How test rows become the input of a model.

    Attributes:
        kind: the kind of the rows; None lets a model tell it.
        call: the expression that makes a batch, for the page.
        spread: returns the tensors of a batch by the names that an exported model has for them. It gets values, which
            are vectors (batch x time x feature) or ids (batch x time), and lengths.
        sizes: the number of features, or of ids, of each input.
        of_ids: whether the values are ids.
        nested: whether steps have rows of their own.
    """

    kind: type[Kind]
    call: str
    spread: Callable[[Tensor, Tensor], Mapping[str, Tensor]]
    sizes: Mapping[str, int]
    of_ids: bool = True
    nested: bool = False


def _spread_documents(ids: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
    """Make each id a sentence of 0 to 3 words, which depend on it."""
    return {"ids": _spell(ids), "inner_lengths": ids % 4, "lengths": lengths}


def _spread_words(ids: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
    """Let each id be a word of 0 to 3 characters, which depend on it."""
    return {"word": ids, "characters": _spell(ids), "characters_inner_lengths": ids % 4, "lengths": lengths}


def _spell(ids: Tensor) -> Tensor:
    return (ids.unsqueeze(-1) * 2 + torch.arange(3)) % COUNT


def _spread_pairs(ids: Tensor, lengths: Tensor) -> Mapping[str, Tensor]:
    """Let the second side be the ids after the first one, so that the sides differ in their lengths."""
    return {
        "first": ids,
        "first_lengths": lengths,
        "second": ids.roll(-1, 1),
        "second_lengths": (lengths - 1).clamp(min=0),
    }


VECTORS: Final = Inputs(
    kind=Vectors,
    call="Padded(Vectors, values, lengths)",
    spread=lambda values, lengths: {"vectors": values, "lengths": lengths},
    sizes={"vectors": SIZE},
    of_ids=False,
)

IDS: Final = Inputs(
    kind=Ids,
    call="Padded(Ids, ids, lengths)",
    spread=lambda ids, lengths: {"ids": ids, "lengths": lengths},
    sizes={"ids": COUNT},
)

PAIRS: Final = Inputs(
    kind=TextPair,
    call="pairs",
    spread=_spread_pairs,
    sizes={"first": COUNT, "second": COUNT},
)

_nested: Any = Nested  # a class that is subscripted by a program

DOCUMENTS: Final = Inputs(
    kind=_nested[Ids],
    call="documents",
    spread=_spread_documents,
    sizes={"ids": COUNT},
    nested=True,
)

SPELLED_WORDS: Final = Inputs(
    kind=SpelledWord,
    call="spelled_words",
    spread=_spread_words,
    sizes={"word": COUNT, "characters": COUNT},
    nested=True,
)
