"""Tokenizers on the Hugging Face `tokenizers` library: its Rust code does the work.

Source: https://huggingface.co/docs/tokenizers
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from typing_extensions import override

from pipeline.errors import OptionError
from pipeline.extras import LazyModule
from pipeline.parts.tokenizer import BOS, EOS, PAD, SPECIALS, UNKNOWN, Tokenizer, Tokens

if TYPE_CHECKING:
    import tokenizers
else:
    # An extra: a pipe over ids or features needs no tokenizer.
    tokenizers = LazyModule("tokenizers", extra="text", why="a tokenizer")

Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]


@final
class HuggingFace(Tokenizer):
    """A tokenizer of the `tokenizers` library. Special tokens that stand in the text are text, and cut up as such.

    Args:
        tokenizer: the library's own object; its truncation and padding are switched off.
        pad, unknown, bos, eos: which of its tokens have these meanings; None for none.

    Raises:
        OptionError: if a token is not in its vocabulary.
    """

    def __init__(
        self,
        tokenizer: "tokenizers.Tokenizer",
        *,
        pad: str | None = PAD,
        unknown: str | None = UNKNOWN,
        bos: str | None = BOS,
        eos: str | None = EOS,
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self.vocabulary: Mapping[str, int] = tokenizer.get_vocab(with_added_tokens=True)
        self.pad: str | None = pad
        self.unknown: str | None = unknown
        self.bos: str | None = bos
        self.eos: str | None = eos
        for meaning, token in (("pad", pad), ("unknown", unknown), ("bos", bos), ("eos", eos)):
            if token is not None and token not in self.vocabulary:
                some = ", ".join(sorted(self.vocabulary, key=self.vocabulary.__getitem__)[:8])
                msg = (
                    f"{meaning}={token!r} is not in the vocabulary, which begins with {some}; name one of it, or None."
                )
                raise OptionError(msg, token=token)
        self._specials = {self.vocabulary[token] for token in (pad, bos, eos) if token is not None}
        self._tokenizer = tokenizer

    @classmethod
    def read(
        cls, file: Path, *, pad: str | None, unknown: str | None, bos: str | None, eos: str | None
    ) -> "HuggingFace":
        """A tokenizer from a `tokenizer.json`: data alone, nothing in it is run.

        Raises:
            OptionError: if the file is none, or a token is not in its vocabulary.
        """
        read_file = tokenizers.Tokenizer.from_file  # before `try`: a missing package is no bad file
        try:
            tokenizer = read_file(str(file))
        except Exception as error:  # the library raises plain Exception
            msg = f"file must be a tokenizer.json of the tokenizers library, but {str(file)!r} is not: {error}"
            raise OptionError(msg, file=str(file)) from error
        return cls(tokenizer, pad=pad, unknown=unknown, bos=bos, eos=eos)

    def save(self, file: Path) -> None:
        """Write a `tokenizer.json` that `read` takes back."""
        self._tokenizer.save(str(file))

    @override
    def encode(self, texts: Sequence[str], *, offsets: bool = True) -> list[Tokens]:
        return self._encode(list(texts), offsets=offsets, split=False)

    @override
    def encode_words(self, rows: Sequence[Sequence[str]], *, offsets: bool = True) -> list[Tokens]:
        return self._encode([list(row) for row in rows], offsets=offsets, split=True)

    @override
    def content(self) -> str | None:
        """The library's own description, and which tokens are special; another version of the library is another."""
        meanings = [self.pad, self.unknown, self.bos, self.eos]
        return json.dumps([tokenizers.__version__, meanings, self._tokenizer.to_str()])

    @override
    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([i for i in ids if i not in self._specials], skip_special_tokens=False)

    def _as_text(self, ids: list[int]) -> list[int]:
        """Special tokens that were found in a text are text, and as words they are unknown ones."""
        if self.unknown is None:
            return ids
        unknown = self.vocabulary[self.unknown]
        return [unknown if i in self._specials else i for i in ids]

    def _encode(self, inputs: list[str] | list[list[str]], *, offsets: bool, split: bool) -> list[Tokens]:
        # Set at each call: it does not survive pickling, and without it "<pad>" in a text would become padding.
        # Where it is set already it is left: setting it fails while another thread encodes.
        if not self._tokenizer.encode_special_tokens:
            self._tokenizer.encode_special_tokens = True
        # The faster call does not say which word a token belongs to.
        encode = self._tokenizer.encode_batch if offsets or split else self._tokenizer.encode_batch_fast
        found = encode(inputs, is_pretokenized=split, add_special_tokens=False)
        none_in = self._specials.isdisjoint
        return [
            Tokens(
                ids if none_in(ids := encoding.ids) else self._as_text(ids),
                encoding.offsets if offsets else (),
                [word for word in encoding.word_ids if word is not None] if split else (),
            )
            for encoding in found
        ]


