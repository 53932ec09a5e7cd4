"""The laws of tokenizers."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

from pipeline.laws.copies import repickled
from pipeline.laws.law import FaultError, Law, check, law, loosely
from pipeline.parts.tokenizer import Tokenizer, Tokens

Made: TypeAlias = Callable[[], Tokenizer]

TEXTS: Final = (
    "To be, or not to be: that is the question.",
    "na\u00efve caf\u00e9 \u2014 \u6771\u4eac \U0001f98a",
    " two  spaces,\ta tab\r\nand line ends\n",
    "a",
    "\u00df\u0130\ufb01 e\u0301",
    "0123456789 " * 20,
)
"""What laws are tried on: characters of one to four bytes, ones that change length in another case, and long text."""

ROWS: Final = (("New", "York", "is", "big"), ("caf\u00e9",), (), ("\u6771\u4eac", "\U0001f98a", "a b"))
"""Rows of words: one of one, one of none, and words that may leave several tokens."""


@law
def the_vocabulary_is_sound(make: Made) -> None:
    """Every token has a number of its own, 0 or more, and the special tokens are among them."""
    tokenizer = make()
    if not isinstance(loosely(tokenizer.vocabulary), Mapping) or not tokenizer.vocabulary:
        raise FaultError("vocabulary must be a mapping of tokens to numbers, and hold some.")
    numbers = list(tokenizer.vocabulary.values())
    if min(numbers) < 0:
        msg = f"a token has number {min(numbers)}, but ids are 0 or more."
        raise FaultError(msg)
    if len(set(numbers)) < len(numbers):
        twice = sorted(number for number in set(numbers) if numbers.count(number) > 1)
        msg = f"tokens share the numbers {twice[:5]}, so that they cannot be told apart; give each its own."
        raise FaultError(msg)
    for meaning in ("pad", "unknown", "bos", "eos"):
        token: object = getattr(tokenizer, meaning, "")
        if token is not None and token not in tokenizer.vocabulary:
            msg = f"{meaning} is {token!r}, which is not in the vocabulary; name a token of it, or None."
            raise FaultError(msg, argument=meaning)


@law
def ids_are_in_the_vocabulary(make: Made) -> None:
    """Every id stands for a token, of texts and of rows of words."""
    tokenizer = make()
    known = set(tokenizer.vocabulary.values())
    for found in (*tokenizer.encode(TEXTS), *tokenizer.encode_words(ROWS)):
        strange = [number for number in found.ids if number not in known]
        if strange:
            msg = f"ids {strange[:5]} are no token's number; what is not known is the unknown token."
            raise FaultError(msg, ids=strange)


@law
def offsets_stand_within_the_text(make: Made) -> None:
    """Each token has its start and end in the text, in characters, in order; none if they are not asked for."""
    tokenizer = make()
    for text, found in zip(TEXTS, tokenizer.encode(TEXTS), strict=True):
        _check_offsets(found, [text] * len(found.ids), in_order=True)
    for row, found in zip(ROWS, tokenizer.encode_words(ROWS), strict=True):
        if len(found.words) == len(found.ids) and all(0 <= word < len(row) for word in found.words):
            _check_offsets(found, [row[word] for word in found.words], in_order=False)
    for plain, found in (
        *zip(tokenizer.encode(TEXTS, offsets=False), tokenizer.encode(TEXTS), strict=True),
        *zip(tokenizer.encode_words(ROWS, offsets=False), tokenizer.encode_words(ROWS), strict=True),
    ):
        if list(plain.ids) != list(found.ids) or list(plain.offsets):
            raise FaultError(
                "with offsets=False, tokens differ or have offsets; leave the offsets out, and nothing else."
            )


def _check_offsets(found: Tokens, texts: Sequence[str], *, in_order: bool) -> None:
    if len(found.offsets) != len(found.ids):
        msg = f"there are {len(found.ids)} tokens, but {len(found.offsets)} offsets; give each token its own."
        raise FaultError(msg)
    before = 0
    for (start, end), text in zip(found.offsets, texts, strict=True):
        if not 0 <= start <= end <= len(text):
            msg = (
                f"a token stands at ({start}, {end}) of {text[:40]!r}, which has {len(text)} characters; count "
                "characters of the text as it came, not bytes, and not those of its normalised form."
            )
            raise FaultError(msg)
        if in_order and start < before:
            msg = f"a token begins at {start} of {text[:40]!r}, before the one in front of it, at {before}."
            raise FaultError(msg)
        before = start


@law
def words_are_numbered(make: Made) -> None:
    """Each token of a row of words knows its word, words in order; plain text has none, and a row of none no tokens."""
    tokenizer = make()
    for row, found in zip(ROWS, tokenizer.encode_words(ROWS), strict=True):
        words = list(found.words)
        if len(words) != len(found.ids) or words != sorted(words) or not set(words) <= set(range(len(row))):
            msg = f"the tokens {list(found.ids)} of {list(row)} belong to words {words}; give each its word, from 0."
            raise FaultError(msg)
    if any(list(found.words) for found in tokenizer.encode(TEXTS)):
        raise FaultError("tokens of plain text have words; only what came split has some.")


@law
def decoded_text_has_the_same_tokens(make: Made) -> None:
    """Encoding what was decoded gives the same ids again, unless one of them was the unknown token."""
    tokenizer = make()
    skipped = None if tokenizer.unknown is None else tokenizer.vocabulary[tokenizer.unknown]
    for text in (*TEXTS, *_own(tokenizer)):
        ids = list(tokenizer.encode([text])[0].ids)
        if skipped in ids:
            continue
        decoded = tokenizer.decode(ids)
        again = list(tokenizer.encode([decoded])[0].ids)
        if again != ids:
            msg = f"{text[:40]!r} has ids {ids[:20]}, but what they decode to, {decoded[:40]!r}, has {again[:20]}."
            raise FaultError(msg, text=text)


def _own(tokenizer: Tokenizer) -> list[str]:
    """Texts of tokens that the tokenizer knows, whatever it was trained on."""
    ids = [number for number in sorted(tokenizer.vocabulary.values()) if number not in _special(tokenizer).values()]
    return [
        tokenizer.decode(ids[start : start + count]) for count in (1, 5) for start in range(0, len(ids[:60]), count)
    ]


def _special(tokenizer: Tokenizer) -> dict[str, int]:
    """The tokens that no text holds, by their names, and their ids; what is unknown may stand anywhere."""
    tokens = (tokenizer.pad, tokenizer.bos, tokenizer.eos)
    return {token: tokenizer.vocabulary[token] for token in tokens if token is not None}


@law
def decoding_leaves_special_tokens_out(make: Made) -> None:
    """Padding and the tokens at a row's ends decode to nothing."""
    tokenizer = make()
    for text in TEXTS:
        ids = list(tokenizer.encode([text])[0].ids)
        wanted = tokenizer.decode(ids)
        for token, number in _special(tokenizer).items():
            found = tokenizer.decode([number, *ids, number])
            if found != wanted:
                msg = f"with {token} around its ids, {text[:40]!r} decodes to {found[:60]!r}; leave {token} out."
                raise FaultError(msg, token=token)


