"""The base class of input stages with a tokenizer: special tokens, truncation, and targets aligned with tokens."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import ClassVar, Final, NoReturn, Self, TypeVar, cast

from torch import Tensor
from typing_extensions import Unpack, override

from pipeline.builtin.tokenizers import HuggingFaceTokenizer, SpecialTokens
from pipeline.data.kinds import Ids
from pipeline.data.rows import Example, Row, reject_single_text
from pipeline.data.tensors import to_tensors
from pipeline.errors import OptionError, ShapeError, TextError
from pipeline.labels import OneTarget, Target
from pipeline.parts.tokenizer import Tokenizer, Tokens
from pipeline.registry import registry
from pipeline.stages.input_stage import InputStage
from pipeline.stages.text_checks import check_surrogates

X = TypeVar("X")
A = TypeVar("A")

_WHOLE: Final = {NoneType, int, str}
"""The types of targets that are surely those of whole rows, and need no alignment with tokens."""


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
        inputs, targets = [example.input for example in examples], [example.target for example in examples]
        if self._keeps_tokens and set(map(type, targets)) <= _WHOLE:
            # Fast path: the rows are the ids of the tokenizer, without offsets, and have no target per step.
            ids = self._check_count(self._call(self._encode_ids, inputs, row_ids), len(inputs))
            return list(map(Row, map(Ids, to_tensors(ids)), targets, row_ids))
        return self._make_rows(self.tokenize(inputs, row_ids), targets, row_ids)

    def tokenize(self, inputs: list[X], row_ids: Sequence[int]) -> list[Tokens]:
        """Return the tokens of some inputs, without bos and eos and not truncated; errors name the row ids.

        Raises:
            TextError: if an input is not text, or holds a lone surrogate.
            ShapeError: if the tokenizer does not return one result per input.
        """
        return self._check_count(self._call(self._encode, inputs, row_ids), len(inputs))

    def _call(self, encode: Callable[[list[X]], A], inputs: list[X], row_ids: Sequence[int]) -> A:
        """Call the tokenizer, after checking the inputs; errors name the row ids."""
        # Fast path: if all types are str, no text is checked by itself, which takes ten times as long.
        if self.by_words or set(map(type, inputs)) != {str}:
            for value, row in zip(inputs, row_ids, strict=True):
                self._check_input(value, row)
        try:
            return encode(inputs)
        except (TypeError, UnicodeEncodeError) as error:
            self._explain(inputs, row_ids, error)

    def _check_count(self, found: list[A], inputs: int) -> list[A]:
        """Return the results of the tokenizer, after checking that there is one per input."""
        if len(found) != inputs:
            name = type(self.tokenizer).__name__
            msg = (
                f"tokenizer {name!r} must return one result per input, got {len(found)} for {inputs} inputs; "
                f"fix {name}.encode and {name}.encode_words."
            )
            raise ShapeError(msg, given=len(found), inputs=inputs)
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

    def _encode_ids(self, inputs: list[X]) -> list[list[int]]:
        """Return only the ids of inputs that are of this stage's type."""
        return [list(tokens.ids) for tokens in self._encode(inputs)]

    @property
    def _keeps_tokens(self) -> bool:
        """Whether rows are the tokens of their texts, with nothing added, cut off or masked, and without offsets."""
        return not (self.by_words or self.offsets or self.bos or self.eos or self.max_length is not None)

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
        return self._make_rows([tokens], [target], [row])[0]

    def _make_rows(self, found: Sequence[Tokens], targets: Sequence[Target], row_ids: Sequence[int]) -> list[Row[Ids]]:
        if self.by_words or self.bos or self.eos or not set(map(type, targets)) <= _WHOLE:
            aligned = [self._align(*each) for each in zip(found, targets, row_ids, strict=True)]
        else:
            aligned = [(target, None) for target in targets]
        ids = to_tensors(list(map(self._add_ends, found)))
        spans: Sequence[Tensor | None] = [None] * len(found)
        if self.offsets:
            spans = [flat.view(-1, 2) for flat in to_tensors(list(map(self._list_offsets, found)))]
        # The tensors of all rows are made together, which takes less time than one by one.
        return [
            Row(Ids(values, offsets), target, row, mask)
            for values, offsets, row, (target, mask) in zip(ids, spans, row_ids, aligned, strict=True)
        ]

    def _add_ends(self, tokens: Tokens) -> Sequence[int]:
        """Return the ids of a row: truncated to `max_length`, with bos and eos."""
        ids = tokens.ids
        if self.max_length is not None:
            ids = ids[: self._get_room(len(ids))]
        if not (self.bos or self.eos):
            return ids
        vocabulary = self.tokenizer.vocabulary
        bos = [vocabulary[cast("str", self.tokenizer.bos_token)]] if self.bos else []
        eos = [vocabulary[cast("str", self.tokenizer.eos_token)]] if self.eos else []
        return [*bos, *ids, *eos]

    def _align(self, tokens: Tokens, target: Target, row: int) -> tuple[Target, Sequence[bool] | None]:
        """Return the target and the answer mask of a row, with one entry per step of the row."""
        room = self._get_room(len(tokens.ids))
        target, mask = self._align_named(tokens, target, row, room)
        if self.bos or self.eos:
            # bos and eos have no target, and no prediction is wanted for them.
            inner = mask if mask is not None else [True] * len(tokens.ids)
            mask = [*[False] * self.bos, *inner[:room], *[False] * self.eos]
        return target, None if mask is None else mask[: room + self.bos + self.eos]

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

    def _list_offsets(self, tokens: Tokens) -> list[int]:
        """Return the start and the end of each step of a row, one after the other."""
        offsets = tokens.offsets
        if self.max_length is not None:
            offsets = offsets[: self._get_room(len(tokens.ids))]
        flat = list(chain.from_iterable(offsets))
        if self.bos or self.eos:
            # bos and eos have empty spans, at the start and at the end of the text.
            end = flat[-1] if flat else 0
            flat = [*[0, 0] * self.bos, *flat, *[end, end] * self.eos]
        return flat

    def _explain(self, inputs: Sequence[object], row_ids: Sequence[int], error: Exception) -> NoReturn:
        """Raise an error that names the row, which the tokenizer's own error does not."""
        for row, value in zip(row_ids, inputs, strict=True):
            for text in [value] if isinstance(value, str) else cast("Sequence[str]", value):
                try:
                    check_surrogates(text, row)
                except TextError as found:
                    raise found from error
        raise error
