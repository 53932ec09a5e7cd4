"""Laws about tokenizers."""

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

from pipeline.laws.law import FaultError, Law, as_object, check_laws, law
from pipeline.laws.pickling import pickle_and_unpickle
from pipeline.parts.tokenizer import Tokenizer, Tokens

MakeTokenizer: TypeAlias = Callable[[], Tokenizer]

TEXTS: Final = (
    "To be, or not to be: that is the question.",
    "na\u00efve caf\u00e9 \u2014 \u6771\u4eac \U0001f98a",
    " two  spaces,\ta tab\r\nand line ends\n",
    "a",
    "\u00df\u0130\ufb01 e\u0301",
    "0123456789 " * 20,
)
"""Texts with characters of one to four bytes, characters whose lower case has another length, and a long text."""

WORD_ROWS: Final = (("New", "York", "is", "big"), ("caf\u00e9",), (), ("\u6771\u4eac", "\U0001f98a", "a b"))
"""Rows of words: one with a single word, an empty one, and one with words that may become several tokens."""

SPELLINGS: Final = (
    (("c", "a", "f", "\u00e9", " ", "b"), ("c", "a", "f", "e\u0301", " ", "b")),
    (("\uac01", "!", " ", "\u00c5", "b"), ("\u1100\u1161\u11a8", "!", " ", "\u212b", "b")),
    (("i\u0307", "x", " ", "b"), ("\u0130", "X", " ", "B")),
    (("fi", "n", " ", "b"), ("\ufb01", "n", " ", "b")),
)
"""Texts in two spellings, letter by letter: composed or not, as one character or two, in lower case or not."""


@law
def vocabulary_is_valid(make: MakeTokenizer) -> None:
    """Every token has an id of its own, 0 or more, and the special tokens are in the vocabulary."""
    tokenizer = make()
    if not isinstance(as_object(tokenizer.vocabulary), Mapping) or not tokenizer.vocabulary:
        raise FaultError("vocabulary must be a mapping of tokens to ids that is not empty.")
    ids = list(tokenizer.vocabulary.values())
    if min(ids) < 0:
        msg = f"ids must be 0 or more, got {min(ids)}."
        raise FaultError(msg)
    if len(set(ids)) < len(ids):
        shared = sorted(number for number in set(ids) if ids.count(number) > 1)
        msg = f"ids must be unique, but several tokens have the ids {shared[:5]}; give each its own."
        raise FaultError(msg)
    for attribute in ("pad_token", "unk_token", "bos_token", "eos_token", "mask_token"):
        token: object = getattr(tokenizer, attribute, "")
        if token is not None and token not in tokenizer.vocabulary:
            msg = f"{attribute} must be a token of the vocabulary, or None, got {token!r}."
            raise FaultError(msg, argument=attribute)


@law
def ids_are_in_vocabulary(make: MakeTokenizer) -> None:
    """Every id of a text, or of a row of words, is the id of a token."""
    tokenizer = make()
    known = set(tokenizer.vocabulary.values())
    for found in (*tokenizer.encode(TEXTS), *tokenizer.encode_words(WORD_ROWS)):
        unknown = [number for number in found.ids if number not in known]
        if unknown:
            msg = f"ids {unknown[:5]} belong to no token; use the unknown token for unknown text."
            raise FaultError(msg, ids=unknown)


@law
def offsets_are_within_text(make: MakeTokenizer) -> None:
    """Each token has its start and end in the text, in characters, in order; none with `offsets=False`."""
    tokenizer = make()
    for text, found in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
        _check_offsets(found, [text] * len(found.ids), in_order=True)
    for row, found in zip(WORD_ROWS, tokenizer.encode_words(WORD_ROWS), strict=True):
        if len(found.words) == len(found.ids) and all(0 <= word < len(row) for word in found.words):
            _check_offsets(found, [row[word] for word in found.words], in_order=False)
    for plain, found in (
        *zip(tokenizer.encode(TEXTS, offsets=False), tokenizer.encode(TEXTS), strict=True),
        *zip(tokenizer.encode_words(WORD_ROWS, offsets=False), tokenizer.encode_words(WORD_ROWS), strict=True),
    ):
        if list(plain.ids) != list(found.ids) or list(plain.offsets):
            raise FaultError("with offsets=False, ids differ or offsets exist; leave out the offsets and nothing else.")
    if [list(ids) for ids in tokenizer.encode_ids(TEXTS)] != [list(found.ids) for found in tokenizer.encode(TEXTS)]:
        raise FaultError("encode_ids and encode return different ids; return the same, or leave out encode_ids.")


