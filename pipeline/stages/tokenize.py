"""Input stages for text: `Tokenize` for texts, `TokenizeWords` for rows of words."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import accumulate, pairwise
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import ClassVar, NoReturn, Self, TypeVar, cast, final

import numpy as np
import torch
from typing_extensions import Unpack, override

from pipeline.builtin.tokenizers import HuggingFaceTokenizer, SpecialTokens
from pipeline.checks.hints import describe
from pipeline.data.kinds import Ids
from pipeline.data.predictions import Span
from pipeline.data.rows import Example, Row, reject_single_text
from pipeline.data.tensors import from_numpy, to_tensor, to_tensors
from pipeline.errors import OptionError, ShapeError, TargetError, TextError
from pipeline.labels import OneTarget, Target, is_step_target, to_steps
from pipeline.parts.tokenizer import Tokenizer, Tokens
from pipeline.registry import registry
from pipeline.stages.input_stage import InputStage, locate_in_row

X = TypeVar("X")


class TextInputStage(InputStage[X, Ids]):
    """An input stage with a tokenizer: it adds special tokens, truncates, and aligns targets with tokens.

    Attributes:
        by_words: whether an input is a row of words, each of which may have several tokens, or a text.
        default_kind: the registered tokenizer that `train` uses by default.
    """

    by_words: ClassVar[bool]
    default_kind: ClassVar[str]

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
        for option, is_added, token in (("bos", bos, tokenizer.bos_token), ("eos", eos, tokenizer.eos_token)):
            if is_added and token is None:
                msg = f"{option} is True, but the tokenizer has no {option}_token; pass {option}_token=... to read."
                raise OptionError(msg)
        if max_length is not None and max_length < bos + eos:
            msg = (
                f"max_length must be {bos + eos} or more, to leave room for bos and eos, got {max_length}; raise it, "
                "or leave bos and eos out."
            )
            raise OptionError(msg, max_length=max_length)

    @classmethod
    def train(
        cls,
        inputs: Iterable[X],
        kind: str | None = None,
        *,
        bos: bool = False,
        eos: bool = False,
        max_length: int | None = None,
        offsets: bool = True,
        **options: object,
    ) -> Self:
        """Train a tokenizer, and make the stage for it.

        Args:
            inputs: texts, or rows of words for `TokenizeWords`.
            kind: the registered name of a tokenizer: `words` (by default, for texts), `whole` (one token per word, by
                default for rows of words), `characters`, `bytes`, `bpe`, or a plugin's.
            bos: as in `Tokenize`.
            eos: as in `Tokenize`.
            max_length: as in `Tokenize`.
            offsets: as in `Tokenize`.
            options: options of the tokenizer, such as `vocab_size`, `min_frequency`, `lowercase`, `normalization`, and
                the special tokens `pad_token`, `unk_token`, `bos_token`, `eos_token`.

        Raises:
            UnknownNameError: if no plugin offers the kind.
            UnknownOptionError: if the tokenizer does not take an option.
            TextError: if `inputs` is a single text, or contains something that is not text.
        """
        reject_single_text(inputs)
        texts = cls._iterate_texts(inputs)
        tokenizer = registry().tokenizers.make(kind or cls.default_kind, texts=texts, **options)
        return cls(tokenizer, bos=bos, eos=eos, max_length=max_length, offsets=offsets)

    @classmethod
    def read(
        cls,
        file: str | PathLike[str],
        *,
        bos: bool = False,
        eos: bool = False,
        max_length: int | None = None,
        offsets: bool = True,
        **tokens: Unpack[SpecialTokens],
    ) -> Self:
        """Read a tokenizer from a `tokenizer.json`, and make the stage for it.

        Args:
            file: the path.
            bos: as in `Tokenize`.
            eos: as in `Tokenize`.
            max_length: as in `Tokenize`.
            offsets: as in `Tokenize`.
            tokens: `pad_token`, `unk_token`, `bos_token`, `eos_token`: tokens of the file, or None for no such token.
                Those left out are taken from the file, where it states them.

        Raises:
            OptionError: if the file is not a tokenizer, or lacks one of the tokens.
        """
        tokenizer = HuggingFaceTokenizer.read(Path(file), **tokens)
        return cls(tokenizer, bos=bos, eos=eos, max_length=max_length, offsets=offsets)

    def describe_part(self) -> str:
        """Return the tokenizer's class and module, for errors that it raises."""
        return f"tokenizer {type(self.tokenizer).__name__!r} of module {type(self.tokenizer).__module__}"

    @property
    def vocab_size(self) -> int:
        """The number of ids: `num_embeddings` of `Embed`."""
        return max(self.tokenizer.vocabulary.values()) + 1

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, without special tokens. Exact for characters, bytes and BPE.

        Raises:
            OptionError: if an id is not in the vocabulary.
        """
        numbers = [int(number) for number in ids]
        for step, number in enumerate(numbers):
            if not 0 <= number < self.vocab_size:
                msg = (
                    f"ids[{step}] is {number}, but the vocabulary has ids 0 to {self.vocab_size - 1}; decode with the "
                    "tokenizer that encoded the ids."
                )
                raise OptionError(msg, id=number)
        return self.tokenizer.decode(numbers)

    @override
    def make_rows(self, examples: Sequence[Example[X]], row_ids: Sequence[int]) -> list[Row[Ids]]:
        """Return the rows of some examples.

        Raises:
            TextError: if an input is not text, or holds a lone surrogate.
            TargetError: if there are targets per step, but not one per token (or word).
        """
        found = self.tokenize([example.input for example in examples], row_ids)
        targets = [example.target for example in examples]
        if self.offsets or self.bos or self.eos or self.max_length is not None:
            return list(map(self.make_row, found, targets, row_ids))
        # Fast path: without offsets, bos, eos and truncation, the tensors of all rows are made together.
        ids = map(Ids, to_tensors([tokens.ids for tokens in found]))
        if not self.by_words and set(map(type, targets)) == {NoneType}:
            return list(map(Row, ids, targets, row_ids))
        aligned = map(self._align_named, found, targets, row_ids)
        return [
            Row(values, target, row, mask) for values, row, (target, mask) in zip(ids, row_ids, aligned, strict=True)
        ]

    def tokenize(self, inputs: list[X], row_ids: Sequence[int]) -> list[Tokens]:
        """Return the tokens of some inputs, without bos and eos and not truncated; errors name the row ids.

        Raises:
            TextError: if an input is not text, or holds a lone surrogate.
            ShapeError: if the tokenizer does not return one result per input.
        """
        # Fast path: if all types are str, no text is checked by itself, which takes ten times as long.
        if self.by_words or set(map(type, inputs)) != {str}:
            for value, row in zip(inputs, row_ids, strict=True):
                self._check_input(value, row)
        try:
            found = self._encode(inputs)
        except (TypeError, UnicodeEncodeError) as error:
            self._explain(inputs, row_ids, error)
        if len(found) != len(inputs):
            name = type(self.tokenizer).__name__
            msg = (
                f"tokenizer {name!r} must return one result per input, got {len(found)} for {len(inputs)} inputs; "
                f"fix {name}.encode and {name}.encode_words."
            )
            raise ShapeError(msg, given=len(found), inputs=len(inputs))
        return found

    def count_steps(self, tokens: int) -> int:
        """Return the steps of a row with this number of tokens: truncated to `max_length`, with bos and eos.

        Example:
            >>> from pipeline import Tokenize
            >>> Tokenize.train(["to be"], eos=True, max_length=4).count_steps(7)
            4
        """
        return min(tokens, self._get_room(tokens)) + self.bos + self.eos

    @classmethod
    @abstractmethod
    def _iterate_texts(cls, inputs: Iterable[X]) -> Iterator[str]:
        """Yield the texts that inputs consist of, for training."""

    @abstractmethod
    def _check_input(self, value: object, row: int) -> None:
        """Reject an input that is not of this stage's type."""

    @abstractmethod
    def _encode(self, inputs: list[X]) -> list[Tokens]:
        """Return the tokens of inputs that are of this stage's type."""

    @abstractmethod
    def _align_targets(
        self, tokens: Tokens, target: Target, row: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        """Return one target per token (None unless targets are per step), and the answer mask (None: all tokens)."""

    def _get_room(self, tokens: int) -> int:
        return tokens if self.max_length is None else self.max_length - self.bos - self.eos

    def make_row(self, tokens: Tokens, target: Target, row: int) -> Row[Ids]:
        """Return the row of an input's tokens, with this row id.

        Raises:
            TargetError: if there are targets per step, but not one per token (or word).
        """
        room = self._get_room(len(tokens.ids))
        target, mask = self._align_named(tokens, target, row, room)
        ids = tokens.ids if room >= len(tokens.ids) else tokens.ids[:room]
        if self.bos or self.eos:
            vocabulary = self.tokenizer.vocabulary
            bos = [vocabulary[cast("str", self.tokenizer.bos_token)]] if self.bos else []
            eos = [vocabulary[cast("str", self.tokenizer.eos_token)]] if self.eos else []
            ids = [*bos, *ids, *eos]
            # bos and eos have no target, and no prediction is wanted for them.
            inner = mask if mask is not None else [True] * len(tokens.ids)
            mask = [*(False for _ in bos), *inner[:room], *(False for _ in eos)]
        elif room < len(tokens.ids):
            mask = None if mask is None else mask[:room]
        values = to_tensor(ids)
        spans = self._get_spans(tokens, room) if self.offsets else None
        return Row(Ids(values, spans), target, row, mask)

    def _align_named(
        self, tokens: Tokens, target: Target, row: int, room: int | None = None
    ) -> tuple[Target, list[bool] | None]:
        """Return the target and the answer mask; a target per token or word gets one entry per step of the row."""
        named = target if isinstance(target, Mapping) else {"": target}
        # The mask does not depend on the targets, and is needed without any.
        _, mask = self._align_targets(tokens, None, row)
        fitted: dict[str, OneTarget] = {}
        for name, each in named.items():
            steps, _ = self._align_targets(tokens, each, row)
            fitted[name] = each if steps is None else [*[None] * self.bos, *steps[:room], *[None] * self.eos]
        return (fitted if isinstance(target, Mapping) else fitted[""]), mask

    def _get_spans(self, tokens: Tokens, room: int) -> torch.Tensor:
        spans = list(tokens.offsets[:room])
        end = spans[-1][1] if spans else 0
        # bos and eos have empty spans, at the start and at the end of the text.
        spans = [*([(0, 0)] * self.bos), *spans, *([(end, end)] * self.eos)]
        return from_numpy(np.array(spans, np.int64).reshape(-1, 2))

    def _explain(self, inputs: Sequence[object], row_ids: Sequence[int], error: Exception) -> NoReturn:
        """Raise an error that names the row, which the tokenizer's own error does not."""
        for row, value in zip(row_ids, inputs, strict=True):
            for text in [value] if isinstance(value, str) else cast("Sequence[str]", value):
                try:
                    _check_surrogates(text, row)
                except TextError as found:
                    raise found from error
        raise error


@final
class Tokenize(TextInputStage[str]):
    """Turn texts into rows of token ids, with each token's offsets in the text.

    Special tokens that occur in a text are treated as text. A target is one class per text, a set of classes, a number,
    or a list of floats. For one target per token, use `with_token_targets`; bos and eos then have none.

    Args:
        tokenizer: splits the text; see `train` and `read`.
        bos: begin each row with the tokenizer's bos token.
        eos: end each row with the tokenizer's eos token.
        max_length: truncate rows to this number of tokens, bos and eos included and kept; None does not truncate.
        offsets: keep each token's start and end in the text, in characters.
        has_token_targets: whether a list as target has one entry per token; see `with_token_targets`.

    Raises:
        OptionError: if the tokenizer has no bos or eos token to add, or `max_length` leaves no room for them.

    Example:
        >>> tokenize = Tokenize.train(["To be, or not to be"], lowercase=True, eos=True)
        >>> row = tokenize("Be not")
        >>> row.sequence.values.tolist(), row.sequence.offsets.tolist()
        ([4, 7, 3], [[0, 2], [3, 6], [6, 6]])
        >>> tokenize.decode(row.sequence.values)
        'be not'
    """

    by_words: ClassVar[bool] = False
    default_kind: ClassVar[str] = "words"

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        bos: bool = False,
        eos: bool = False,
        max_length: int | None = None,
        offsets: bool = True,
        has_token_targets: bool = False,
    ) -> None:
        super().__init__(tokenizer, bos=bos, eos=eos, max_length=max_length, offsets=offsets)
        self.has_token_targets = has_token_targets

    def with_token_targets(self) -> "Tokenize":
        """Return the same stage for examples whose targets are lists with one entry per token.

        Without it a list is an error: it could be meant otherwise, and have the length of the row by coincidence.

        Example:
            >>> from pipeline import Example
            >>> tokenize = Tokenize.train(["a b"]).with_token_targets()
            >>> tokenize(Example("a b", target=[1, None])).target
            [1, None]
        """
        copied = copy(self)
        copied.has_token_targets = True
        return copied

    @classmethod
    @override
    def _iterate_texts(cls, inputs: Iterable[str]) -> Iterator[str]:
        return (_check_text(text, row) for row, text in enumerate(inputs))

    @override
    def _check_input(self, value: object, row: int) -> None:
        if not isinstance(value, str):
            fix = (
                "decode bytes, use TokenizeWords for words, or pass a text and its target as Example(text, target=...)"
            )
            raise _make_text_error(value, row, "be text", fix)

    @override
    def _encode(self, inputs: list[str]) -> list[Tokens]:
        return self.tokenizer.encode(inputs, offsets=self.offsets)

    @override
    def locate_steps(self, value: str, row: Row[Ids]) -> Sequence[Span] | None:
        return None if row.sequence.offsets is None else locate_in_row(row)

    @override
    def _align_targets(
        self, tokens: Tokens, target: Target, row: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        if target is None or not is_step_target(target):
            return None, None
        if not self.has_token_targets:
            msg = (
                f"the target of row {row} must be one class, got a list of {len(target)}; write numbers as floats, "
                "[1.0, 2.0], and several classes of the text as a set, {'a', 'b'}; for one target per token, use "
                "tokenize.with_token_targets(), and for one per word TokenizeWords."
            )
            raise TargetError(msg, row=row)
        _check_target_count(len(target), len(tokens.ids), "tokens", row)
        return cast("Sequence[int | str | None]", to_steps(target)), None


@final
class TokenizeWords(TextInputStage[Sequence[str]]):
    """Turn rows of words into rows of token ids, for taggers: targets and predictions are one per word.

    If a word has several tokens, its first token has the word's target and prediction. A word without tokens gets the
    unknown token. The options are those of `Tokenize`.

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
    default_kind: ClassVar[str] = "whole"

    @classmethod
    @override
    def _iterate_texts(cls, inputs: Iterable[Sequence[str]]) -> Iterator[str]:
        for row, words in enumerate(inputs):
            _check_words(words, row)
            yield from (_check_text(word, row) for word in words)

    @override
    def _check_input(self, value: object, row: int) -> None:
        _check_words(value, row)
        for word in cast("Sequence[object]", value):
            if not isinstance(word, str):
                raise _make_text_error(word, row, "hold words", "use FromIds for ids")

    @override
    def _encode(self, inputs: list[Sequence[str]]) -> list[Tokens]:
        found = self.tokenizer.encode_words(inputs, offsets=self.offsets)
        return [
            self._add_missing_words(tokens, len(words))
            # Not strict: `tokenize` reports a wrong number of results.
            for tokens, words in zip(found, inputs, strict=False)
        ] + found[len(inputs) :]

    @override
    def _align_targets(
        self, tokens: Tokens, target: Target, row: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        is_first = [index == 0 or word != tokens.words[index - 1] for index, word in enumerate(tokens.words)]
        mask = None if all(is_first) else is_first
        if not is_step_target(target):
            return None, mask
        _check_target_count(len(target), sum(is_first), "words", row)
        steps = cast("Sequence[int | str | None]", to_steps(target))
        return [steps[word] if first else None for word, first in zip(tokens.words, is_first, strict=True)], mask

    @override
    def locate_steps(self, value: Sequence[str], row: Row[Ids]) -> Sequence[Span] | None:
        """Return the place of each step in the words joined by spaces; a word's first token stands for the word."""
        words = join_spans(value)
        end = words[-1][1] if words else 0
        tokens = locate_in_row(row)
        spans: list[Span] = []
        word = -1
        for step, (first, last) in enumerate(tokens):
            is_added = (self.bos and step == 0) or (self.eos and step == len(tokens) - 1)
            if is_added:
                spans.append((0, 0) if step == 0 and self.bos else (end, end))
            elif row.answer_mask is None or row.answer_mask[step]:
                word += 1
                spans.append(words[word])
            elif row.sequence.offsets is None:
                spans.append(words[word])
            else:
                spans.append((words[word][0] + first, words[word][0] + last))
        return spans

    def _add_missing_words(self, tokens: Tokens, count: int) -> Tokens:
        """Give each word without tokens the unknown token, so that every word has a step."""
        missing = sorted(set(range(count)).difference(tokens.words))
        if not missing:
            return tokens
        if self.tokenizer.unk_token is None:
            msg = (
                f"word {missing[0]} has no tokens, and the tokenizer has no unk_token to stand for it; leave such "
                "words out, or read the tokenizer with unk_token=..."
            )
            raise TextError(msg, word=missing[0])
        unknown = self.tokenizer.vocabulary[self.tokenizer.unk_token]
        spans = tokens.offsets or [(0, 0)] * len(tokens.ids)
        found = [*zip(tokens.words, tokens.ids, spans, strict=True), *((word, unknown, (0, 0)) for word in missing)]
        found.sort(key=lambda token: token[0])
        words, ids, spans = zip(*found, strict=True)
        return Tokens(ids, spans if self.offsets else (), words)


def join_spans(texts: Iterable[str]) -> list[Span]:
    """Return the start and the end of each text in all of them, joined by spaces.

    Example:
        >>> join_spans(["New", "York"])
        [(0, 3), (4, 8)]
    """
    ends = [0, *accumulate(len(text) + 1 for text in texts)]
    return [(start, end - 1) for start, end in pairwise(ends)]


def _check_text(value: object, row: int) -> str:
    if not isinstance(value, str):
        raise _make_text_error(value, row, "be text", "decode bytes first")
    # Texts of one byte per character have no surrogates: `isascii` reads a flag.
    if not value.isascii():
        _check_surrogates(value, row)
    return value


def _check_words(value: object, row: int) -> None:
    # To a type checker a text is a sequence of texts: its letters would be words.
    if isinstance(value, str | bytes | bytearray) or not isinstance(value, Sequence):
        raise _make_text_error(value, row, "be a list of words", "use Tokenize for text that is not split yet")


def _check_surrogates(text: str, row: int) -> None:
    """Reject half a surrogate pair: Python strings may hold it, but not UTF-8, which tokenizers need."""
    at = next((i for i, character in enumerate(text) if "\ud800" <= character <= "\udfff"), None)
    if at is not None:
        msg = (
            f"row {row} holds a lone surrogate, {text[at]!r} at character {at}, which is half a character and not "
            "text; decode its bytes with errors='replace', or leave the row out."
        )
        raise TextError(msg, row=row, character=at)


def _make_text_error(value: object, row: int, rule: str, fix: str) -> TextError:
    return TextError(f"row {row} must {rule}, got {describe(value)}; {fix}.", row=row)


def _check_target_count(targets: int, steps: int, unit: str, row: int) -> None:
    if targets != steps:
        msg = (
            f"row {row} has {steps} {unit} but {targets} targets; give each of them a target, None for those that have "
            "none."
        )
        raise TargetError(msg, row=row, targets=targets, steps=steps)
