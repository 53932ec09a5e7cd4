"""Tokenizers on the Hugging Face `tokenizers` library: its Rust code does the work.

Source: https://huggingface.co/docs/tokenizers
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, final

from typing_extensions import Unpack, override

from pipeline.builtin.clusters import Clusters
from pipeline.errors import OptionError
from pipeline.extras import LazyModule
from pipeline.parts.tokenizer import BOS, EOS, PAD, UNKNOWN, Tokenizer, Tokens

if TYPE_CHECKING:
    import tokenizers
else:
    # An extra: a pipe over ids or features needs no tokenizer.
    tokenizers = LazyModule("tokenizers", extra="text", why="a tokenizer")

Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]

# The special tokens of tokenizers trained here.
_DEFAULTS: Final = {"pad_token": PAD, "unk_token": UNKNOWN, "bos_token": BOS, "eos_token": EOS}


class SpecialTokens(TypedDict, total=False):
    """The special tokens of a tokenizer, named as in Hugging Face; None for a token that it does not have."""

    pad_token: str | None
    unk_token: str | None
    bos_token: str | None
    eos_token: str | None


@final
class HuggingFaceTokenizer(Tokenizer):
    """A tokenizer of the `tokenizers` library. Special tokens that occur in a text are treated as text.

    Args:
        tokenizer: the library's own object; its truncation and padding are switched off.
        tokens: `pad_token`, `unk_token`, `bos_token` and `eos_token`; those left out are `<pad>`, `<unk>`, `<bos>` and
            `<eos>`.

    Raises:
        OptionError: if a token is not in its vocabulary.
    """

    def __init__(self, tokenizer: "tokenizers.Tokenizer", **tokens: Unpack[SpecialTokens]) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.vocabulary: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.pad_token: str | None = tokens.get("pad_token", PAD)
        self.unk_token: str | None = tokens.get("unk_token", UNKNOWN)
        self.bos_token: str | None = tokens.get("bos_token", BOS)
        self.eos_token: str | None = tokens.get("eos_token", EOS)
        for option in _DEFAULTS:
            token: str | None = getattr(self, option)
            if token is not None and token not in self.vocabulary:
                some = ", ".join(sorted(self.vocabulary, key=self.vocabulary.__getitem__)[:8])
                msg = (
                    f"{option} must be in the vocabulary, which begins with {some}, got {token!r}; "
                    "choose a token of the vocabulary, or None."
                )
                raise OptionError(msg, token=token)
        added = (self.pad_token, self.bos_token, self.eos_token)
        self._special_ids = {self.vocabulary[token] for token in added if token is not None}
        self._tokenizer = tokenizer
        # Without a normalizer, the library's offsets are right.
        self._clusters = None if tokenizer.normalizer is None else Clusters(tokenizer.normalizer)

    @classmethod
    def read(cls, file: Path, **tokens: Unpack[SpecialTokens]) -> "HuggingFaceTokenizer":
        """Read a `tokenizer.json`: it is data, and nothing in it is executed.

        Args:
            file: the path.
            tokens: special tokens; those left out are taken from the file, and None if it does not state them.

        Raises:
            OptionError: if the file is not a tokenizer, or a token is not in its vocabulary.
        """
        read_file = tokenizers.Tokenizer.from_file  # before `try`: a missing package is not a bad file
        try:
            tokenizer = read_file(str(file))
        except Exception as error:  # the library raises plain Exception
            msg = f"file must be a tokenizer.json of the tokenizers library, but {str(file)!r} is not: {error}"
            raise OptionError(msg, file=str(file)) from error
        return cls(tokenizer, **(_find_special_tokens(tokenizer) | tokens))

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
        special = [self.pad_token, self.unk_token, self.bos_token, self.eos_token]
        return json.dumps([tokenizers.__version__, special, self._tokenizer.to_str()])

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


def _find_special_tokens(tokenizer: "tokenizers.Tokenizer") -> SpecialTokens:
    """Return the special tokens that a `tokenizer.json` states.

    The model states the unknown token, the padding options state the padding token, and the post-processor states bos
    and eos. A token that is not stated is `<pad>`, `<unk>`, `<bos>` or `<eos>`, if that is marked as special, as in
    tokenizers trained here.
    """
    file: dict[str, Any] = json.loads(tokenizer.to_str())
    special = {token["content"] for token in file.get("added_tokens") or () if token.get("special")}
    found: dict[str, str | None] = {option: token if token in special else None for option, token in _DEFAULTS.items()}
    padding: Mapping[str, Any] = file.get("padding") or {}
    found["pad_token"] = padding.get("pad_token") or found["pad_token"]
    found["unk_token"] = _find_unknown_token(file["model"]) or found["unk_token"]
    first, last = _find_ends(file.get("post_processor") or {})
    return SpecialTokens(
        pad_token=found["pad_token"],
        unk_token=found["unk_token"],
        bos_token=first or found["bos_token"],
        eos_token=last or found["eos_token"],
    )


def _find_unknown_token(model: Mapping[str, Any]) -> str | None:
    token: str | None = model.get("unk_token")
    if token is None and model.get("unk_id") is not None:  # a Unigram model states its number
        token = model["vocab"][model["unk_id"]][0]
    # A WordLevel model always states one, even if the vocabulary lacks it.
    return token if token is None or "unk_id" in model or token in model["vocab"] else None


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


def _train_word_level(
    prepare: Callable[["tokenizers.Tokenizer"], None],
    texts: Iterable[str],
    *,
    vocab_size: int = 30_000,
    min_frequency: int = 1,
    lowercase: bool = False,
    normalization: Normalization | None = None,
    pad_token: str | None = PAD,
    unk_token: str = UNKNOWN,
    bos_token: str | None = BOS,
    eos_token: str | None = EOS,
) -> Tokenizer:
    """Train a tokenizer whose tokens are those that `prepare` splits texts into: the most frequent `vocab_size`."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=unk_token))
    prepare(tokenizer)
    _set_normalizer(tokenizer, lowercase, normalization)
    special = SpecialTokens(pad_token=pad_token, unk_token=unk_token, bos_token=bos_token, eos_token=eos_token)
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=_list_tokens(special), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return HuggingFaceTokenizer(tokenizer, **special)


