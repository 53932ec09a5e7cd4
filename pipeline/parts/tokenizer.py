"""Base class of tokenizers."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from pipeline.parts.template import NO_PAIR_TEMPLATE, NO_TEMPLATE, Template

# The default special tokens. Tokenizers trained here give them the ids 0 to 3, in this order.
PAD: Final = "<pad>"
UNKNOWN: Final = "<unk>"
BOS: Final = "<bos>"
EOS: Final = "<eos>"


@attrs.frozen
class Tokens:
    """The tokens of one text.

    Attributes:
        ids: the id of each token.
        offsets: the start and the end of each token in the text, in characters; empty if not requested.
        words: the index of the word of each token, for an input that is a list of words; empty for plain text.
    """

    ids: Sequence[int]
    offsets: Sequence[tuple[int, int]] = ()
    words: Sequence[int] = ()


class Tokenizer(ABC):
    """Splits text into tokens and looks up their ids. Special tokens such as bos are added by `Tokenize`, not here.

    Attributes:
        vocabulary: the id of every token, special tokens included.
        pad_token, unk_token, bos_token, eos_token, mask_token: the special tokens; None for those that it lacks.
    """

    vocabulary: Mapping[str, int]
    pad_token: str | None
    unk_token: str | None
    bos_token: str | None
    eos_token: str | None
    mask_token: str | None = None

    @abstractmethod
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        """Return the tokens of each text."""

    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return only the ids of each text; override it if that is faster than `encode`."""
        return [list(tokens.ids) for tokens in self.encode(texts, offsets=False)]

    @abstractmethod
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        """Return the tokens of each list of words; offsets count from the beginning of the word."""

    def get_template(self, texts: int = 1) -> Template:
        """Return what belongs around a text, or around two, such as `[CLS]` and `[SEP]`; nothing by default.

        `Tokenize(..., post_process=True)` puts it there.
        """
        return NO_TEMPLATE if texts == 1 else NO_PAIR_TEMPLATE

    def cache_key(self) -> str | None:
        """Return a text that is equal for two tokenizers only if they tokenize equally; a cache of tokens compares it.

        None, the default, means that the tokens are never cached.
        """
        return None

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special tokens."""
