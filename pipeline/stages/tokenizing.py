"""What the doors for text have in common."""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from types import NoneType
from typing import ClassVar, NoReturn, TypeVar, cast

import numpy as np
import torch
from typing_extensions import override

from pipeline.checks.shapes import described
from pipeline.data.lists import from_numpy, tensor_of, tensors_of
from pipeline.data.rows import Example, Ids, Row
from pipeline.errors import OptionError, ShapeError, TargetError, TextError
from pipeline.labels import Target
from pipeline.parts.tokenizer import Tokenizer, Tokens
from pipeline.stages.input_stage import InputStage

X = TypeVar("X")


class Tokenizing(InputStage[X, Ids]):
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
            >>> from pipeline import Tokenize
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


def text_of(value: object, place: int) -> str:
    """An input, if it is text.

    Raises:
        TextError: if it is not.
    """
    if not isinstance(value, str):
        refuse(value, place, "be text", "decode bytes before")
    return value


def refuse(value: object, place: int, rule: str, remedy: str) -> NoReturn:
    """Refuse an input, saying what it must do and what to do about it."""
    msg = f"row {place} must {rule}, but {described(value)} arrived; {remedy}."
    raise TextError(msg, row=place)


def check_count(targets: int, steps: int, unit: str, place: int) -> None:
    """Refuse targets that are not one a step.

    Raises:
        TargetError: naming the row.
    """
    if targets != steps:
        msg = f"row {place} has {steps} {unit} but {targets} targets; give one each, None for those that have none."
        raise TargetError(msg, row=place, targets=targets, steps=steps)
