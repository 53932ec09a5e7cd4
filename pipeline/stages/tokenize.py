"""Text to numbered tokens."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import ClassVar, NoReturn, TypeVar, cast, final

import numpy as np
import torch
from typing_extensions import override

from pipeline.borders.checked import described
from pipeline.builtin.tokenizers import HuggingFace
from pipeline.errors import OptionError, ShapeError, TargetError, TextError
from pipeline.parts.tokenizer import Tokenizer, Tokens
from pipeline.registry import registry
from pipeline.sequences.listed import from_numpy, tensor_of, tensors_of
from pipeline.sequences.rows import Example, Ids, Row, Target, is_step_target, refuse_text
from pipeline.stages.door import Door

X = TypeVar("X")


class Tokenizing(Door[X, Ids]):
    """What both tokenizing doors share: special tokens, truncation, and what becomes of the targets."""

    by_words: ClassVar[bool]
    """Whether an input is a row of words, to which its tokens have to be aligned, or a text."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        bos: bool = False,
        eos: bool = False,
        max_length: int | None = None,
        offsets: bool = True,
    ) -> None:
        self.tokenizer = tokenizer
        self.bos = bos
        self.eos = eos
        self.max_length = max_length
        self.offsets = offsets
        for meaning, asked, token in (("bos", bos, tokenizer.bos), ("eos", eos, tokenizer.eos)):
            if asked and token is None:
                msg = f"{meaning}=True, but the tokenizer has no {meaning} token; say which one it is when reading it."
                raise OptionError(msg)
        if max_length is not None and max_length < bos + eos:
            msg = f"max_length must leave room for bos and eos, {bos + eos} or more, but {max_length} arrived."
            raise OptionError(msg, max_length=max_length)

    @property
    def vocab_size(self) -> int:
        """How many ids there are: what `Embed` needs as `num_embeddings`."""
        return max(self.tokenizer.vocabulary.values()) + 1

    def decode(self, ids: Iterable[int]) -> str:
        """The text that ids stand for, special tokens left out. Exact for characters, bytes and BPE.

        Raises:
            OptionError: if an id is none of the vocabulary's.
        """
        numbers = [int(number) for number in ids]
        for step, number in enumerate(numbers):
            if not 0 <= number < self.vocab_size:
                msg = f"ids[{step}] is {number}, but the vocabulary has ids 0 to {self.vocab_size - 1}."
                raise OptionError(msg, id=number)
        return self.tokenizer.decode(numbers)

    @override
    def rows(self, examples: Sequence[Example[X]], places: Sequence[int]) -> list[Row[Ids]]:
        """The rows of some examples.

        Raises:
            TextError: if an input is not text, or holds a lone surrogate.
            TargetError: if there are targets, but not one a token (or word).
        """
        found = self.tokens([example.input for example in examples], places)
        targets = [example.target for example in examples]
        if self.offsets or self.bos or self.eos or self.max_length is not None:
            return list(map(self.row, found, targets, places))
        ids = map(Ids, tensors_of([tokens.ids for tokens in found]))
        if not self.by_words and set(map(type, targets)) == {NoneType}:
            return list(map(Row, ids, targets, places))
        aligned = map(self.aligned, found, targets, places)
        return [
            Row(values, target if steps is None else steps, place, asked)
            for values, target, place, (steps, asked) in zip(ids, targets, places, aligned, strict=True)
        ]

    def tokens(self, inputs: list[X], places: Sequence[int]) -> list[Tokens]:
        """The tokens of some inputs, whose places errors name; none added, and none cut off.

        Raises:
            TextError: if an input is not text, or holds a lone surrogate.
        """
        # Plain texts are told all at once: it takes a tenth of the time of one by one.
        if self.by_words or set(map(type, inputs)) != {str}:
            for value, place in zip(inputs, places, strict=True):
                self.check(value, place)
        try:
            return self.encode(inputs)
        except (TypeError, UnicodeEncodeError) as error:
            self._explain(inputs, places, error)

    def length(self, tokens: int) -> int:
        """How many steps a row of so many tokens has: cut to `max_length`, with bos and eos.

        Example:
            >>> Tokenize.train(["to be"], eos=True, max_length=4).length(7)
            4
        """
        return min(tokens, self._room(tokens)) + self.bos + self.eos

    @abstractmethod
    def check(self, value: object, place: int) -> None:
        """Refuse an input that is not of this door's type."""

    @abstractmethod
    def encode(self, inputs: list[X]) -> list[Tokens]:
        """The tokens of inputs that are of this door's type."""

    def answered(self, found: list[Tokens], inputs: int) -> list[Tokens]:
        """What the tokenizer gave, if it answered each input."""
        if len(found) != inputs:
            msg = (
                f"tokenizer {type(self.tokenizer).__name__!r} gave {len(found)} answers to {inputs} inputs, but must "
                "give one to each; mend its encode and encode_words."
            )
            raise ShapeError(msg, given=len(found), inputs=inputs)
        return found

    @abstractmethod
    def aligned(
        self, tokens: Tokens, target: Target, place: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        """A target a token, where there is one a step; and which tokens an answer is wanted of (None: all)."""

    def _room(self, tokens: int) -> int:
        return tokens if self.max_length is None else self.max_length - self.bos - self.eos

    def row(self, tokens: Tokens, target: Target, place: int) -> Row[Ids]:
        """The row of an input's tokens.

        Raises:
            TargetError: if there are targets, but not one a token (or word).
        """
        steps, asked = self.aligned(tokens, target, place)
        room = self._room(len(tokens.ids))
        ids = tokens.ids if room >= len(tokens.ids) else tokens.ids[:room]
        if self.bos or self.eos:
            bos = [self.tokenizer.vocabulary[cast("str", self.tokenizer.bos)]] if self.bos else []
            eos = [self.tokenizer.vocabulary[cast("str", self.tokenizer.eos)]] if self.eos else []
            ids = [*bos, *ids, *eos]
            kept = asked if asked is not None else [True] * len(tokens.ids)
            asked = [*(False for _ in bos), *kept[:room], *(False for _ in eos)]
            steps = None if steps is None else [*(None for _ in bos), *steps[:room], *(None for _ in eos)]
        elif room < len(tokens.ids):
            asked = None if asked is None else asked[:room]
            steps = None if steps is None else steps[:room]
        values = tensor_of(ids)
        spans = self._spans(tokens, room) if self.offsets else None
        return Row(Ids(values, spans), target if steps is None else steps, place, asked)

    def _spans(self, tokens: Tokens, room: int) -> torch.Tensor:
        spans = list(tokens.offsets[:room])
        end = spans[-1][1] if spans else 0
        spans = [*([(0, 0)] * self.bos), *spans, *([(end, end)] * self.eos)]
        return from_numpy(np.array(spans, np.int64).reshape(-1, 2))

    def _explain(self, inputs: Sequence[object], places: Sequence[int], error: Exception) -> NoReturn:
        """Name the row that the tokenizer, which speaks of none, stumbled over."""
        for row, value in zip(places, inputs, strict=True):
            for text in [value] if isinstance(value, str) else cast("Sequence[str]", value):
                place = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
                if place is not None:
                    msg = (
                        f"row {row} holds a lone surrogate, {text[place]!r} at character {place}, which is "
                        "half a character and no text; decode its bytes with errors='replace', or leave the row out."
                    )
                    raise TextError(msg, row=row, character=place) from error
        raise error


@final
class Tokenize(Tokenizing[str]):
    """Text in, numbered tokens out, with each token's place in the text.

    Special tokens that stand in the text are text. Targets, where they are one a step, must be one
    a token; bos and eos get none.

    Args:
        tokenizer: what cuts the text; see `train` and `read`.
        bos: begin each row with the token for that.
        eos: end each row with the token for that.
        max_length: cut rows to so many tokens, bos and eos included and kept; None keeps them whole.
        offsets: keep each token's start and end in the text, in characters.

    Raises:
        OptionError: if the tokenizer has no bos or eos that is asked for, or `max_length` leaves no room for them.

    Example:
        >>> tokenize = Tokenize.train(["To be, or not to be"], lowercase=True, eos=True)
        >>> row = tokenize("Be not")
        >>> row.sequence.values.tolist(), row.sequence.offsets.tolist()
        ([4, 7, 3], [[0, 2], [3, 6], [6, 6]])
        >>> tokenize.decode(row.sequence.values)
        'be not'
    """

    by_words: ClassVar[bool] = False

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        kind: str = "words",
        *,
        bos: bool = False,
        eos: bool = False,
        max_length: int | None = None,
        offsets: bool = True,
        **options: object,
    ) -> "Tokenize":
        """A tokenizer learned from text.

        Args:
            texts: what to learn from.
            kind: a registered name: `words`, `characters`, `bytes`, `bpe`, or what plugins offer.
            bos: as in `Tokenize`.
            eos: as in `Tokenize`.
            max_length: as in `Tokenize`.
            offsets: as in `Tokenize`.
            options: what the named tokenizer takes: `vocab_size`, `min_frequency`, `lowercase`, `normalization`.

        Raises:
            UnknownNameError: if no plugin offers the kind.
            UnknownOptionError: if it does not take an option.
            TextError: if `texts` is one text, or holds something that is none.
        """
        refuse_text(texts)
        checked = (_text(text, place) for place, text in enumerate(texts))
        tokenizer = registry().tokenizers.make(kind, texts=checked, **options)
        return cls(tokenizer, bos=bos, eos=eos, max_length=max_length, offsets=offsets)

    @classmethod
    def read(
        cls,
        file: str | PathLike[str],
        *,
        pad: str | None,
        unknown: str | None,
        bos_token: str | None = None,
        eos_token: str | None = None,
        max_length: int | None = None,
        offsets: bool = True,
    ) -> "Tokenize":
        """A tokenizer from a `tokenizer.json`, its special tokens said explicitly.

        Args:
            file: the path.
            pad: which token of the file is its padding; None for none.
            unknown: which token stands for what it does not know; None for none.
            bos_token: what each row begins with; None for nothing.
            eos_token: what each row ends with; None for nothing.
            max_length: as in `Tokenize`.
            offsets: as in `Tokenize`.

        Raises:
            OptionError: if the file is no tokenizer, or lacks one of the tokens.
        """
        tokenizer = HuggingFace.read(Path(file), pad=pad, unknown=unknown, bos=bos_token, eos=eos_token)
        return cls(
            tokenizer,
            bos=bos_token is not None,
            eos=eos_token is not None,
            max_length=max_length,
            offsets=offsets,
        )

    @override
    def check(self, value: object, place: int) -> None:
        if not isinstance(value, str):
            _refuse(value, place, "be text", "decode bytes, and split words go to TokenizeWords")

    @override
    def encode(self, inputs: list[str]) -> list[Tokens]:
        return self.answered(self.tokenizer.encode(inputs, offsets=self.offsets), len(inputs))

    @override
    def aligned(
        self, tokens: Tokens, target: Target, place: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        if target is None or not isinstance(target, Sequence) or not is_step_target(target):
            return None, None
        _check_count(len(target), len(tokens.ids), "tokens", place)
        return target, None


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
        words = (_text(word, place) for place, row in enumerate(rows) for word in row)
        tokenizer = registry().tokenizers.make(kind, texts=words, **options)
        return cls(tokenizer, bos=bos, eos=eos, max_length=max_length, offsets=offsets)

    @override
    def check(self, value: object, place: int) -> None:
        if isinstance(value, str) or not isinstance(value, Sequence):
            _refuse(value, place, "be a list of words", "text that is not split yet goes to Tokenize")
        for word in cast("Sequence[object]", value):
            if not isinstance(word, str):
                _refuse(word, place, "hold words", "numbers go to Numbers")

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
        _check_count(len(target), sum(begins), "words", place)
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


def _text(value: object, place: int) -> str:
    if not isinstance(value, str):
        _refuse(value, place, "be text", "decode bytes before")
    return value


def _refuse(value: object, place: int, rule: str, remedy: str) -> NoReturn:
    msg = f"row {place} must {rule}, but {described(value)} arrived; {remedy}."
    raise TextError(msg, row=place)


def _check_count(targets: int, steps: int, unit: str, place: int) -> None:
    if targets != steps:
        msg = f"row {place} has {steps} {unit} but {targets} targets; give one each, None for those that have none."
        raise TargetError(msg, row=place, targets=targets, steps=steps)
