"""Tokenizers with one mistake each."""

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import ClassVar, Final

import attrs
from typing_extensions import override

from broken.trial import Trial, trial
from pipeline import Tokenizer
from pipeline.parts.tokenizer import Tokens
from pipeline.testing import TOKENIZER_LAWS


class Letters(Tokenizer):
    """A correct tokenizer: bytes are tokens, with the offsets of their characters."""

    def __init__(self) -> None:
        self.pad_token, self.bos_token, self.eos_token = "<pad>", "<bos>", "<eos>"
        self.unk_token = None
        self.vocabulary: Mapping[str, int] = {
            **{token: number for number, token in enumerate((self.pad_token, self.bos_token, self.eos_token))},
            **{f"{byte:02x}": byte + 3 for byte in range(256)},
        }

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return [self.cut(text, offsets=offsets) for text in texts]

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        found: list[Tokens] = []
        for row in rows:
            cut = [self.cut(word, offsets=offsets) for word in row]
            ids = [number for word in cut for number in word.ids]
            spans = [span for word in cut for span in word.offsets]
            found.append(Tokens(ids, spans, [place for place, word in enumerate(cut) for _ in word.ids]))
        return found

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return bytes(number - 3 for number in ids if number > 2).decode(errors="replace")

    def cut(self, text: str, *, offsets: bool) -> Tokens:
        """Return the tokens of one text."""
        ids = [byte + 3 for byte in text.encode()]
        return Tokens(ids, self.spans(text) if offsets else ())

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return the offsets of each token."""
        return [(place, place + 1) for place, letter in enumerate(text) for _ in letter.encode()]


class CountsBytes(Letters):
    """Counts offsets in bytes."""

    @override
    def spans(self, text: str) -> list[tuple[int, int]]:
        return [(place, place + 1) for place in range(len(text.encode()))]


class ComposesLetters(Letters):
    """Composes letters, and gives offsets in the composed text."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        return super().cut(unicodedata.normalize("NFC", text), offsets=offsets)


class CoversFirstCharacter(Letters):
    """Composes letters, and gives each the offsets of its first character only."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        starts = [place for place, sign in enumerate(text) if not place or not unicodedata.combining(sign)]
        composed = [unicodedata.normalize("NFC", text[a:b]) for a, b in pairwise([*starts, len(text)])]
        cut = super().cut("".join(composed), offsets=False)
        spans = [(a, a + 1) for a, letter in zip(starts, composed, strict=True) for _ in letter.encode()]
        return Tokens(cut.ids, spans if offsets else ())


class LosesSpaces(Letters):
    """Drops spaces when it decodes."""

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids).replace(" ", "")


class ParsesSpecialTokens(Letters):
    """Treats the name of a special token in a text as that token."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        if text in {"<pad>", "<bos>", "<eos>"}:
            return Tokens([self.vocabulary[text]], [(0, 5)] if offsets else ())
        return super().cut(text, offsets=offsets)


class AddsAnEnd(Letters):
    """Adds an end token to each text."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        found = super().cut(text, offsets=offsets)
        end = len(text)
        return Tokens([*found.ids, 2], [*found.offsets, (end, end)] if offsets else ())


class DecodesSpecials(Letters):
    """Decodes special tokens."""

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return super().decode(ids) + "<eos>" * list(ids).count(2)


class ReturnsUnknownIds(Letters):
    """Returns an id that no token has."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        found = super().cut(text, offsets=offsets)
        return Tokens([999 if number == 10 + 3 else number for number in found.ids], found.offsets)

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return super().decode([13 if number == 999 else number for number in ids])


class DependsOnBatchmates(Letters):
    """Drops the last token of each text in a batch of several."""

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        found = super().encode(texts, offsets=offsets)
        return found if len(texts) == 1 else [Tokens(cut.ids[:-1], cut.offsets[:-1]) for cut in found]


class HoldsALambda(Letters):
    """Stores a lambda."""

    def __init__(self) -> None:
        super().__init__()
        self.fold: Callable[[str], str] = lambda text: text


class CountsTokensInsteadOfWords(Letters):
    """Returns the indices of tokens instead of words."""

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        found = super().encode_words(rows, offsets=offsets)
        return [attrs.evolve(cut, words=range(len(cut.ids))) for cut in found]


class NeverTheSame(Letters):
    """Has one more token each time a tokenizer is created."""

    made: ClassVar[int] = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).made += 1
        self.vocabulary = {**self.vocabulary, "more": 300 + self.made}


