"""The base class of input stages with a tokenizer: special tokens, truncation, and targets aligned with tokens."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from os import PathLike
from pathlib import Path
from types import NoneType
from typing import ClassVar, Final, Literal, NoReturn, Self, TypeVar, cast

from torch import Tensor
from typing_extensions import Unpack, override

from pipeline.builtin.special_tokens import SpecialTokens
from pipeline.builtin.tokenizer_training import VocabularyOptions, make_from_vocabulary
from pipeline.builtin.tokenizers import HuggingFaceTokenizer, Side
from pipeline.checks.options import check_bool, check_choice, check_optional_int
from pipeline.data.kinds import Ids
from pipeline.data.rows import Example, Row, reject_single_text
from pipeline.data.tensors import to_tensors
from pipeline.errors import OptionError, ShapeError, TextError
from pipeline.labels import OneTarget, Target
from pipeline.parts.template import Part, Template
from pipeline.parts.tokenizer import Tokenizer, Tokens
from pipeline.registry import registry
from pipeline.stages.input_stage import InputStage
from pipeline.stages.text_checks import check_surrogates

X = TypeVar("X")
A = TypeVar("A")

_ALL: Final = slice(None)

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
        post_process: bool = False,
        max_length: int | None = None,
        truncation_side: Side = "right",
        offsets: bool = True,
    ) -> None:
        for name, given in (("bos", bos), ("eos", eos), ("post_process", post_process), ("offsets", offsets)):
            check_bool(name, given)
        check_optional_int("max_length", max_length, minimum=1, advice="leave it out for no limit")
        self.tokenizer = tokenizer
        self.bos = bos
        self.eos = eos
        self.post_process = post_process
        self.max_length = max_length
        self.truncation_side: Side = truncation_side
        self.offsets = offsets
        for option, is_added, token in (("bos", bos, tokenizer.bos_token), ("eos", eos, tokenizer.eos_token)):
            if is_added and token is None:
                msg = f"{option} is True, but the tokenizer has no {option}_token; pass {option}_token=... to read."
                raise OptionError(msg)
        if post_process and (bos or eos):
            msg = "post_process adds what the tokenizer's file states; leave it out, or bos and eos."
            raise OptionError(msg)
        check_choice("truncation_side", truncation_side, ("right", "left"))
        template = self.get_template()
        self.first_ids: Final[Sequence[int]] = template.parts[0].ids
        self.last_ids: Final[Sequence[int]] = template.parts[1].ids
        added = template.count()
        if max_length is not None and max_length < added:
            msg = (
                f"max_length must be {added} or more, to leave room for bos and eos, got {max_length}; raise it, "
                "or leave bos and eos out."
            )
            raise OptionError(msg, max_length=max_length)

    def get_template(self, texts: int = 1) -> Template:
        """Return the special tokens around a text, or around two in one row."""
        if self.post_process:
            return self.tokenizer.get_template(texts)
        ids = self.tokenizer.vocabulary
        bos = [ids[cast("str", self.tokenizer.bos_token)]] if self.bos else []
        eos = [ids[cast("str", self.tokenizer.eos_token)]] if self.eos else []
        ends = [Part(eos, [text] * len(eos)) for text in range(texts)]
        return Template([Part(bos, [0] * len(bos)), *ends], list(range(texts)))

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
                default for rows of words), `characters`, `bytes`, `bpe`, `wordpiece`, `unigram`, or a plugin's.
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
    def from_vocabulary(
        cls,
        vocabulary: Iterable[str],
        kind: str | None = None,
        *,
        bos: bool = False,
        eos: bool = False,
        max_length: int | None = None,
        offsets: bool = True,
        **options: Unpack[VocabularyOptions],
    ) -> Self:
        """Make the stage for a given vocabulary; nothing is learned.

        Args:
            vocabulary: the tokens in the order of their ids, such as the words of a file of vectors. Special tokens
                that are not among them come first.
            kind: how texts become tokens: `words` (by default, for texts), `whole` (by default for rows of words),
                `characters` or `wordpiece`, as in `train`.
            bos: as in `Tokenize`.
            eos: as in `Tokenize`.
            max_length: as in `Tokenize`.
            offsets: as in `Tokenize`.
            options: `lowercase`, `normalization` and the special tokens, as in `train`.

        Raises:
            OptionError: if a token occurs twice, or the kind is none of these.

        Example:
            >>> from pipeline import TokenizeWords
            >>> tokenize = TokenizeWords.from_vocabulary(["the", "of", "<unk>"], bos_token=None, eos_token=None)
            >>> tokenize(["of", "course", "the"]).sequence.values.tolist()
            [2, 3, 1]
        """
        tokenizer = make_from_vocabulary(vocabulary, kind or cls.default_kind, **options)
        return cls(tokenizer, bos=bos, eos=eos, max_length=max_length, offsets=offsets)

    @classmethod
    def read(
        cls,
        file: str | PathLike[str],
        *,
        bos: bool | None = None,
        eos: bool | None = None,
        max_length: int | Literal["file"] | None = "file",
        offsets: bool = True,
        **tokens: Unpack[SpecialTokens],
    ) -> Self:
        """Read a tokenizer from a `tokenizer.json`, such as one of the Hugging Face Hub, and make the stage for it.

        Rows have the special tokens that the file's post-processor puts around a text, and are truncated as the file
        states. So their ids are those of the `tokenizers` and `transformers` libraries, unless a special token occurs
        in a text: here it is text.

        Args:
            file: the path. A `tokenizer_config.json` or `special_tokens_map.json` beside it names the special tokens.
            bos: whether rows begin with bos; if `bos` or `eos` is given, the post-processor is not applied.
            eos: whether rows end with eos.
            max_length: truncate rows to this number of tokens instead; None does not truncate.
            offsets: as in `Tokenize`.
            tokens: `pad_token`, `unk_token`, `bos_token`, `eos_token`, `mask_token`, `cls_token`, `sep_token`: tokens
                of the file, or None for no such token. Those left out are taken from the files, where they state them.

        Raises:
            OptionError: if the file is not a tokenizer, or lacks one of the tokens.
        """
        tokenizer = HuggingFaceTokenizer.read(Path(file), **tokens)
        truncation = tokenizer.truncation
        return cls(
            tokenizer,
            bos=bool(bos),
            eos=bool(eos),
            post_process=bos is None and eos is None,
            max_length=truncation.max_length if max_length == "file" else max_length,
            truncation_side=truncation.side,
            offsets=offsets,
        )

    def describe_part(self) -> str:
        """Return the tokenizer's class and module, for errors that it raises."""
        return f"tokenizer {type(self.tokenizer).__name__!r} of module {type(self.tokenizer).__module__}"

    @property
    def vocab_size(self) -> int:
        """The number of ids: `num_embeddings` of `Embed`."""
        return max(self.tokenizer.vocabulary.values()) + 1

    @property
    def unk_id(self) -> int:
        """The id of the unknown token, for `WordDropout`.

        Raises:
            OptionError: if the tokenizer has none.
        """
        if self.tokenizer.unk_token is None:
            msg = "the tokenizer has no unknown token; choose another, such as words, or read it with unk_token=..."
            raise OptionError(msg)
        return self.tokenizer.vocabulary[self.tokenizer.unk_token]

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
        return min(tokens, self._get_room(tokens)) + self.count_added()

    def count_added(self) -> int:
        """Return the number of special tokens that are added to each row."""
        return len(self.first_ids) + len(self.last_ids)

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
        return not (self.by_words or self.offsets or self.count_added() or self.max_length is not None)

    @abstractmethod
    def _align_targets(
        self, tokens: Tokens, target: Target, row: int
    ) -> tuple[Sequence[int | str | None] | None, list[bool] | None]:
        """Return one target per token (None unless targets are per step), and the answer mask (None: all tokens)."""

    def _get_room(self, tokens: int) -> int:
        return tokens if self.max_length is None else self.max_length - self.count_added()

    def _get_window(self, tokens: int) -> slice:
        """Return which of some tokens are kept."""
        room = self._get_room(tokens)
        return slice(room) if self.truncation_side == "right" else slice(max(tokens - room, 0), tokens)

    def make_row(self, tokens: Tokens, target: Target, row: int) -> Row[Ids]:
        """Return the row of an input's tokens, with this row id.

        Raises:
            TargetError: if there are targets per step, but not one per token (or word).
        """
        return self._make_rows([tokens], [target], [row])[0]

    def _make_rows(self, found: Sequence[Tokens], targets: Sequence[Target], row_ids: Sequence[int]) -> list[Row[Ids]]:
        if self.by_words or self.count_added() or not set(map(type, targets)) <= _WHOLE:
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
            ids = ids[self._get_window(len(ids))]
        return [*self.first_ids, *ids, *self.last_ids] if self.first_ids or self.last_ids else ids

    def _align(self, tokens: Tokens, target: Target, row: int) -> tuple[Target, Sequence[bool] | None]:
        """Return the target and the answer mask of a row, with one entry per step of the row."""
        window = self._get_window(len(tokens.ids))
        target, mask = self._align_named(tokens, target, row, window)
        if self.first_ids or self.last_ids:
            # Special tokens have no target, and no prediction is wanted for them.
            inner = mask if mask is not None else [True] * len(tokens.ids)
            return target, [*[False] * len(self.first_ids), *inner[window], *[False] * len(self.last_ids)]
        return target, None if mask is None else mask[window]

    def _align_named(
        self, tokens: Tokens, target: Target, row: int, window: slice = _ALL
    ) -> tuple[Target, list[bool] | None]:
        """Return the target and the answer mask; a target per token or word gets one entry per step of the row."""
        named = target if isinstance(target, Mapping) else {"": target}
        # The mask does not depend on the targets, and is needed without any.
        _, mask = self._align_targets(tokens, None, row)
        first, last = [None] * len(self.first_ids), [None] * len(self.last_ids)
        fitted: dict[str, OneTarget] = {}
        for name, each in named.items():
            steps, _ = self._align_targets(tokens, each, row)
            fitted[name] = each if steps is None else [*first, *steps[window], *last]
        return (fitted if isinstance(target, Mapping) else fitted[""]), mask

    def _list_offsets(self, tokens: Tokens) -> list[int]:
        """Return the start and the end of each step of a row, one after the other."""
        offsets = tokens.offsets
        if self.max_length is not None:
            offsets = offsets[self._get_window(len(tokens.ids))]
        flat = list(chain.from_iterable(offsets))
        if self.first_ids or self.last_ids:
            # Special tokens have empty spans, at the start and at the end of the text.
            end = flat[-1] if flat else 0
            flat = [*[0, 0] * len(self.first_ids), *flat, *[end, end] * len(self.last_ids)]
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
