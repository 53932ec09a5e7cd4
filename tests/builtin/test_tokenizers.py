"""Tests of the built-in tokenizers."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline import Tokenize, Tokenizer, TokenizeWords
from pipeline.builtin.tokenizer_training import make_from_vocabulary, unigram, wordpiece
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError
from pipeline.testing import check_decoding_round_trip, check_tokenizer
from support.untyped import to_list, untyped

TEXTS = ["The quick brown fox", "jumps over\nthe lazy dog.", "naïve café — 東京 🦊", "<pad> <unk> is text"]


KINDS = ("words", "characters", "bytes", "bpe", "wordpiece", "unigram")
EXACT = ("characters", "bytes", "bpe")


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def ids_of(tokenize: Tokenize, string: str) -> list[int]:
    """Return the ids of one text."""
    return to_ints(tokenize(string).sequence.values)


@pytest.mark.parametrize("kind", KINDS)
@given(string=text)
@example(string=" ")
@example(string="  ")
@example(string="▁")
@example(string=" \n")
def test_decoding_inverts_tokenizing(kind: str, string: str) -> None:
    """Decoded text has the same tokens, whatever the text; of characters, bytes and BPE, it is the text itself."""
    tokenize = Tokenize.train([*TEXTS, string], kind)
    if kind in EXACT:
        assert tokenize.decode(ids_of(tokenize, string)) == string
    check_decoding_round_trip(tokenize.tokenizer, string)


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_point_into_the_text(kind: str) -> None:
    """Offsets count characters, despite normalization and lower-casing; bos and eos have empty spans."""
    tokenize = Tokenize.train(TEXTS, kind, bos=True, eos=True, lowercase=True, normalization="NFC")
    for string in TEXTS:
        row = tokenize(string)
        assert row.sequence.offsets is not None
        spans = to_list(row.sequence.offsets)
        assert len(spans) == len(row)
        assert spans[0] == [0, 0]
        assert spans[-1][0] == spans[-1][1]
        covered = {at for start, end in spans for at in range(start, end)}
        assert covered >= {at for at, character in enumerate(string) if not character.isspace()}
    assert Tokenize.train(TEXTS, kind, offsets=False)("fox").sequence.offsets is None


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_are_text(kind: str) -> None:
    """This also holds for a pickled copy, as in a worker."""
    tokenize = Tokenize.train(TEXTS, kind)
    special = {tokenize.tokenizer.vocabulary[token] for token in ("<pad>", "<bos>", "<eos>")}
    for stage in (tokenize, pickle.loads(pickle.dumps(tokenize)), copy.deepcopy(tokenize)):
        assert special.isdisjoint(ids_of(stage, "<pad> fox <eos>"))


def test_unseen_words_and_characters_are_unknown() -> None:
    """Bytes are never unknown."""
    for kind, unknown in (("words", 1), ("characters", 1)):
        assert ids_of(Tokenize.train(["a b"], kind), "z") == [unknown]
    assert 1 not in ids_of(Tokenize.train(["a b"], "bytes"), "zß🦊")


def test_normalization_maps_equal_characters_to_one_id() -> None:
    """Composed and decomposed letters have the same id with NFC, and different ones without."""
    composed, decomposed = "é", "e\u0301"
    joined = Tokenize.train([composed], "words", normalization="NFC")
    assert ids_of(joined, composed) == ids_of(joined, decomposed) != [1]
    assert ids_of(Tokenize.train([composed], "words"), decomposed) == [1]


@pytest.mark.parametrize("train", [wordpiece, unigram])
@pytest.mark.parametrize("options", [{}, {"lowercase": True, "normalization": "NFC", "mask_token": "[MASK]"}])
def test_trained_pieces_obey_the_laws(train: Callable[..., Tokenizer], options: dict[str, object]) -> None:
    """Among them that two trainings on the same texts give the same tokenizer."""
    check_tokenizer(partial(train, texts=TEXTS * 2, vocab_size=90, **options))


@pytest.mark.parametrize("kind", ["words", "whole", "characters", "wordpiece"])
def test_given_vocabularies_obey_the_laws(kind: str) -> None:
    """Of every kind."""
    check_tokenizer(partial(make_from_vocabulary, ["to", "be", "b", "##e", "t"], kind))


def test_wordpiece_takes_the_longest_piece_first() -> None:
    """Pieces within words begin with ##; every character is known at any place, and long words are split."""
    tokenize = Tokenize.train(["low lower lowest newest newest"] * 3, "wordpiece", vocab_size=60)
    vocabulary = tokenize.tokenizer.vocabulary
    for word in ("lowest", "wlow", "lowerest", "newnewest", "slow"):
        pieces: list[str] = []
        rest = word
        while rest:
            prefix = "##" if pieces else ""
            end = max(end for end in range(1, len(rest) + 1) if prefix + rest[:end] in vocabulary)
            pieces.append(prefix + rest[:end])
            rest = rest[end:]
        assert ids_of(tokenize, word) == [vocabulary[piece] for piece in pieces]
        assert tokenize.decode(ids_of(tokenize, word)) == word
    assert "lowest" in vocabulary
    assert ids_of(tokenize, "lowz") == [vocabulary["<unk>"]]
    assert len(ids_of(tokenize, "w" * 1_000)) == 1_000


