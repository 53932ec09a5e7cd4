"""The base class of input stages with a tokenizer: special tokens, truncation, and targets aligned with tokens."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import ClassVar, NoReturn, Self, TypeVar, cast

import numpy as np
import torch
from typing_extensions import Unpack, override

from pipeline.builtin.tokenizers import HuggingFaceTokenizer, SpecialTokens
from pipeline.data.kinds import Ids
from pipeline.data.rows import Example, Row, reject_single_text
from pipeline.data.tensors import from_numpy, to_tensor, to_tensors
from pipeline.errors import OptionError, ShapeError, TextError
from pipeline.labels import OneTarget, Target
from pipeline.parts.tokenizer import Tokenizer, Tokens
from pipeline.registry import registry
from pipeline.stages.input_stage import InputStage
from pipeline.stages.text_checks import check_surrogates

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
                    check_surrogates(text, row)
                except TextError as found:
                    raise found from error
        raise error