def _check_offsets(found: Tokens, texts: Sequence[str], *, in_order: bool) -> None:
    if len(found.offsets) != len(found.ids):
        msg = f"each token must have an offset, got {len(found.ids)} tokens and {len(found.offsets)} offsets."
        raise FaultError(msg)
    before = 0
    for (start, end), text in zip(found.offsets, texts, strict=True):
        if not 0 <= start <= end <= len(text):
            msg = (
                f"a token has the offset ({start}, {end}) in {text[:40]!r}, which has {len(text)} characters; count "
                "characters of the original text, not bytes, and not characters of its normalized form."
            )
            raise FaultError(msg)
        if in_order and start < before:
            msg = f"a token of {text[:40]!r} starts at {start}, but the one before it at {before}; keep their order."
            raise FaultError(msg)
        before = start


@law
def offsets_cover_whole_letters(make: MakeTokenizer) -> None:
    """If two spellings of a text have the same tokens, these have the offsets of the same letters in both, whole ones.

    For example, a tokenizer may compose letters before it splits the text. The offsets are those in the original text.
    """
    tokenizer = make()
    for spellings in SPELLINGS:
        texts = ["".join(letters) for letters in spellings]
        for found in (tokenizer.encode(texts), tokenizer.encode_words([[text] for text in texts])):
            if list(found[0].ids) != list(found[1].ids):
                continue
            first, second = (_find_letters(*spelling) for spelling in zip(spellings, found, strict=True))
            if first != second:
                msg = (
                    f"{texts[0]!a} and {texts[1]!a} have the same tokens, but their offsets {list(found[0].offsets)} "
                    f"and {list(found[1].offsets)} are not those of the same letters; give each token the offsets of "
                    "all characters of the original text that it stands for."
                )
                raise FaultError(msg, texts=texts)


def _find_letters(letters: Sequence[str], found: Tokens) -> tuple[list[list[int]], list[int]]:
    """Return the letters that each token touches, and those that are covered only in part."""
    letter_of = [number for number, letter in enumerate(letters) for _ in letter]
    covered = {place for start, end in found.offsets for place in range(start, end)}
    missing = {number for place, number in enumerate(letter_of) if place not in covered}
    touched = [sorted(set(letter_of[start:end])) for start, end in found.offsets]
    return touched, [number for numbers in touched for number in numbers if number in missing]


@law
def tokens_know_their_word(make: MakeTokenizer) -> None:
    """Each token of a row of words has the index of its word, in order; tokens of plain text have no words."""
    tokenizer = make()
    for row, found in zip(WORD_ROWS, tokenizer.encode_words(WORD_ROWS), strict=True):
        words = list(found.words)
        if len(words) != len(found.ids) or words != sorted(words) or not set(words) <= set(range(len(row))):
            msg = (
                f"each token of {list(row)} must have its word's index, from 0, got words {words} for tokens "
                f"{list(found.ids)}."
            )
            raise FaultError(msg)
    if any(list(found.words) for found in tokenizer.encode(TEXTS)):
        raise FaultError("tokens of plain text have words; only rows of words may have them.")


@law
def decoded_text_has_same_tokens(make: MakeTokenizer) -> None:
    """Encoding a decoded text gives the same ids, unless one of them is the unknown token."""
    tokenizer = make()
    unknown = None if tokenizer.unk_token is None else tokenizer.vocabulary[tokenizer.unk_token]
    for text in (*TEXTS, _PHRASE * 200, *_make_known_texts(tokenizer)):
        ids = list(tokenizer.encode([text])[0].ids)
        # Different unknown texts have one token, so it cannot be decoded to the original.
        if unknown in ids:
            continue
        decoded = tokenizer.decode(ids)
        again = list(tokenizer.encode([decoded])[0].ids)
        if again != ids:
            msg = f"{text[:40]!r} has ids {ids[:20]}, but they decode to {decoded[:40]!r}, which has ids {again[:20]}."
            raise FaultError(msg, text=text)