class SharesIds(Letters):
    """Has two tokens with one id."""

    def __init__(self) -> None:
        super().__init__()
        self.vocabulary = {**self.vocabulary, "again": 5}


class HasConstantKey(Letters):
    """Returns the same cache key for every vocabulary."""

    @override
    def cache_key(self) -> str | None:
        return "letters"

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        found = super().cut(text, offsets=offsets)
        return attrs.evolve(found, ids=[self.vocabulary[f"{number - 3:02x}"] for number in found.ids])


class LearnsCapitals(Letters):
    """Writes the capitals of its training texts in lower case, but returns a key without them."""

    def __init__(self, texts: Sequence[str] = ("Ab",)) -> None:
        super().__init__()
        self.capitals = {letter for text in texts for letter in text if "A" <= letter <= "Z"}

    @override
    def cache_key(self) -> str | None:
        return str(self.vocabulary)

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        lower = "".join(letter.lower() if letter in self.capitals else letter for letter in text)
        return super().cut(lower, offsets=offsets)


class HasRandomKey(Letters):
    """Returns another key for each tokenizer."""

    @override
    def cache_key(self) -> str | None:
        return str(id(self))


class Truncates(Letters):
    """Cuts texts after 512 tokens."""

    @override
    def cut(self, text: str, *, offsets: bool) -> Tokens:
        found = super().cut(text, offsets=offsets)
        return Tokens(found.ids[:512], found.offsets[:512])


class SortsManyTexts(Letters):
    """Sorts more than 100 texts by length, and returns them in that order."""

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return super().encode(sorted(texts, key=len) if len(texts) > 100 else texts, offsets=offsets)


class GrowsItsVocabulary(Letters):
    """Adds each text to its vocabulary."""

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        self.vocabulary = {**self.vocabulary, **{f"word:{text}": 300 + len(self.vocabulary) for text in texts[:1]}}
        return super().encode(texts, offsets=offsets)


TRIALS: Final[tuple[Trial, ...]] = (
    trial(CountsBytes, TOKENIZER_LAWS, "offsets_are_within_text"),
    trial(ComposesLetters, TOKENIZER_LAWS, "offsets_cover_whole_letters"),
    trial(CoversFirstCharacter, TOKENIZER_LAWS, "offsets_cover_whole_letters"),
    trial(LosesSpaces, TOKENIZER_LAWS, "decoded_text_has_same_tokens"),
    trial(ParsesSpecialTokens, TOKENIZER_LAWS, "special_tokens_in_text_are_text"),
    trial(
        AddsAnEnd,
        TOKENIZER_LAWS,
        "empty_text_has_no_tokens special_tokens_in_text_are_text",
        "an added token is in every text",
    ),
    trial(DecodesSpecials, TOKENIZER_LAWS, "decoding_skips_special_tokens"),
    trial(ReturnsUnknownIds, TOKENIZER_LAWS, "ids_are_in_vocabulary"),
    trial(
        DependsOnBatchmates,
        TOKENIZER_LAWS,
        """texts_are_independent many_and_long_texts_are_encoded_completely""",
        "it depends on batchmates in large batches too",
    ),
    trial(HoldsALambda, TOKENIZER_LAWS, "copied_tokenizer_is_equal"),
    trial(CountsTokensInsteadOfWords, TOKENIZER_LAWS, "tokens_know_their_word"),
    trial(NeverTheSame, TOKENIZER_LAWS, "encoding_is_deterministic"),
    trial(SharesIds, TOKENIZER_LAWS, "vocabulary_is_valid"),
    trial(HasConstantKey, TOKENIZER_LAWS, "cache_key_identifies_tokenizer"),
    trial(LearnsCapitals, TOKENIZER_LAWS, "cache_key_identifies_tokenizer"),
    trial(HasRandomKey, TOKENIZER_LAWS, "cache_key_identifies_tokenizer"),
    trial(Truncates, TOKENIZER_LAWS, "many_and_long_texts_are_encoded_completely"),
    trial(SortsManyTexts, TOKENIZER_LAWS, "many_and_long_texts_are_encoded_completely"),
    trial(
        GrowsItsVocabulary,
        TOKENIZER_LAWS,
        """encoding_leaves_vocabulary_unchanged copied_tokenizer_is_equal encoding_is_deterministic""",
        "a copy and a second tokenizer have seen fewer texts",
    ),
)
"""The broken parts of this file, with the laws that each breaks."""
