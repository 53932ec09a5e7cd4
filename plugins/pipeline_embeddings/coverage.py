"""How much of a vocabulary a file of word vectors covers."""

from collections.abc import Mapping, Sequence
from typing import final

import attrs


@final
@attrs.frozen
class Coverage:
    """Which words of a vocabulary have a vector in a file. Special tokens are not counted.

    Attributes:
        words: the number of words of the vocabulary.
        exact: the words that the file has as they are.
        by_case: the words that it has in another case only, with their form in the file; see `case_fallback`.
        missing: the words that it does not have, the most frequent first if counts are known.
        tokens: the number of occurrences of all words; None if counts are not known.
        found_tokens: the number of occurrences of the words that have a vector; None if counts are not known.
        file_words: the number of words in the file.
        doubled: the words of the vocabulary that the file has several times, with the line of each repetition. The
            first vector is taken.
        problems: the problem of each malformed line, which is left out, by its number.

    Example:
        >>> print(Coverage(4, ["the", "cat"], {"Paris": "paris"}, ["flurb"], 10, 9, 400_000, {}, {}))
        3 of 4 words have a vector (75.0%), 1 of them in another case, and 9 of 10 tokens (90.0%); missing: flurb
    """

    words: int
    exact: Sequence[str]
    by_case: Mapping[str, str]
    missing: Sequence[str]
    tokens: int | None
    found_tokens: int | None
    file_words: int
    doubled: Mapping[str, Sequence[int]]
    problems: Mapping[int, str]

    @property
    def found(self) -> int:
        """The number of words that have a vector."""
        return len(self.exact) + len(self.by_case)

    @property
    def type_share(self) -> float:
        """The share of words that have a vector; 1 for an empty vocabulary."""
        return self.found / self.words if self.words else 1.0

    @property
    def token_share(self) -> float | None:
        """The share of occurrences whose word has a vector; None if counts are not known."""
        if self.tokens is None or self.found_tokens is None:
            return None
        return self.found_tokens / self.tokens if self.tokens else 1.0

    def __str__(self) -> str:
        """Return a sentence, without its full stop."""
        text = f"{self.found:,} of {self.words:,} words have a vector ({self.type_share:.1%})"
        if self.by_case:
            text += f", {len(self.by_case):,} of them in another case"
        if self.token_share is not None:
            text += f", and {self.found_tokens:,} of {self.tokens:,} tokens ({self.token_share:.1%})"
        if self.missing:
            text += f"; missing: {', '.join(self.missing[:8])}{', ...' if len(self.missing) > 8 else ''}"
        if self.doubled:
            text += f"; doubled: {', '.join([*self.doubled][:8])}{', ...' if len(self.doubled) > 8 else ''}"
        if self.problems:
            line, problem = next(iter(self.problems.items()))
            text += f"; {len(self.problems):,} malformed lines, the first is line {line}: {problem}"
        return text
