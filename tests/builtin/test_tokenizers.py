"""Tests of the built-in tokenizers."""

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Tokenize
from pipeline.data.tensors import to_ints
from pipeline.testing import check_decoding_round_trip
from support.untyped import to_list

TEXTS = ["The quick brown fox", "jumps over\nthe lazy dog.", "naïve café — 東京 🦊", "<pad> <unk> is text"]


KINDS = ("words", "characters", "bytes", "bpe")


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def ids_of(tokenize: Tokenize, string: str) -> list[int]:
    """Return the ids of one text."""
    return to_ints(tokenize(string).sequence.values)


@pytest.mark.parametrize("kind", KINDS)
@given(string=text)
def test_decoding_inverts_tokenizing(kind: str, string: str) -> None:
    """Decoded text has the same tokens, whatever the text; except for words, it is the text itself."""
    tokenize = Tokenize.train([*TEXTS, string], kind)
    if kind != "words":
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
