"""Extend offsets over characters that a normalizer replaces together.

The `tokenizers` library attributes a letter that a normalizer composes to the first of its characters: under NFC, the
token of "e" with a combining accent would have the offsets of the "e" alone. Here such characters form a cluster, and a
token of a part of it has the offsets of all of it.
"""

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast, final

from pipeline.extras import LazyModule

if TYPE_CHECKING:
    import tokenizers
else:
    tokenizers = LazyModule("tokenizers", extra="text", why="a tokenizer")

_Span: TypeAlias = tuple[int, int]


@final
class Clusters:
    """The clusters of a normalizer.

    Args:
        normalizer: one of the `tokenizers` library.
    """

    def __init__(self, normalizer: "tokenizers.normalizers.Normalizer") -> None:
        self._normalizer: Final = normalizer
        self._literals: Final[list[str]] = []
        self._patterns: Final[list[tokenizers.pre_tokenizers.PreTokenizer]] = []
        # A normalizer written in Python has no description; what it replaces is unknown.
        with suppress(Exception):  # the library raises plain Exception
            for pattern in _list_patterns(json.loads(normalizer.__getstate__())):
                self._add_pattern(pattern)

    def extend(self, text: str, offsets: Sequence[_Span]) -> Sequence[_Span]:
        """Return the offsets of a text's tokens, extended over the clusters that they touch."""
        clusters = [(start, end) for start, end in self._find(text) if self._is_joined(text[start:end])]
        if not clusters:
            return offsets
        starts, ends = list(range(len(text) + 1)), list(range(len(text) + 1))
        for start, end in clusters:
            starts[start:end] = [start] * (end - start)
            ends[start + 1 : end + 1] = [end] * (end - start)
        return [(starts[start], ends[end]) for start, end in offsets]

    def _add_pattern(self, pattern: Mapping[str, str]) -> None:
        if (literal := pattern.get("String")) is not None:
            self._literals.extend([literal] if len(literal) > 1 else [])
            return
        # Python's `re` has another syntax. A split with `invert` gives the matches.
        regex = tokenizers.Regex(pattern["Regex"])
        self._patterns.append(tokenizers.pre_tokenizers.Split(regex, "removed", invert=True))

    def _find(self, text: str) -> Iterator[_Span]:
        """Yield the places of two or more characters that the normalizer may replace together."""
        if not text.isascii() and any(map(_is_mark, text)):
            starts = [place for place, character in enumerate(text) if not place or not _is_mark(character)]
            yield from zip(starts, [*starts[1:], len(text)], strict=True)
        for literal in self._literals:
            place = text.find(literal)
            while place >= 0:
                yield place, place + len(literal)
                place = text.find(literal, place + len(literal))
        for pattern in self._patterns:
            yield from (span for _, span in pattern.pre_tokenize_str(text))

    def _is_joined(self, characters: str) -> bool:
        """Return whether the normalizer changes some characters together, or removes some of them."""
        if len(characters) < 2:
            return False
        parts = [self._normalizer.normalize_str(character) for character in characters]
        return "" in parts or self._normalizer.normalize_str(characters) != "".join(parts)


@cache
def _is_mark(character: str) -> bool:
    """Return whether a character may be composed with the one before it, or change places with it.

    These are the marks, the vowels and final consonants of Hangul, and what decomposes into them. Unassigned characters
    may be marks in a later version of Unicode.
    """
    first = unicodedata.normalize("NFKD", character)[0]
    return unicodedata.category(first) in {"Mn", "Mc", "Me", "Cn"} or "\u1160" <= first <= "\u11ff"


def _list_patterns(description: object) -> Iterator[Mapping[str, str]]:
    """Yield the patterns that a normalizer replaces, also one inside of a sequence."""
    if isinstance(description, Mapping):
        fields = cast("Mapping[str, Any]", description)
        for inner in fields.get("normalizers", ()):
            yield from _list_patterns(inner)
        if fields.get("type") == "Replace":
            yield fields["pattern"]
