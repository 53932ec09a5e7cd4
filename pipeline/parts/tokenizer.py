"""What a tokenizer is: text in, numbered tokens out, and back."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
BOS: Final = "<bos>"
EOS: Final = "<eos>"
SPECIALS: Final = (PAD, UNKNOWN, BOS, EOS)
"""The tokens that no text holds, in the order in which tokenizers trained here number them from 0."""


@attrs.frozen
class Tokens:
    """What a tokenizer makes of one text.

    Attributes:
        ids: one a token.
        offsets: each token's start and end in the text, in characters; empty if they were not asked for.
        words: which word of an already split input each token belongs to; empty for plain text.
    """

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]] = ()
    words: Sequence[int] = ()


class Tokenizer(ABC):
    """Cuts text into tokens and numbers them. It adds no tokens of its own: `Tokenize` does, where asked.

    Attributes:
        vocabulary: every token and its number, special ones included.
        pad, unknown, bos, eos: the special tokens; None for one that the tokenizer has not.
    """

    vocabulary: Mapping[str, int]
    pad: str | None
    unknown: str | None
    bos: str | None
    eos: str | None

    @abstractmethod
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        """The tokens of each text."""

    @abstractmethod
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        """The tokens of each row of words; offsets count within their word."""

    def content(self) -> str | None:
        """All that decides which tokens a text has, as text: by it, what was tokenized once is known again.

        None if the tokenizer does not say; what it makes is then never kept.
        """
        return None

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text that tokens stand for, special ones left out."""