def _make_known_texts(tokenizer: Tokenizer) -> list[str]:
    """Decode some ids into texts of known tokens: a tokenizer may know no token of `TEXTS`."""
    special = _find_special_tokens(tokenizer).values()
    ids = [number for number in sorted(tokenizer.vocabulary.values()) if number not in special][:60]
    return [tokenizer.decode(ids[start : start + count]) for count in (1, 5) for start in range(0, len(ids), count)]


def _find_special_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Return the tokens that no text contains, with their ids. The unknown token may be anywhere."""
    tokens = (tokenizer.pad_token, tokenizer.bos_token, tokenizer.eos_token, tokenizer.mask_token)
    return {token: tokenizer.vocabulary[token] for token in tokens if token is not None}


@law
def decoding_skips_special_tokens(make: MakeTokenizer) -> None:
    """Padding and the tokens at the ends of a row decode to nothing."""
    tokenizer = make()
    for text in TEXTS:
        ids = list(tokenizer.encode([text])[0].ids)
        wanted = tokenizer.decode(ids)
        for token, number in _find_special_tokens(tokenizer).items():
            found = tokenizer.decode([number, *ids, number])
            if found != wanted:
                msg = f"with {token} around its ids, {text[:40]!r} decodes to {found[:60]!r}; skip {token}."
                raise FaultError(msg, token=token)


@law
def special_tokens_in_text_are_text(make: MakeTokenizer) -> None:
    """A text or word that contains the name of a special token is split like any other, so texts cannot add padding."""
    tokenizer = make()
    special = _find_special_tokens(tokenizer)
    for token in special:
        texts = [token, f"a {token} b", f"{token}{token}"]
        both = (*tokenizer.encode(texts), *tokenizer.encode_words([[text] for text in texts]))
        for text, found in zip([*texts, *texts], both, strict=True):
            taken = [name for name, number in special.items() if number in found.ids]
            if taken:
                msg = f"{text!r} has ids {list(found.ids)}, and {special[taken[0]]} is {taken[0]}; split it as text."
                raise FaultError(msg, token=token)


@law
def texts_are_independent(make: MakeTokenizer) -> None:
    """A text or row of words has the same tokens alone and among others; an empty batch gives an empty list."""
    tokenizer = make()
    # Batched tokenizers often pad or truncate to a common length; one by one, they cannot.
    alone = [tokenizer.encode([text])[0] for text in TEXTS]
    _check_same(tokenizer.encode(TEXTS), alone, "texts in one batch instead of one by one")
    _check_same(tokenizer.encode(TEXTS[::-1])[::-1], alone, "texts in another order")
    split = [tokenizer.encode_words([row])[0] for row in WORD_ROWS]
    _check_same(tokenizer.encode_words(WORD_ROWS), split, "rows of words in one batch instead of one by one")
    if tokenizer.encode([]) or tokenizer.encode_words([]):
        raise FaultError("an empty batch gives tokens; return an empty list.")


@law
def empty_text_has_no_tokens(make: MakeTokenizer) -> None:
    """An empty text has no tokens, alone and among others; no ids decode to an empty text."""
    tokenizer = make()
    # Alone and between others: a tokenizer that joins texts may attach the neighbor's tokens.
    for texts in ([""], ["a", "", "b"]):
        found = tokenizer.encode(texts)[texts.index("")]
        if len(found.ids) or len(found.offsets):
            msg = f"an empty text must have no ids, got {list(found.ids)}; Tokenize adds bos and eos, on request."
            raise FaultError(msg)
    if tokenizer.decode([]):
        msg = f"no ids must decode to an empty text, got {tokenizer.decode([])!r}."
        raise FaultError(msg)


@law
def encoding_is_deterministic(make: MakeTokenizer) -> None:
    """A second call gives the same tokens, and so does another tokenizer from the same factory."""
    tokenizer = make()
    first = tokenizer.encode(TEXTS)
    _check_same(tokenizer.encode(TEXTS), first, "a second call")
    other = make()
    if dict(other.vocabulary) != dict(tokenizer.vocabulary):
        raise FaultError(
            "two tokenizers of one factory have different vocabularies; sort unordered data, such as sets."
        )
    # In another order, since ids must not be given in the order in which texts come.
    _check_same(other.encode(TEXTS[::-1])[::-1], first, "another tokenizer from the same factory, texts reversed")


@law
def copied_tokenizer_is_equal(make: MakeTokenizer) -> None:
    """A deep copy and an unpickled copy give the same tokens, also for texts with special tokens."""
    tokenizer = make()
    try:
        unpickled = pickle_and_unpickle(tokenizer)
    except Exception as error:
        msg = (
            f"it cannot be pickled and unpickled ({type(error).__name__}: {error}), so workers of a DataLoader cannot "
            "use it; usually because of a lambda or an open file among its attributes."
        )
        raise FaultError(msg) from error
    texts = [*TEXTS, *_find_special_tokens(tokenizer)]
    for name, copied in (("a deep copy", copy.deepcopy(tokenizer)), ("an unpickled copy", unpickled)):
        _check_same(copied.encode(texts), tokenizer.encode(texts), name)
        if dict(copied.vocabulary) != dict(tokenizer.vocabulary):
            msg = f"{name} has a different vocabulary."
            raise FaultError(msg)


@law
def many_and_long_texts_are_encoded_completely(make: MakeTokenizer) -> None:
    """Each of 1,200 texts has the tokens that it has alone, in order; twice the words have twice the tokens."""
    tokenizer = make()
    many = [f"{text} {number % 7}" for number, text in enumerate(TEXTS * 200)]
    alone = {text: tokenizer.encode([text])[0] for text in set(many)}
    _check_same(tokenizer.encode(many), [alone[text] for text in many], f"{len(many)} texts instead of one by one")
    rows = [[text, "b"] for text in many]
    words = {row[0]: tokenizer.encode_words([row])[0] for row in rows}
    _check_same(tokenizer.encode_words(rows), [words[row[0]] for row in rows], f"{len(rows)} rows of words")
    for name, count_tokens in (
        ("text", _count_in_text),
        ("text among others", _count_in_batch),
        ("row of words", _count_in_row),
        ("word", _count_in_word),
    ):
        # Not every tokenizer has more tokens for a longer text; one that has them in short texts has them in long ones.
        few, more = count_tokens(tokenizer, 5), count_tokens(tokenizer, 10)
        many_tokens, most = count_tokens(tokenizer, 1_000), count_tokens(tokenizer, 2_000)
        if more >= 1.8 * few > 0 and most < 1.8 * many_tokens:
            msg = (
                f"a {name} of twice the length has {more} instead of {few} tokens, but a long one {most} instead of "
                f"{many_tokens}; do not truncate, since Tokenize does that on request."
            )
            raise FaultError(msg, tokens=most)


_PHRASE: Final = "to be or not "


def _count_in_text(tokenizer: Tokenizer, repeats: int) -> int:
    return len(tokenizer.encode([_PHRASE * repeats])[0].ids)


def _count_in_batch(tokenizer: Tokenizer, repeats: int) -> int:
    return len(tokenizer.encode(["a", _PHRASE * repeats, "b"])[1].ids)


def _count_in_row(tokenizer: Tokenizer, repeats: int) -> int:
    return len(tokenizer.encode_words([["a"], _PHRASE.split() * repeats])[1].ids)


def _count_in_word(tokenizer: Tokenizer, repeats: int) -> int:
    return len(tokenizer.encode_words([["ab" * repeats]])[0].ids)


@law
def encoding_leaves_vocabulary_unchanged(make: MakeTokenizer) -> None:
    """Encoding and decoding, also of unknown text, add nothing to the vocabulary, and change no later result."""
    tokenizer = make()
    before, first, key = dict(tokenizer.vocabulary), tokenizer.encode(TEXTS), tokenizer.cache_key()
    words = [f"word{number}" for number in range(1_200)]
    unknown = ["zxqv jwky", "\u0416\u0436 \u05d0\u05d1 \u0e01", *words, "q" * 2_000]
    for found in (*tokenizer.encode(unknown), *tokenizer.encode_words([unknown])):
        tokenizer.decode(list(found.ids))
    if dict(tokenizer.vocabulary) != before:
        new = sorted(set(tokenizer.vocabulary) - set(before))[:5]
        msg = f"encoding changes the vocabulary, for example by {new}; give unknown text the unknown token."
        raise FaultError(msg, tokens=new)
    _check_same(tokenizer.encode(TEXTS), first, "after encoding other texts")
    if tokenizer.cache_key() != key:
        raise FaultError("encoding changes cache_key(); build it from the vocabulary and the options only.")


@law
def cache_key_identifies_tokenizer(make: MakeTokenizer) -> None:
    """`cache_key` is None, or a text that is equal for equal tokenizers and differs for those that tokenize otherwise.

    A factory that takes `texts`, such as `functools.partial(train, texts=...)`, is called with other texts as well, and
    one that has options which are True or False by default, with each of them reversed.
    """
    tokenizer = make()
    key = tokenizer.cache_key()
    if key is None:
        return
    if not isinstance(as_object(key), str):
        msg = f"cache_key() must return a string or None, got {key!r}."
        raise FaultError(msg)
    for name, other in (("another tokenizer of the factory", make()), ("a copy", copy.deepcopy(tokenizer))):
        if other.cache_key() != key:
            msg = f"{name} has another cache_key(), so that a cache is never found; leave out what differs by chance."
            raise FaultError(msg)
    for name, other in _make_variants(make, tokenizer):
        ours, theirs = ([_to_lists(found) for found in each.encode(TEXTS)] for each in (tokenizer, other))
        if ours != theirs and other.cache_key() == key:
            msg = (
                f"a tokenizer {name} gives other tokens but has the same cache_key(), so that a cache would serve "
                "wrong tokens; build the key from the vocabulary and all options."
            )
            raise FaultError(msg)


def _make_variants(make: Callable[..., Tokenizer], tokenizer: Tokenizer) -> Iterator[tuple[str, Tokenizer]]:
    """Yield tokenizers that may tokenize in another way."""
    # A copy whose ids are those of the next token.
    other, ids = copy.deepcopy(tokenizer), list(tokenizer.vocabulary.values())
    with suppress(Exception):
        other.vocabulary = dict(zip(tokenizer.vocabulary, ids[1:] + ids[:1], strict=True))
        other.encode(TEXTS)
        yield "with other ids", other
    with suppress(TypeError, ValueError):  # not every callable has a signature
        parameters = inspect.signature(make).parameters
        if "texts" in parameters:
            yield "trained on other texts", make(texts=["zyx wvu tsr to be", *TEXTS[:2]])
        for name, parameter in parameters.items():
            default: object = parameter.default
            if isinstance(default, bool):
                yield f"with {name}={not default}", make(**{name: not default})


def _check_same(found: Sequence[Tokens], wanted: Sequence[Tokens], condition: str) -> None:
    if len(found) != len(wanted):
        msg = f"{condition}: got {len(found)} results for {len(wanted)} inputs; return one per input, in order."
        raise FaultError(msg)
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if _to_lists(one) != _to_lists(other):
            msg = f"{condition}: input {index} gives {one}, expected {other}."
            raise FaultError(msg, row=index)


def _to_lists(tokens: Tokens) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    return list(tokens.ids), list(tokens.offsets), list(tokens.words)


TOKENIZER_LAWS: Final[tuple[Law[Tokenizer], ...]] = (
    vocabulary_is_valid,
    ids_are_in_vocabulary,
    offsets_are_within_text,
    offsets_cover_whole_letters,
    tokens_know_their_word,
    decoded_text_has_same_tokens,
    decoding_skips_special_tokens,
    special_tokens_in_text_are_text,
    texts_are_independent,
    empty_text_has_no_tokens,
    encoding_is_deterministic,
    copied_tokenizer_is_equal,
    many_and_long_texts_are_encoded_completely,
    encoding_leaves_vocabulary_unchanged,
    cache_key_identifies_tokenizer,
)
"""Every law of a tokenizer."""


def check_tokenizer(make: MakeTokenizer) -> None:
    """Check tokenizers against `TOKENIZER_LAWS`.

    Args:
        make: takes no arguments and creates a new tokenizer at every call; a trained one if it needs training.

    Raises:
        LawBrokenError: if a law is broken; the error lists all broken laws.
        OptionError: if `make` is a tokenizer instead of a function that creates one.

    Example:
        >>> from pipeline.builtin.tokenizer_training import bpe
        >>> check_tokenizer(lambda: bpe(["the quick brown fox"], vocab_size=300))
    """
    check_laws(TOKENIZER_LAWS, make, "tokenizers", "TOKENIZER_LAWS")