def words(
    texts: Iterable[str],
    *,
    vocab_size: int = 30_000,
    min_frequency: int = 1,
    lowercase: bool = False,
    normalization: Normalization | None = None,
) -> Tokenizer:
    """Words and runs of punctuation, the most frequent `vocab_size`; others are unknown.

    Decoding joins them by spaces.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return _word_level(tokenizer, texts, vocab_size, min_frequency, lowercase, normalization)


def whole(
    texts: Iterable[str],
    *,
    vocab_size: int = 30_000,
    min_frequency: int = 1,
    lowercase: bool = False,
    normalization: Normalization | None = None,
) -> Tokenizer:
    """Each text one token, or each word of an already split row: what a tagger wants.

    Decoding joins them by spaces.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=UNKNOWN))
    return _word_level(tokenizer, texts, vocab_size, min_frequency, lowercase, normalization)


def characters(
    texts: Iterable[str],
    *,
    vocab_size: int = 30_000,
    min_frequency: int = 1,
    lowercase: bool = False,
    normalization: Normalization | None = None,
) -> Tokenizer:
    """Unicode characters, line ends and spaces among them; those never seen in training are unknown."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=UNKNOWN))
    # Oniguruma's (?m): the dot takes line ends too.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("(?m)."), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()
    return _word_level(tokenizer, texts, vocab_size, min_frequency, lowercase, normalization)


def byte_level(
    texts: Iterable[str] = (),  # noqa: ARG001 - every tokenizer's factory takes them
    *,
    lowercase: bool = False,
    normalization: Normalization | None = None,
) -> Tokenizer:
    """The bytes of the text's UTF-8: 256 tokens and the special ones; nothing is unknown, or learned from `texts`."""
    return _byte_pairs((), 0, 0, lowercase, normalization)


def bpe(
    texts: Iterable[str],
    *,
    vocab_size: int = 30_000,
    min_frequency: int = 2,
    lowercase: bool = False,
    normalization: Normalization | None = None,
) -> Tokenizer:
    """Byte pairs: pieces of words, learned from the text, down to single bytes; nothing is unknown.

    Source: Sennrich, Haddow and Birch 2016, arXiv:1508.07909; on bytes, as Radford et al. 2019 (GPT-2).
    """
    return _byte_pairs(texts, vocab_size, min_frequency, lowercase, normalization)


def _byte_pairs(
    texts: Iterable[str], vocab_size: int, min_frequency: int, lowercase: bool, normalization: Normalization | None
) -> Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    _normalize(tokenizer, lowercase, normalization)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list(SPECIALS),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return HuggingFace(tokenizer)


def _word_level(
    tokenizer: "tokenizers.Tokenizer",
    texts: Iterable[str],
    vocab_size: int,
    min_frequency: int,
    lowercase: bool,
    normalization: Normalization | None,
) -> Tokenizer:
    _normalize(tokenizer, lowercase, normalization)
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list(SPECIALS), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return HuggingFace(tokenizer)


def _normalize(tokenizer: "tokenizers.Tokenizer", lowercase: bool, normalization: Normalization | None) -> None:
    steps: list[tokenizers.normalizers.Normalizer] = []
    if normalization is not None:
        forms = {
            "NFC": tokenizers.normalizers.NFC,
            "NFD": tokenizers.normalizers.NFD,
            "NFKC": tokenizers.normalizers.NFKC,
            "NFKD": tokenizers.normalizers.NFKD,
        }
        if normalization not in forms:
            msg = f"normalization must be one of {', '.join(forms)} or None, but {normalization!r} arrived."
            raise OptionError(msg, normalization=normalization)
        steps.append(forms[normalization]())
    if lowercase:
        steps.append(tokenizers.normalizers.Lowercase())
    if steps:
        tokenizer.normalizer = tokenizers.normalizers.Sequence(steps)
