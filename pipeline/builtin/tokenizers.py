"""Tokenizers on the Hugging Face `tokenizers` library: its Rust code does the work.

Source: https://huggingface.co/docs/tokenizers
"""

import json
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, final

import attrs
from typing_extensions import Unpack, override

from pipeline.builtin.clusters import Clusters
from pipeline.builtin.special_tokens import (
    DEFAULTS,
    NAMES,
    SpecialTokens,
    check_special_tokens,
    find_special_tokens,
    read_named_tokens,
)
from pipeline.builtin.templates import read_template
from pipeline.errors import OptionError
from pipeline.extras import LazyModule
from pipeline.parts.template import Template
from pipeline.parts.tokenizer import Tokenizer, Tokens

if TYPE_CHECKING:
    import tokenizers
else:
    # An extra: a pipe over ids or features needs no tokenizer.
    tokenizers = LazyModule("tokenizers", extra="text", why="a tokenizer")


Side: TypeAlias = Literal["right", "left"]
Strategy: TypeAlias = Literal["longest_first", "only_first", "only_second"]


@final
@attrs.frozen
class Truncation:
    """The truncation that a `tokenizer.json` states.

    Attributes:
        max_length: the limit of a row, special tokens included.
        side: the side at which tokens are left out, "right" or "left".
        strategy: which text of a pair is cut: "longest_first", "only_first" or "only_second".
    """

    max_length: int | None = None
    side: Side = "right"
    strategy: Strategy = "longest_first"


