"""Texts to train on."""

import random
from collections.abc import Sequence
from typing import Final

import attrs

from bench.encoders.lengths import drawn
from pipeline import Example, Tokenize
from pipeline.data.order import to_ints

CLASSES: Final = 6


@attrs.frozen
class Corpus:
    """Texts and their classes, and what cuts them into words."""

    examples: Sequence[Example[str]]
    tokenize: Tokenize

    @classmethod
    def of(cls, rows: int, words: int) -> "Corpus":
        """Words as common as their rank says (Zipf), in rows as long as sentences; the same at every call."""
        draw, ranks = random.Random(0), range(1, words + 1)
        names, weights = [f"word{rank}" for rank in ranks], [1 / rank for rank in ranks]
        texts = [" ".join(draw.choices(names, weights, k=length)) for length in to_ints(drawn("~20", rows))]
        examples = [Example(text, target=draw.randrange(CLASSES)) for text in texts]
        return cls(examples, Tokenize.train(texts, offsets=False))
