"""The doors: text, split words, numbers and frames in; numbered rows out; bad input refused by row."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers

from pipeline import Example, FromFeatures, FromIds, Labels, Shift, Tokenize, TokenizeWords
from pipeline.data.tensors import to_ints
from pipeline.errors import (
    LabelError,
    OptionError,
    PipelineError,
    ShapeError,
    TargetError,
    TextError,
    UnknownOptionError,
    ValuesError,
)
from pipeline.stages.input_stage import InputStage
from pipeline.testing import check_decoding_round_trip
from support.untyped import listed, loosely

TEXTS = ["The quick brown fox", "jumps over\nthe lazy dog.", "naïve café — 東京 🦊", "<pad> <unk> is text"]
KINDS = ("words", "characters", "bytes", "bpe")
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def ids_of(tokenize: Tokenize, string: str) -> list[int]:
    """The ids of one text."""
    return to_ints(tokenize(string).sequence.values)


@pytest.mark.parametrize("kind", KINDS)
@given(string=text)
def test_decoding_is_inverse_to_tokenizing(kind: str, string: str) -> None:
    """What is decoded has the same tokens, whatever the text; for bytes and BPE it is the very text."""
    tokenize = Tokenize.train([*TEXTS, string], kind)
    if kind != "words":
        assert tokenize.decode(ids_of(tokenize, string)) == string
    check_decoding_round_trip(tokenize.tokenizer, string)


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_point_into_the_text(kind: str) -> None:
    """In characters, through normalisation and lower-casing; bos and eos have empty spans."""
    tokenize = Tokenize.train(TEXTS, kind, bos=True, eos=True, lowercase=True, normalization="NFC")
    for string in TEXTS:
        row = tokenize(string)
        assert row.sequence.offsets is not None
        spans = listed(row.sequence.offsets)
        assert len(spans) == len(row)
        assert spans[0] == [0, 0]
        assert spans[-1][0] == spans[-1][1]
        covered = {place for start, end in spans for place in range(start, end)}
        assert covered >= {place for place, character in enumerate(string) if not character.isspace()}
    assert Tokenize.train(TEXTS, kind, offsets=False)("fox").sequence.offsets is None


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_are_text(kind: str) -> None:
    """A text that says <pad> holds no padding; also after a worker has unpickled the stage."""
    tokenize = Tokenize.train(TEXTS, kind)
    special = {tokenize.tokenizer.vocabulary[token] for token in ("<pad>", "<bos>", "<eos>")}
    for stage in (tokenize, pickle.loads(pickle.dumps(tokenize)), copy.deepcopy(tokenize)):
        assert special.isdisjoint(ids_of(stage, "<pad> fox <eos>"))


def test_bos_and_eos_frame_the_row() -> None:
    """They survive truncation, have no target, and are not asked for."""
    tokenize = Tokenize.train(["abcdef"], "characters", bos=True, eos=True, max_length=4)
    row = tokenize(Example("abcdef", target=[1, 2, 3, 4, 5, 6]))
    vocabulary = tokenize.tokenizer.vocabulary
    assert listed(row.sequence.values) == [vocabulary[token] for token in ("<bos>", "a", "b", "<eos>")]
    assert row.target == [None, 1, 2, None]
    assert row.answer_mask == [False, True, True, False]
    assert tokenize.decode(listed(row.sequence.values)) == "ab"


def test_unseen_words_and_characters_are_unknown() -> None:
    """And bytes never are."""
    for kind, unknown in (("words", 1), ("characters", 1)):
        assert ids_of(Tokenize.train(["a b"], kind), "z") == [unknown]
    assert 1 not in ids_of(Tokenize.train(["a b"], "bytes"), "zß🦊")


def test_normalisation_joins_what_looks_alike() -> None:
    """Composed and decomposed letters get one id under NFC, and two without."""
    composed, decomposed = "é", "e\u0301"
    joined = Tokenize.train([composed], "words", normalization="NFC")
    assert ids_of(joined, composed) == ids_of(joined, decomposed) != [1]
    assert ids_of(Tokenize.train([composed], "words"), decomposed) == [1]


def test_many_texts_keep_their_places() -> None:
    """More than one chunk, lazily, empty texts among them."""
    tokenize = Tokenize.train(["a"], "characters")
    rows = list(tokenize.map("a" * (place % 3) for place in range(600)))
    assert [row.row_id for row in rows] == list(range(600))
    assert [len(row) for row in rows] == [place % 3 for place in range(600)]


def test_a_tokenizer_is_read_from_its_file(tmp_path: Path) -> None:
    """Its truncation is switched off; its special tokens are said explicitly."""
    file = tmp_path / "tokenizer.json"
    theirs = HuggingFaceTokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "a": 3}, "[UNK]"))
    theirs.pre_tokenizer = pre_tokenizers.Whitespace()
    theirs.save(str(file))
    limits = {"truncation": {"max_length": 1, "stride": 0, "strategy": "LongestFirst", "direction": "Right"}}
    file.write_text(json.dumps(json.loads(file.read_text()) | limits))
    tokenize = Tokenize.read(file, pad="[PAD]", unknown="[UNK]", bos_token="[CLS]")
    assert ids_of(tokenize, "a a") == [2, 3, 3]
    assert tokenize.vocab_size == 4
    with pytest.raises(
        OptionError, match=r"eos='\[SEP\]' is not in the vocabulary, which begins with \[PAD\], \[UNK\]"
    ):
        Tokenize.read(file, pad="[PAD]", unknown="[UNK]", eos_token="[SEP]")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(OptionError, match="file must be a tokenizer.json of the tokenizers library, but .* is not"):
        Tokenize.read(tmp_path / "other.json", pad=None, unknown=None)


def test_split_words_keep_one_answer_each() -> None:
    """A word cut into pieces is answered, and has its target, at its first piece; an empty one is unknown."""
    tokenize = TokenizeWords.train([["low", "lower"]], "bytes", bos=True)
    row = tokenize(Example(["low", "", "é"], target=["A", "B", "C"]))
    assert row.target == [None, "A", None, None, "B", "C", None]
    assert row.answer_mask == [False, True, False, False, True, True, False]
    assert listed(row.sequence.values)[4] == 1
    assert row.sequence.offsets is not None
    assert listed(row.sequence.offsets)[1:5] == [[0, 1], [1, 2], [2, 3], [0, 0]]


def test_whole_words_stay_whole() -> None:
    """Without a kind, a split word is one token, punctuation and all."""
    tokenize = TokenizeWords.train([["U.S.A", "don't"]])
    row = tokenize(["don't", "U.S.A", "zebra"])
    assert len(row) == 3
    assert row.answer_mask is None
    assert row.sequence.values[2] == 1


def test_shift_gives_each_step_what_follows() -> None:
    """The last step has no target, and an empty row none at all."""
    row = FromIds()([5, 6, 7])
    assert Shift()(row).target == [6, 7, None]
    assert Shift()(FromIds()([])).target == []


BAD: list[tuple[InputStage[Any, Any], object, type[PipelineError], str]] = [
    (Tokenize.train(["a"]), b"a", TextError, "row 1 must be text, but a bytes arrived; decode bytes, and split words"),
    (Tokenize.train(["a"]), 3, TextError, "row 1 must be text, but an int arrived"),
    (Tokenize.train(["a"]), "a\ud800b", TextError, r"row 1 holds a lone surrogate, '\\ud800' at character 1, which is half"),
    (Tokenize.train(["a"]), Example("a a", target=[1]), TargetError, "row 1 has 2 tokens but 1 targets; give one each"),
    (TokenizeWords.train([["a"]]), "a", TextError, "row 1 must be a list of words, but a str arrived; text that is not"),
    (TokenizeWords.train([["a"]]), ["a", 1], TextError, "row 1 must hold words, but an int arrived; numbers go to FromIds"),
    (TokenizeWords.train([["a"]]), ["a\udfff"], TextError, "row 1 holds a lone surrogate"),
    (TokenizeWords.train([["a"]]), Example(["a"], target=[1, 2]), TargetError, "row 1 has 1 words but 2 targets"),
    (FromIds(), [1.5], ValuesError, "row 1 must be whole numbers, one a step, but a list arrived; text goes to Tokenize"),
    (FromIds(), "12", ValuesError, "row 1 must be whole numbers, one a step, but a str arrived"),
    (FromIds(), torch.zeros(2, 2), ValuesError, r"row 1 must be whole numbers.*but float32 of shape \(2, 2\) arrived"),
    (FromIds(), [3, -1], ValuesError, "row 1, step 1 is -1, but ids count from 0"),
    (FromFeatures(), torch.zeros(2), ShapeError, r"row 1 must be a floating-point tensor of time x feature, but float32 of"),
    (FromFeatures(), torch.zeros(2, 2).long(), ShapeError, "row 1 must be a floating-point tensor"),
    (FromFeatures(), [[1.0]], ShapeError, "row 1 must be a floating-point tensor of time x feature, but a list arrived"),
    (FromFeatures(), torch.tensor([[0.0, 1.0], [0.0, torch.nan]]), ValuesError, "row 1, step 1, feature 1 is nan, but features"),
    (FromFeatures(), torch.tensor([[torch.inf]]), ValuesError, "row 1, step 0, feature 0 is inf, but features must be finite"),
]  # fmt: skip
GOOD: dict[type, object] = {Tokenize: "a", TokenizeWords: ["a"], FromIds: [1], FromFeatures: torch.zeros(1, 2)}


@pytest.mark.parametrize(("door", "value", "error", "message"), BAD)
def test_bad_input_is_refused_by_row(
    door: InputStage[Any, Any], value: object, error: type[PipelineError], message: str
) -> None:
    """The second of two inputs is wrong, and named."""
    with pytest.raises(error, match=message) as info:
        list(door.map([GOOD[type(door)], value]))
    assert info.value.details["row"] == 1


def test_bad_options_are_refused() -> None:
    """With the argument, the rule and what arrived."""
    with pytest.raises(TextError, match=r"inputs must be many, but one text arrived.*pass \[text\]"):
        Tokenize.train("a text")
    with pytest.raises(TextError, match="row 1 must be text, but an int arrived"):
        loosely(Tokenize.train)(["a", 1])
    with pytest.raises(OptionError, match="max_length must leave room for bos and eos, 2 or more, but 1 arrived"):
        Tokenize.train(["a"], bos=True, eos=True, max_length=1)
    with pytest.raises(
        OptionError, match="normalization must be one of NFC, NFD, NFKC, NFKD or None, but 'nfc' arrived"
    ):
        Tokenize.train(["a"], normalization="nfc")
    with pytest.raises(
        UnknownOptionError, match="tokenizer 'bytes' .* takes no option 'vocab_size'; it takes: texts, low"
    ):
        Tokenize.train(["a"], "bytes", vocab_size=3)
    with pytest.raises(OptionError, match=r"ids\[1\] is 99, but the vocabulary has ids 0 to 4"):
        Tokenize.train(["a"]).decode([4, 99])


def test_labels_are_learned_or_given() -> None:
    """Sorted when learned; steps without a class are no class."""
    assert Labels.from_targets(["b", "a", "b"]).names == ("a", "b")
    assert list(Labels.from_targets([["N", None], ["V"]])) == ["N", "V"]
    labels = Labels(["b", "a"])
    assert (labels[0], labels[:], labels.to_id("a"), labels.to_id(1), len(labels)) == ("b", ("b", "a"), 1, 1, 2)
    assert pickle.loads(pickle.dumps(labels)) == labels


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Labels([]), "names is empty, but a model needs at least one class"),
        (
            lambda: Labels(["a", "b", "a"]),
            r"names\[2\] is 'a', which names\[0\] is too; give each class one name, once",
        ),
        (lambda: loosely(Labels)(["a", 1]), r"names\[1\] must be a class name, but 1 arrived"),
        (
            lambda: Labels.from_targets(["a", 1]),
            "target 1 of row 1 is a number, not a class name; numbers need no labels",
        ),
    ],
)
def test_bad_labels_are_refused(make: Callable[[], object], message: str) -> None:
    """With the name at fault."""
    with pytest.raises(LabelError, match=message):
        make()