def _split_words(tokenizer: "tokenizers.Tokenizer") -> None:
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()


def _split_characters(tokenizer: "tokenizers.Tokenizer") -> None:
    # In Oniguruma, (?m) makes the dot match line ends too.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("(?m)."), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()


def _split_nothing(_: "tokenizers.Tokenizer") -> None:
    pass


words: Callable[..., Tokenizer] = partial(_train_word_level, _split_words)
"""Train a tokenizer for words and runs of punctuation. Decoding joins them with spaces."""

whole: Callable[..., Tokenizer] = partial(_train_word_level, _split_nothing)
"""Train a tokenizer with one token per text, or per word of a row of words, as taggers need."""

characters: Callable[..., Tokenizer] = partial(_train_word_level, _split_characters)
"""Train a tokenizer for Unicode characters, line ends and spaces included; unseen ones are unknown."""


def byte_level(
    texts: Iterable[str] = (),  # noqa: ARG001 - every tokenizer factory takes texts
    *,
    lowercase: bool = False,
    normalization: Normalization | None = None,
    pad_token: str | None = PAD,
    unk_token: str | None = UNKNOWN,
    bos_token: str | None = BOS,
    eos_token: str | None = EOS,
) -> Tokenizer:
    """Make a tokenizer for the bytes of UTF-8: 256 tokens and the special ones. Nothing is learned from `texts`."""
    special = SpecialTokens(pad_token=pad_token, unk_token=unk_token, bos_token=bos_token, eos_token=eos_token)
    # Without texts and room for pairs, byte-pair encoding has only its alphabet.
    return bpe((), vocab_size=0, min_frequency=0, lowercase=lowercase, normalization=normalization, **special)


def bpe(
    texts: Iterable[str],
    *,
    vocab_size: int = 30_000,
    min_frequency: int = 2,
    lowercase: bool = False,
    normalization: Normalization | None = None,
    pad_token: str | None = PAD,
    unk_token: str | None = UNKNOWN,
    bos_token: str | None = BOS,
    eos_token: str | None = EOS,
) -> Tokenizer:
    """Train byte-pair encoding: frequent pieces of words, down to single bytes, so that no text is unknown.

    Source: Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units",
    arXiv:1508.07909; on bytes, as in Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """
    special = SpecialTokens(pad_token=pad_token, unk_token=unk_token, bos_token=bos_token, eos_token=eos_token)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    # No prefix space: decoding must give the text back exactly.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    _set_normalizer(tokenizer, lowercase, normalization)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=_list_tokens(special),
        # All 256 bytes, not only those of the texts: then no text is unknown.
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return HuggingFaceTokenizer(tokenizer, **special)


def _list_tokens(special: SpecialTokens) -> list[str]:
    # The order gives their ids, from 0.
    tokens = (special.get("pad_token"), special.get("unk_token"), special.get("bos_token"), special.get("eos_token"))
    return [token for token in tokens if token is not None]


def _set_normalizer(tokenizer: "tokenizers.Tokenizer", lowercase: bool, normalization: Normalization | None) -> None:
    steps: list[tokenizers.normalizers.Normalizer] = []
    if normalization is not None:
        forms = ("NFC", "NFD", "NFKC", "NFKD")
        if normalization not in forms:
            msg = (
                f"normalization must be one of {', '.join(forms)} or None, got {normalization!r}; choose one of these."
            )
            raise OptionError(msg, normalization=normalization)
        steps.append(getattr(tokenizers.normalizers, normalization)())
    if lowercase:
        steps.append(tokenizers.normalizers.Lowercase())
    if steps:
        tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