@law
def special_tokens_in_a_text_are_text(make: Made) -> None:
    """A text, or a word, that spells a special token is cut up like any other: nobody writes padding into a row."""
    tokenizer = make()
    special = _special(tokenizer)
    for token in special:
        texts = [token, f"a {token} b", f"{token}{token}"]
        both = (*tokenizer.encode(texts), *tokenizer.encode_words([[text] for text in texts]))
        for text, found in zip([*texts, *texts], both, strict=True):
            taken = [name for name, number in special.items() if number in found.ids]
            if taken:
                msg = f"{text!r} becomes ids {list(found.ids)}, and {special[taken[0]]} is {taken[0]}; cut it as text."
                raise FaultError(msg, token=token)


@law
def texts_are_apart(make: Made) -> None:
    """A text, or a row of words, alone has the tokens that it has among others; a batch of none gives none."""
    tokenizer = make()
    alone = [tokenizer.encode([text])[0] for text in TEXTS]
    _same(tokenizer.encode(TEXTS), alone, "texts in one batch instead of one by one")
    _same(tokenizer.encode(TEXTS[::-1])[::-1], alone, "texts in another order")
    split = [tokenizer.encode_words([row])[0] for row in ROWS]
    _same(tokenizer.encode_words(ROWS), split, "rows of words in one batch instead of one by one")
    if tokenizer.encode([]) or tokenizer.encode_words([]):
        raise FaultError("no text at all gives tokens; give an empty list.")