@final
class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library. Special tokens that occur in a text are treated as text.

    Args:
        tokenizer: the library's own object; its truncation and padding are switched off.
        tokens: `pad_token`, `unk_token`, `bos_token`, `eos_token`, `mask_token`, `cls_token` and `sep_token`; of those
            left out, the first four are `<pad>`, `<unk>`, `<bos>` and `<eos>`, and the others None.

    Attributes:
        truncation: the truncation that the object had.

    Raises:
        OptionError: if a token is not in its vocabulary.
    """

    def __init__(self, tokenizer: "tokenizers.Tokenizer", **tokens: Unpack[SpecialTokens]) -> None:
        self.truncation: Final = _find_truncation(tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        ids = tokenizer.get_vocab(with_added_tokens=True)
        # In the order of ids: that of the library changes from run to run.
        self.vocabulary: Mapping[str, int] = dict(sorted(ids.items(), key=lambda item: item[1]))
        self.special_tokens: Final[Mapping[str, str | None]] = {
            name: cast("str | None", tokens.get(name, DEFAULTS.get(name))) for name in NAMES
        }
        check_special_tokens(self.special_tokens.items(), self.vocabulary)
        self.pad_token: str | None = self.special_tokens["pad_token"]
        self.unk_token: str | None = self.special_tokens["unk_token"]
        self.bos_token: str | None = self.special_tokens["bos_token"]
        self.eos_token: str | None = self.special_tokens["eos_token"]
        self.mask_token: str | None = self.special_tokens["mask_token"]
        self._special_ids = {
            self.vocabulary[token]
            for name, token in self.special_tokens.items()
            if token is not None and name != "unk_token"
        }
        self._templates: Final[dict[int, Template]] = {}
        self._tokenizer = tokenizer
        # Without a normalizer, the library's offsets are right.
        self._clusters = None if tokenizer.normalizer is None else Clusters(tokenizer.normalizer)

    @classmethod
    def read(cls, file: Path, **tokens: Unpack[SpecialTokens]) -> "HuggingFaceTokenizer":
        """Read a `tokenizer.json`: it is data, and nothing in it is executed.

        Args:
            file: the path. A `tokenizer_config.json` or `special_tokens_map.json` beside it names the special tokens.
            tokens: special tokens; those left out are taken from the files, and None if they do not state them.

        Raises:
            OptionError: if a file is not valid, or a token is not in the vocabulary.
        """
        read_file = tokenizers.Tokenizer.from_file  # before `try`: a missing package is not a bad file
        try:
            tokenizer = read_file(str(file))
        except Exception as error:  # the library raises plain Exception
            msg = f"file must be a tokenizer.json of the tokenizers library, but {str(file)!r} is not: {error}"
            raise OptionError(msg, file=str(file)) from error
        return cls(tokenizer, **(_find_special_tokens(tokenizer, read_named_tokens(file)) | tokens))

    @classmethod
    def parse(cls, text: str, **tokens: Unpack[SpecialTokens]) -> "HuggingFaceTokenizer":
        """Make a tokenizer of the text of a `tokenizer.json`, as `read` does.

        Raises:
            OptionError: if the text is not a tokenizer, or a token is not in its vocabulary.
        """
        parse_text = tokenizers.Tokenizer.from_str
        try:
            tokenizer = parse_text(text)
        except BaseException as error:
            # A panic of the library's Rust code is no Exception.
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            msg = f"the text must be that of a tokenizer.json of the tokenizers library, but is not: {error}"
            raise OptionError(msg) from error
        return cls(tokenizer, **(_find_special_tokens(tokenizer) | tokens))

    @override
    def get_template(self, texts: int = 1) -> Template:
        """Return what the post-processor puts around a text, or around two."""
        if texts not in self._templates:
            self._templates[texts] = read_template(self._tokenizer, texts)
        return self._templates[texts]

    def to_json(self) -> str:
        """Return the text of a `tokenizer.json` that `read` and `parse` accept."""
        return self._tokenizer.to_str(pretty=True)

    def save(self, file: Path) -> None:
        """Write a `tokenizer.json` that `read` reads."""
        self._tokenizer.save(str(file))

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return self._encode(list(texts), offsets=offsets, split=False)

    @override
    def encode_ids(self, texts: Sequence[str]) -> list[list[int]]:
        ids = [encoding.ids for encoding in self._run(list(texts), offsets=False, split=False)]
        # All rows at once: a text that holds a special token is rare.
        if self._special_ids.isdisjoint(chain.from_iterable(ids)):
            return ids
        return [self._replace_special_ids(each) for each in ids]

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        return self._encode([list(row) for row in rows], offsets=offsets, split=True)

    @override
    def cache_key(self) -> str | None:
        """Return the library's version, the special tokens and the library's description of the tokenizer."""
        return json.dumps([tokenizers.__version__, list(self.special_tokens.values()), self._tokenizer.to_str()])

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i not in self._special_ids], skip_special_tokens=False)

    def _run(
        self, inputs: list[str] | list[list[str]], *, offsets: bool, split: bool
    ) -> "Sequence[tokenizers.Encoding]":
        # Set at each call: it does not survive pickling, and without it "<pad>" in a text would become padding.
        # Not set again if it is set: that fails while another thread encodes.
        if not self._tokenizer.encode_special_tokens:
            self._tokenizer.encode_special_tokens = True
        # encode_batch_fast skips the offsets, but also the word of each token.
        encode = self._tokenizer.encode_batch if offsets or split else self._tokenizer.encode_batch_fast
        return encode(inputs, is_pretokenized=split, add_special_tokens=False)

    def _encode(self, inputs: list[str] | list[list[str]], *, offsets: bool, split: bool) -> list[Tokens]:
        found = self._run(inputs, offsets=offsets, split=split)
        has_none_of = self._special_ids.isdisjoint
        return [
            Tokens(
                ids if has_none_of(ids := encoding.ids) else self._replace_special_ids(ids),
                self._get_offsets(source, encoding) if offsets else (),
                [word for word in encoding.word_ids if word is not None] if split else (),
            )
            for source, encoding in zip(inputs, found, strict=True)
        ]

    def _get_offsets(self, source: Sequence[str], encoding: "tokenizers.Encoding") -> Sequence[tuple[int, int]]:
        offsets: list[tuple[int, int]] = encoding.offsets
        if self._clusters is None:
            return offsets
        if isinstance(source, str):
            return self._clusters.extend(source, offsets)
        # The tokens of a word are side by side, and their offsets count from its beginning.
        spans = iter(offsets)
        found: list[tuple[int, int]] = []
        for word, tokens in groupby(encoding.word_ids):
            text = "" if word is None else source[word]
            found += self._clusters.extend(text, [next(spans) for _ in tokens])
        return found

    def _replace_special_ids(self, ids: list[int]) -> list[int]:
        """Replace special tokens by the unknown one: a whole word such as "<pad>" has no other token."""
        if self.unk_token is None:
            return ids
        unknown = self.vocabulary[self.unk_token]
        return [unknown if i in self._special_ids else i for i in ids]


def _find_special_tokens(tokenizer: "tokenizers.Tokenizer", named: Mapping[str, str] | None = None) -> SpecialTokens:
    """Return the special tokens that are named, or else those that the tokenizer states, if its vocabulary has them."""
    file: dict[str, Any] = json.loads(tokenizer.to_str())
    stated = find_special_tokens(file, _find_ends(file.get("post_processor") or {}))
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    found = {name: token if token in vocabulary else None for name, token in stated.items()}
    return cast("SpecialTokens", found | {name: token for name, token in (named or {}).items() if token in vocabulary})


def _find_ends(processor: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Return the special tokens that a post-processor puts before and after a text; None for each that it does not."""
    kind: object = processor.get("type")
    if kind == "TemplateProcessing":
        template: Sequence[Mapping[str, Any]] = processor["single"]
        first, last = (piece.get("SpecialToken", {}).get("id") for piece in (template[0], template[-1]))
        return first, last
    if kind in {"BertProcessing", "RobertaProcessing"}:
        return processor["cls"][0], processor["sep"][0]
    # One of kind Sequence holds others.
    found = (_find_ends(inner) for inner in processor.get("processors", ()))
    return next((pair for pair in found if pair != (None, None)), (None, None))


def _find_truncation(tokenizer: "tokenizers.Tokenizer") -> Truncation:
    library: Any = tokenizer  # whose types leave this open
    stated: Mapping[str, Any] | None = library.truncation
    if stated is None:
        return Truncation()
    return Truncation(stated["max_length"], stated["direction"], stated["strategy"])