def test_unigram_decodes_to_the_text() -> None:
    """But for a space at its beginning, which every text has; characters that were not seen are unknown."""
    tokenize = Tokenize.train(["to be or not to be", "that is  the question"], "unigram", vocab_size=40)
    for string in ("to be", "notion", "the  quest", " ", "  to", "   ", "to  "):
        assert tokenize.decode(ids_of(tokenize, string)) == string
    assert ids_of(tokenize, "to") == ids_of(tokenize, " to")
    assert tokenize.tokenizer.vocabulary["<unk>"] in ids_of(tokenize, "zoo")


def test_a_given_vocabulary_keeps_its_order() -> None:
    """Special tokens come first, or where they are among the words."""
    tokenize = TokenizeWords.from_vocabulary(["the", "<unk>", "of", "<pad>"], bos_token="<s>", eos_token=None, bos=True)
    vocabulary = tokenize.tokenizer.vocabulary
    assert sorted(vocabulary, key=vocabulary.__getitem__) == ["<s>", "the", "<unk>", "of", "<pad>"]
    assert to_ints(tokenize(["of", "a", "<pad>"]).sequence.values) == [0, 3, 2, 2]
    words = Tokenize.from_vocabulary(["THE", "the", ","], lowercase=True, eos=True, max_length=3)
    assert ids_of(words, "The, the") == [5, 6, 3]
    pieces = ["[PAD]", "[UNK]", "to", "##day"]
    read = Tokenize.from_vocabulary(
        pieces, "wordpiece", pad_token="[PAD]", unk_token="[UNK]", bos_token=None, eos_token=None
    )
    assert ids_of(read, "today to [PAD]") == [2, 3, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("vocabulary", "kind", "message"),
    [
        (["a", "b", "a"], "words", r"must have each token once, got 'a' at 0 and 2; remove one: list\(dict.fromkeys"),
        (["a"], "bpe", "kind must be one of words, whole, characters, wordpiece for a given vocabulary, got 'bpe'"),
        (["a", ""], "words", "vocabulary must be a list of texts that are not empty, got '' at 1"),
        ("ab", "words", "vocabulary must be a list of texts that are not empty, got 'ab' at 0"),
        ([1], "words", "got 1 at 0"),
    ],
)
def test_invalid_vocabularies_raise(vocabulary: object, kind: str, message: str) -> None:
    """With the token and its place."""
    with pytest.raises(OptionError, match=message):
        untyped(Tokenize.from_vocabulary)(vocabulary, kind)


@pytest.mark.parametrize("kind", ["words", "whole", "characters"])
def test_words_written_as_special_tokens_leave_no_id_unused(kind: str) -> None:
    """Data sets of language models contain `<unk>`, for example."""
    tokenize = Tokenize.train(["?", "?", "tea", "tea ?"], kind, unk_token="?")
    assert list(tokenize.tokenizer.vocabulary.values()) == list(range(tokenize.vocab_size))
    assert list(tokenize.tokenizer.vocabulary)[:4] == ["<pad>", "?", "<bos>", "<eos>"]
    assert ids_of(tokenize, "?") == [1]


@pytest.mark.parametrize("kind", ["words", "whole", "characters", "wordpiece", "unigram"])
def test_kinds_with_unknown_texts_need_a_token_for_them(kind: str) -> None:
    """Rather than an error of the library for the first unknown text."""
    with pytest.raises(OptionError, match="unk_token must be a text, since this kind of tokenizer has unknown texts"):
        Tokenize.train(TEXTS, kind, unk_token=None)


@pytest.mark.parametrize(
    ("kind", "options", "least"),
    [
        ("words", {}, 5),
        ("words", {"bos_token": None, "eos_token": None, "mask_token": "<mask>"}, 4),
        ("whole", {}, 5),
        ("characters", {}, 5),
        ("wordpiece", {}, 5),
        ("unigram", {}, 5),
        ("bpe", {}, 260),
    ],
)
def test_a_vocabulary_has_room_for_the_special_tokens_and_others(
    kind: str, options: dict[str, Any], least: int
) -> None:
    """A smaller one has no token of its own, and the special tokens themselves may be left out."""
    for size in (0, 1, least - 1, 2.5):
        rule = f"vocab_size must be an integer of at least {least}, got {size}; raise it, to hold the "
        with pytest.raises(OptionError, match=rule):
            Tokenize.train(TEXTS, kind, vocab_size=size, **options)
    assert Tokenize.train(TEXTS, kind, vocab_size=least, **options).vocab_size >= least