@law
def empty_text_has_no_tokens(make: Made) -> None:
    """Of nothing there is nothing to number, alone and among others; and no ids decode to an empty text."""
    tokenizer = make()
    for texts in ([""], ["a", "", "b"]):
        found = tokenizer.encode(texts)[texts.index("")]
        if len(found.ids) or len(found.offsets):
            msg = (
                f"an empty text has ids {list(found.ids)}; bos and eos are added by Tokenize, where they are asked for."
            )
            raise FaultError(msg)
    if tokenizer.decode([]):
        msg = f"no ids decode to {tokenizer.decode([])!r}, not to an empty text."
        raise FaultError(msg)


@law
def encoding_is_deterministic(make: Made) -> None:
    """A second call gives the same tokens, and so does another tokenizer of the same factory."""
    tokenizer = make()
    first = tokenizer.encode(TEXTS)
    _same(tokenizer.encode(TEXTS), first, "a second call")
    other = make()
    if dict(other.vocabulary) != dict(tokenizer.vocabulary):
        raise FaultError(
            "two tokenizers of one factory have different vocabularies; sort what has no order, such as a set."
        )
    _same(other.encode(TEXTS), first, "another tokenizer of the same factory")


@law
def a_copied_tokenizer_is_equal(make: Made) -> None:
    """A deep copy, and one that was pickled and read back, give the same tokens, special ones in the text included."""
    tokenizer = make()
    try:
        again = repickled(tokenizer)
    except Exception as error:
        msg = (
            f"it cannot be pickled and read back ({type(error).__name__}: {error}), so that no worker of a DataLoader "
            "can have it; usually a lambda or an open file among its attributes."
        )
        raise FaultError(msg) from error
    texts = [*TEXTS, *_special(tokenizer)]
    for what, copied in (("a deep copy", copy.deepcopy(tokenizer)), ("one pickled and read back", again)):
        _same(copied.encode(texts), tokenizer.encode(texts), what)
        if dict(copied.vocabulary) != dict(tokenizer.vocabulary):
            msg = f"{what} has another vocabulary."
            raise FaultError(msg)


def _same(found: Sequence[Tokens], wanted: Sequence[Tokens], of: str) -> None:
    if len(found) != len(wanted):
        msg = f"{of}: {len(wanted)} inputs give {len(found)} results; give one each, in their order."
        raise FaultError(msg)
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        if _parts(one) != _parts(other):
            msg = f"{of}: input {index} gives {one}, where {other} was wanted."
            raise FaultError(msg, row=index)


def _parts(tokens: Tokens) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    return list(tokens.ids), list(tokens.offsets), list(tokens.words)


TOKENIZER_LAWS: Final[tuple[Law[Tokenizer], ...]] = (
    the_vocabulary_is_sound,
    ids_are_in_the_vocabulary,
    offsets_stand_within_the_text,
    words_are_numbered,
    decoded_text_has_the_same_tokens,
    decoding_leaves_special_tokens_out,
    special_tokens_in_a_text_are_text,
    texts_are_apart,
    empty_text_has_no_tokens,
    encoding_is_deterministic,
    a_copied_tokenizer_is_equal,
)
"""Every law of a tokenizer."""


def check_tokenizer(make: Made) -> None:
    """Hold tokenizers against `TOKENIZER_LAWS`.

    Args:
        make: takes nothing and makes a new tokenizer at every call; a trained one, where it has to be trained.

    Raises:
        LawBrokenError: if they break any; it tells of all of them.

    Example:
        >>> from pipeline.builtin.tokenizers import bpe
        >>> check_tokenizer(lambda: bpe(["the quick brown fox"], vocab_size=300))
    """
    check(TOKENIZER_LAWS, make, "tokenizers")
