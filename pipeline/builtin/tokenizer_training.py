"""Tokenizers trained on texts, or made of a given vocabulary, with the Hugging Face `tokenizers` library."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, TypedDict, cast

from pipeline.builtin.special_tokens import SpecialTokens, list_tokens
from pipeline.builtin.tokenizers import HuggingFaceTokenizer
from pipeline.builtin.unigram import train_unigram
from pipeline.checks.options import check_int
from pipeline.errors import OptionError
from pipeline.extras import LazyModule
from pipeline.parts.tokenizer import BOS, EOS, PAD, UNKNOWN, Tokenizer

if TYPE_CHECKING:
    import tokenizers
else:
    tokenizers = LazyModule("tokenizers", extra="text", why="a tokenizer")

Normalization = Literal["NFC", "NFD", "NFKC", "NFKD"]

_LONGEST_WORD: Final = 100
"""Longer words are split into words of this length, as in BERT's tokenizer, where they are unknown. The time for a word
grows with the cube of its length."""


class VocabularyOptions(TypedDict, total=False):
    """The options of a tokenizer with a given vocabulary; the special tokens are those of `train`."""

    lowercase: bool
    normalization: Normalization | None
    pad_token: str | None
    unk_token: str
    bos_token: str | None
    eos_token: str | None
    mask_token: str | None


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
    mask_token: str | None = None,
) -> Tokenizer:
    """Train a tokenizer whose tokens are those that `prepare` splits texts into: the most frequent `vocab_size`."""
    special = _name_tokens(pad_token, _check_unknown(unk_token), bos_token, eos_token, mask_token)
    vocab_size = _check_size(vocab_size, special)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(unk_token=unk_token))
    prepare(tokenizer)
    _set_normalizer(tokenizer, lowercase, normalization)
    trainer = tokenizers.trainers.WordLevelTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, special_tokens=list_tokens(special), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ids = tokenizer.get_vocab()
    if max(ids.values()) < len(ids):
        return HuggingFaceTokenizer(tokenizer, **special)
    # The trainer gives a word of the texts that is written as a special token a second id, and leaves the first unused.
    names = list_tokens(special)
    ordered = [*names, *(token for token in sorted(ids, key=ids.__getitem__) if token not in names)]
    model = tokenizers.models.WordLevel({token: number for number, token in enumerate(ordered)}, unk_token=unk_token)
    return _make(model, special, prepare, lowercase, normalization)


def _check_unknown(token: str | None) -> str:
    """Reject None as the token of unknown texts.

    Raises:
        OptionError: if it is None.
    """
    if token is None:
        msg = (
            "unk_token must be a text, since this kind of tokenizer has unknown texts, got None; choose one, or train "
            'the kind "bytes" or "bpe".'
        )
        raise OptionError(msg, unk_token=token)
    return token


def _check_size(size: int, special: SpecialTokens, *, others: int = 1, what: str = "at least one more") -> int:
    """Return the size of a vocabulary, which must hold the special tokens and others.

    Raises:
        OptionError: if it is too small, or no integer.
    """
    count = len(list_tokens(special))
    advice = f"raise it, to hold the {count} special tokens and {what}" if count else f"raise it, to hold {what}"
    return check_int("vocab_size", size, minimum=count + others, advice=advice)


def _split_words(tokenizer: "tokenizers.Tokenizer") -> None:
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()


def _split_characters(tokenizer: "tokenizers.Tokenizer") -> None:
    # In Oniguruma, (?m) makes the dot match line ends too.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex("(?m)."), "isolated")
    tokenizer.decoder = tokenizers.decoders.Fuse()


def _split_nothing(_: "tokenizers.Tokenizer") -> None:
    pass


def _split_pieces(tokenizer: "tokenizers.Tokenizer") -> None:
    short = tokenizers.pre_tokenizers.Split(tokenizers.Regex(f".{{1,{_LONGEST_WORD}}}"), "isolated")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([tokenizers.pre_tokenizers.Whitespace(), short])
    tokenizer.decoder = tokenizers.decoders.WordPiece(cleanup=False)


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
    mask_token: str | None = None,
) -> Tokenizer:
    """Make a tokenizer for the bytes of UTF-8: 256 tokens and the special ones. Nothing is learned from `texts`."""
    special = _name_tokens(pad_token, unk_token, bos_token, eos_token, mask_token)
    # Without texts and room for pairs, byte-pair encoding has only its alphabet.
    return _train_bpe((), special, 0, 0, lowercase, normalization)


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
    mask_token: str | None = None,
) -> Tokenizer:
    """Train byte-level byte-pair encoding: frequent pieces of words, down to single bytes, so that no text is unknown.

    Source: Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units",
    arXiv:1508.07909; on bytes, as in Radford et al. 2019, "Language Models are Unsupervised Multitask Learners".
    """
    special = _name_tokens(pad_token, unk_token, bos_token, eos_token, mask_token)
    vocab_size = _check_size(vocab_size, special, others=256, what="the 256 bytes")
    return _train_bpe(texts, special, vocab_size, min_frequency, lowercase, normalization)


def _train_bpe(
    texts: Iterable[str],
    special: SpecialTokens,
    vocab_size: int,
    min_frequency: int,
    lowercase: bool,
    normalization: Normalization | None,
) -> Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    # No prefix space: decoding must give the text back exactly.
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    _set_normalizer(tokenizer, lowercase, normalization)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=list_tokens(special),
        # All 256 bytes, not only those of the texts: then no text is unknown.
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return HuggingFaceTokenizer(tokenizer, **special)


def wordpiece(
    texts: Iterable[str],
    *,
    vocab_size: int = 30_000,
    min_frequency: int = 2,
    lowercase: bool = False,
    normalization: Normalization | None = None,
    pad_token: str | None = PAD,
    unk_token: str = UNKNOWN,
    bos_token: str | None = BOS,
    eos_token: str | None = EOS,
    mask_token: str | None = None,
) -> Tokenizer:
    """Train WordPiece: frequent pieces of words, the longest first; a piece within a word begins with `##`.

    A word is unknown if it has a character that the texts do not have. The texts are kept in memory for the training.

    Source: Schuster and Nakajima 2012, "Japanese and Korean Voice Search"; Devlin et al. 2019, "BERT: Pre-training of
    Deep Bidirectional Transformers for Language Understanding", arXiv:1810.04805. As in the `tokenizers` library, the
    pieces are those of byte-pair encoding, which merges the most frequent pair, not the most likely one.
    """
    special = _name_tokens(pad_token, _check_unknown(unk_token), bos_token, eos_token, mask_token)
    vocab_size = _check_size(vocab_size, special)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token=unk_token))
    _split_pieces(tokenizer)
    _set_normalizer(tokenizer, lowercase, normalization)
    kept = list(texts)
    inner = [f"##{character}" for character in _list_characters(tokenizer, kept)]
    # The trainer numbers characters within words in the order of a hash map, and breaks ties by number, so that each
    # training would give another vocabulary. Given as special tokens, they are numbered first.
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*list_tokens(special), *inner],
        show_progress=False,
    )
    tokenizer.train_from_iterator(kept, trainer)
    trained = tokenizers.models.WordPiece(tokenizer.get_vocab(), unk_token=unk_token)
    return _make(trained, special, _split_pieces, lowercase, normalization)


def unigram(
    texts: Iterable[str],
    *,
    vocab_size: int = 8_000,
    lowercase: bool = False,
    normalization: Normalization | None = None,
    pad_token: str | None = PAD,
    unk_token: str = UNKNOWN,
    bos_token: str | None = BOS,
    eos_token: str | None = EOS,
    mask_token: str | None = None,
) -> Tokenizer:
    """Train a unigram language model: the most probable division of words into pieces, as in SentencePiece.

    A piece that begins a word begins with a space, written `▁`. Characters that the texts do not have are unknown.

    Source: Kudo 2018, "Subword Regularization", arXiv:1804.10959; see `train_unigram`.
    """
    special = _name_tokens(pad_token, _check_unknown(unk_token), bos_token, eos_token, mask_token)
    vocab_size = _check_size(vocab_size, special)
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram())
    _split_spaces(tokenizer)
    _set_normalizer(tokenizer, lowercase, normalization)
    names = list_tokens(special)
    pieces = train_unigram(_count_words(tokenizer, texts), vocab_size - len(names))
    vocabulary = [*((name, 0.0) for name in names), *(each for each in pieces if each[0] not in names)]
    trained = tokenizers.models.Unigram(vocabulary, unk_id=names.index(unk_token))
    return _make(trained, special, _split_spaces, lowercase, normalization)


def _split_spaces(tokenizer: "tokenizers.Tokenizer") -> None:
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    # The space that encoding adds is removed; a text that begins with several spaces, or is one, got none.
    added = tokenizers.decoders.Replace(tokenizers.Regex(r"\A (?! |\z)"), "")
    whole = [tokenizers.decoders.Metaspace(prepend_scheme="never"), tokenizers.decoders.Fuse(), added]
    tokenizer.decoder = tokenizers.decoders.Sequence(whole)


def _list_characters(tokenizer: "tokenizers.Tokenizer", texts: Iterable[str]) -> list[str]:
    """Return the characters that words of some texts may have, in the order of their code points."""
    normalizer = tokenizer.normalizer
    found: set[str] = set()
    for text in texts:
        found.update(text if normalizer is None else normalizer.normalize_str(text))
    return sorted(character for character in found if not character.isspace())


def _count_words(tokenizer: "tokenizers.Tokenizer", texts: Iterable[str]) -> Mapping[str, int]:
    """Return how often each word occurs that the tokenizer splits texts into."""
    normalizer, split = tokenizer.normalizer, tokenizer.pre_tokenizer
    counts: dict[str, int] = {}
    for text in texts:
        normal = text if normalizer is None else normalizer.normalize_str(text)
        for word, _ in split.pre_tokenize_str(normal) if split is not None else ():
            counts[word] = counts.get(word, 0) + 1
    return counts


_SPLITS: Final[Mapping[str, Callable[["tokenizers.Tokenizer"], None]]] = {
    "words": _split_words,
    "whole": _split_nothing,
    "characters": _split_characters,
    "wordpiece": _split_pieces,
}


def make_from_vocabulary(
    vocabulary: Iterable[str],
    kind: str,
    *,
    lowercase: bool = False,
    normalization: Normalization | None = None,
    pad_token: str | None = PAD,
    unk_token: str = UNKNOWN,
    bos_token: str | None = BOS,
    eos_token: str | None = EOS,
    mask_token: str | None = None,
) -> Tokenizer:
    """Make a tokenizer with the given tokens, in the given order; special tokens that they lack come first.

    Args:
        vocabulary: the tokens.
        kind: how texts become tokens: `words`, `whole`, `characters` or `wordpiece`, as in training.
        lowercase: as in training.
        normalization: as in training.
        pad_token: as in training.
        unk_token: as in training.
        bos_token: as in training.
        eos_token: as in training.
        mask_token: as in training.

    Raises:
        OptionError: if a token occurs twice, or the kind is none of these.

    Example:
        >>> tokenizer = make_from_vocabulary(["be", "to"], "words", bos_token=None, eos_token=None)
        >>> dict(sorted(tokenizer.vocabulary.items()))
        {'<pad>': 0, '<unk>': 1, 'be': 2, 'to': 3}
    """
    if kind not in _SPLITS:
        msg = f"kind must be one of {', '.join(_SPLITS)} for a given vocabulary, got {kind!r}; train the others."
        raise OptionError(msg, kind=kind)
    special = _name_tokens(pad_token, _check_unknown(unk_token), bos_token, eos_token, mask_token)
    given: dict[str, int] = {}
    for token in _check_tokens(vocabulary):
        if token in given:
            msg = (
                f"vocabulary must have each token once, got {token!r} at {given[token]} and {len(given)}; remove one: "
                "list(dict.fromkeys(vocabulary))."
            )
            raise OptionError(msg, token=token)
        given[token] = len(given)
    ids = {token: number for number, token in enumerate([*(t for t in list_tokens(special) if t not in given), *given])}
    model: tokenizers.models.Model = (
        tokenizers.models.WordPiece(ids, unk_token=unk_token)
        if kind == "wordpiece"
        else tokenizers.models.WordLevel(ids, unk_token=unk_token)
    )
    return _make(model, special, _SPLITS[kind], lowercase, normalization)


def _check_tokens(vocabulary: Iterable[str]) -> Iterator[str]:
    for number, token in enumerate(cast("Iterable[object]", vocabulary)):
        if isinstance(vocabulary, str) or not isinstance(token, str) or not token:
            got = repr(vocabulary if isinstance(vocabulary, str) else token)
            msg = f"vocabulary must be a list of texts that are not empty, got {got:.60} at {number}; pass [word, ...]."
            raise OptionError(msg, index=number)
        yield token


def _make(
    model: "tokenizers.models.Model",
    special: SpecialTokens,
    prepare: Callable[["tokenizers.Tokenizer"], None],
    lowercase: bool,
    normalization: Normalization | None,
) -> Tokenizer:
    """Return a tokenizer of a model, whose vocabulary has the special tokens."""
    tokenizer = tokenizers.Tokenizer(model)
    prepare(tokenizer)
    _set_normalizer(tokenizer, lowercase, normalization)
    library: Any = tokenizer  # whose types leave this open
    library.add_special_tokens(list_tokens(special))
    return HuggingFaceTokenizer(tokenizer, **special)


def _name_tokens(
    pad_token: str | None, unk_token: str | None, bos_token: str | None, eos_token: str | None, mask_token: str | None
) -> SpecialTokens:
    return SpecialTokens(
        pad_token=pad_token, unk_token=unk_token, bos_token=bos_token, eos_token=eos_token, mask_token=mask_token
    )


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
