"""Rows of words to numbered tokens."""

from collections.abc import Iterable, Sequence
from typing import ClassVar, cast, final

from typing_extensions import override

from pipeline.errors import TextError
from pipeline.labels import Target, is_step_target
from pipeline.parts.tokenizer import Tokens
from pipeline.registry import registry
from pipeline.stages.tokenizing import Tokenizing, check_count, refuse, text_of


@final
class TokenizeWords(Tokenizing[Sequence[str]]):
    """Rows of words that are split already, for taggers: targets are one a word, and so are the answers.

    Where a tokenizer cuts a word into pieces, its first piece stands for it: that one has the word's
    target, and its answer. A word that leaves no piece becomes the unknown token. The options are
    those of `Tokenize`.

    Raises:
        OptionError: as `Tokenize`.

    Example:
        >>> tokenize = TokenizeWords.train([["New", "York", "is", "big"]])
        >>> from pipeline import Example
        >>> row = tokenize(Example(["York", "sleeps"], target=["PROPN", "VERB"]))
        >>> row.sequence.values.tolist(), list(row.target)
        ([5, 1], ['PROPN', 'VERB'])
    """

    by_words: ClassVar[bool] = True

    @classmethod
    def train(
        cls,
        rows: Iterable[Sequence[str]],
        kind: str = "whole",
        *,
        bos: bool = False,
        eos: bool = False,
        max_length: int | None = None,
        offsets: bool = True,
        **options: object,
    ) -> "TokenizeWords":
        """A tokenizer learned from rows of words.

        Args:
            rows: what to learn from.
            kind: a registered name: `whole` (a token a word), `bpe`, or any other.
            bos: as in `Tokenize`.
            eos: as in `Tokenize`.
            max_length: as in `Tokenize`.
            offsets: as in `Tokenize`.
            options: what the named tokenizer takes.

        Raises:
            UnknownNameError: if no plugin offers the kind.
            UnknownOptionError: if it does not take an option.
        """
        words = (text_of(word, place) for place, row in enumerate(rows) for word in row)
        tokenizer = registry().tokenizers.make(kind, texts=words, **options)
        return cls(tokenizer, bos=bos, eos=eos, max_length=max_length, offsets=offsets)

    @override
    def check(self, value: object, place: int) -> None:
        if isinstance(value, str) or not isinstance(value, Sequence):
            refuse(value, place, "be a list of words", "text that is not split yet goes to Tokenize")
        for word in cast("Sequence[object]", value):
            if not isinstance(word, str):
                refuse(word, place, "hold words", "numbers go to FromIds")

    @override
    def encode(self, inputs: list[Sequence[str]]) -> list[Tokens]:
        found = self.answered(self.tokenizer.encode_words(inputs, offsets=self.offsets), len(inputs))
        return [self._complete(tokens, len(words)) for tokens, words in zip(found, inputs, strict=True)]

    @override
    def aligned(
        self, tokens: Tokens, target: Target, place: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        begins = [index == 0 or word != tokens.words[index - 1] for index, word in enumerate(tokens.words)]
        asked = None if all(begins) else begins
        if not isinstance(target, Sequence) or not is_step_target(target):
            return None, asked
        check_count(len(target), sum(begins), "words", place)
        return [target[word] if begin else None for word, begin in zip(tokens.words, begins, strict=True)], asked

    def _complete(self, tokens: Tokens, count: int) -> Tokens:
        """Give each word that left no token the unknown one, so that every word has its step."""
        missing = sorted(set(range(count)).difference(tokens.words))
        if not missing:
            return tokens
        if self.tokenizer.unknown is None:
            msg = f"word {missing[0]} leaves no token, and the tokenizer has no unknown one; leave such words out."
            raise TextError(msg, word=missing[0])
        unknown = self.tokenizer.vocabulary[self.tokenizer.unknown]
        spans = tokens.offsets or [(0, 0)] * len(tokens.ids)
        found = [*zip(tokens.words, tokens.ids, spans, strict=True), *((word, unknown, (0, 0)) for word in missing)]
        found.sort(key=lambda token: token[0])
        words, ids, spans = zip(*found, strict=True)
        return Tokens(ids, spans if self.offsets else (), words)
