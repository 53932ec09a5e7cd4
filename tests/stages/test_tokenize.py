"""Tests of `Tokenize` and `TokenizeWords`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers

from pipeline import Example, FromFeatures, FromIds, Tokenize, Tokenizer, TokenizeWords
from pipeline.builtin.tokenizers import HuggingFaceTokenizer as TrainedTokenizer
from pipeline.data.tensors import to_ints
from pipeline.errors import (
    OptionError,
    PipelineError,
    TargetError,
    TextError,
    UnknownOptionError,
)
from pipeline.stages.input_stage import InputStage
from support.untyped import as_any, to_list, untyped


def ids_of(tokenize: Tokenize, string: str) -> list[int]:
    """Return the ids of one text."""
    return to_ints(tokenize(string).sequence.values)


def test_bos_and_eos_enclose_the_row() -> None:
    """They are kept by truncation, have no target, and no prediction is wanted for them."""
    tokenize = Tokenize.train(["abcdef"], "characters", bos=True, eos=True, max_length=4)
    row = tokenize.with_token_targets()(Example("abcdef", target=[1, 2, 3, 4, 5, 6]))
    vocabulary = tokenize.tokenizer.vocabulary
    assert to_list(row.sequence.values) == [vocabulary[token] for token in ("<bos>", "a", "b", "<eos>")]
    assert row.target == [None, 1, 2, None]
    assert row.answer_mask == [False, True, True, False]
    assert tokenize.decode(to_list(row.sequence.values)) == "ab"


def test_row_ids_are_positions_in_the_input() -> None:
    """Over more than one chunk, with empty texts."""
    tokenize = Tokenize.train(["a"], "characters")
    rows = list(tokenize.map("a" * (place % 3) for place in range(600)))
    assert [row.row_id for row in rows] == list(range(600))
    assert [len(row) for row in rows] == [place % 3 for place in range(600)]


@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize(("ends", "max_length"), [(False, None), (False, 3), (True, None), (True, 5)])
def test_rows_of_many_texts_equal_their_tokens(offsets: bool, ends: bool, max_length: int | None) -> None:
    """Rows that share memory have the ids and offsets of their own text, truncated and with bos and eos."""
    texts = ["ab" * (place % 5) for place in range(150)]
    tokenize = Tokenize.train(texts, "characters", bos=ends, eos=ends, max_length=max_length, offsets=offsets)
    room = None if max_length is None else max_length - 2 * ends
    first, last = ([tokenize.tokenizer.vocabulary[token]] * ends for token in ("<bos>", "<eos>"))
    examples = [Example(text, target="even" if len(text) % 4 else None) for text in texts]
    for row, example, found in zip(tokenize.map(examples), examples, tokenize.tokenizer.encode(texts), strict=True):
        ids, spans = list(found.ids)[:room], list(found.offsets)[:room]
        assert to_list(row.sequence.values) == [*first, *ids, *last]
        assert row.target == example.target
        assert row.answer_mask == ([False, *[True] * len(ids), False] if ends else None)
        if not offsets:
            assert row.sequence.offsets is None
            continue
        assert row.sequence.offsets is not None
        spans = [*[(0, 0)] * ends, *spans, *[(len(ids), len(ids))] * ends]
        assert row.sequence.offsets.shape == (len(row), 2)
        assert to_list(row.sequence.offsets) == [list(span) for span in spans]


@pytest.mark.parametrize("offsets", [True, False])
def test_a_special_token_in_a_text_is_unknown(offsets: bool) -> None:
    """Also where the ids of many texts are checked at once."""
    tokenize = Tokenize.train(["fox"], "whole", offsets=offsets)
    rows = tokenize.map(["fox", "<pad>", "fox", "<eos>"])
    assert [to_list(row.sequence.values) for row in rows] == [[4], [1], [4], [1]]


def test_each_word_has_one_prediction() -> None:
    """At its first token, which has its target too; a word without tokens gets the unknown token."""
    tokenize = TokenizeWords.train([["low", "lower"]], "bytes", bos=True)
    row = tokenize(Example(["low", "", "é"], target=["A", "B", "C"]))
    assert row.target == [None, "A", None, None, "B", "C", None]
    assert row.answer_mask == [False, True, False, False, True, True, False]
    assert to_list(row.sequence.values)[4] == 1
    assert row.sequence.offsets is not None
    assert to_list(row.sequence.offsets)[1:5] == [[0, 1], [1, 2], [2, 3], [0, 0]]


def test_words_are_whole_tokens_by_default() -> None:
    """With punctuation."""
    tokenize = TokenizeWords.train([["U.S.A", "don't"]])
    row = tokenize(["don't", "U.S.A", "zebra"])
    assert len(row) == 3
    assert row.answer_mask is None
    assert row.sequence.values[2] == 1


def test_invalid_options_raise() -> None:
    """With the argument, the rule and the value."""
    with pytest.raises(TextError, match=r"inputs must be an iterable of inputs, got one text.*pass \[text\]"):
        Tokenize.train("a text")
    with pytest.raises(TextError, match="row 1 must be text, got an int"):
        untyped(Tokenize.train)(["a", 1])
    for option in ("bos", "eos", "offsets"):
        for value in ("no", 1, None):
            with pytest.raises(OptionError, match=f"{option} must be True or False, got {value!r}"):
                as_any(Tokenize).train(["a"], **{option: value})
    for length in (-1, 0, 2.5, float("nan"), True, "3"):
        with pytest.raises(OptionError, match=f"max_length must be an integer of at least 1, got {length!r}"):
            as_any(Tokenize).train(["a"], max_length=length)
    with pytest.raises(OptionError, match="max_length must be 2 or more, to leave room for bos and eos, got 1"):
        Tokenize.train(["a"], bos=True, eos=True, max_length=1)
    with pytest.raises(OptionError, match="normalization must be one of NFC, NFD, NFKC, NFKD or None, got 'nfc'"):
        Tokenize.train(["a"], normalization="nfc")
    with pytest.raises(
        UnknownOptionError, match="tokenizer 'bytes' .* does not take option 'vocab_size'; its options: texts, low"
    ):
        Tokenize.train(["a"], "bytes", vocab_size=3)
    with pytest.raises(OptionError, match=r"ids\[1\] is 99, but the vocabulary has ids 0 to 4"):
        Tokenize.train(["a"]).decode([4, 99])


def save_tokenizer(file: Path, **changes: object) -> None:
    """Save a tokenizer of another origin, with changes to its file."""
    vocabulary = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4}
    other = HuggingFaceTokenizer(models.WordLevel(vocabulary, "[UNK]"))
    other.pre_tokenizer = pre_tokenizers.Whitespace()
    other.save(str(file))
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_tokenizer_is_read_from_its_file(tmp_path: Path) -> None:
    """Its truncation may be switched off, and special tokens given."""
    file = tmp_path / "tokenizer.json"
    save_tokenizer(file, truncation={"max_length": 1, "stride": 0, "strategy": "LongestFirst", "direction": "Right"})
    tokenize = Tokenize.read(file, pad_token="[PAD]", bos_token="[CLS]", bos=True, max_length=None)
    assert ids_of(tokenize, "a a") == [2, 4, 4]
    assert tokenize.vocab_size == 5
    with pytest.raises(OptionError, match=r"eos_token must be in the vocabulary, which begins with \[PAD\], .*'<s>'"):
        Tokenize.read(file, eos_token="<s>")
    with pytest.raises(OptionError, match="eos is True, but the tokenizer has no eos_token; pass eos_token="):
        Tokenize.read(file, eos=True)
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(OptionError, match="file must be a tokenizer.json of the tokenizers library, but .* is not"):
        Tokenize.read(tmp_path / "other.json")


def special_tokens(tokenizer: Tokenizer) -> tuple[str | None, ...]:
    """Return the special tokens: pad, unk, bos, eos."""
    return tokenizer.pad_token, tokenizer.unk_token, tokenizer.bos_token, tokenizer.eos_token


PADDING = {
    "strategy": "BatchLongest",
    "direction": "Right",
    "pad_to_multiple_of": None,
    "pad_id": 0,
    "pad_type_id": 0,
    "pad_token": "[PAD]",
}
BERT = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]}},
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (None, "[UNK]", None, None)),
        ({"padding": PADDING}, ("[PAD]", "[UNK]", None, None)),
        ({"post_processor": BERT}, (None, "[UNK]", "[CLS]", "[SEP]")),
        ({"post_processor": TEMPLATE}, (None, "[UNK]", "[CLS]", None)),
        ({"post_processor": {"type": "Sequence", "processors": [BERT]}}, (None, "[UNK]", "[CLS]", "[SEP]")),
    ],
)
def test_special_tokens_are_taken_from_the_file(
    changes: dict[str, object], expected: tuple[str | None, ...], tmp_path: Path
) -> None:
    """As far as it states them: in the model, the padding and the post-processor. Arguments override the file."""
    save_tokenizer(tmp_path / "tokenizer.json", **changes)
    assert special_tokens(Tokenize.read(tmp_path / "tokenizer.json").tokenizer) == expected
    given = TokenizeWords.read(
        tmp_path / "tokenizer.json", pad_token="a", unk_token=None, bos_token="a", eos_token="[PAD]"
    )
    assert special_tokens(given.tokenizer) == ("a", None, "a", "[PAD]")


@pytest.mark.parametrize("kind", ["words", "whole", "characters", "bytes", "bpe"])
def test_special_tokens_may_be_chosen_in_training(kind: str, tmp_path: Path) -> None:
    """A saved tokenizer keeps the default ones, and states the unknown token of a model of words."""
    tokenizer = Tokenize.train(["a b"], kind).tokenizer
    assert special_tokens(tokenizer) == ("<pad>", "<unk>", "<bos>", "<eos>")
    assert isinstance(tokenizer, TrainedTokenizer)
    tokenizer.save(tmp_path / "tokenizer.json")
    assert special_tokens(Tokenize.read(tmp_path / "tokenizer.json").tokenizer) == special_tokens(tokenizer)
    chosen = Tokenize.train(["a b"], kind, pad_token="[PAD]", unk_token="[UNK]", bos_token=None, eos_token="[SEP]")
    assert special_tokens(chosen.tokenizer) == ("[PAD]", "[UNK]", None, "[SEP]")
    assert [chosen.tokenizer.vocabulary[token] for token in ("[PAD]", "[UNK]", "[SEP]")] == [0, 1, 2]
    assert not {"<pad>", "<bos>", "<eos>"} & set(chosen.tokenizer.vocabulary)


BAD: list[tuple[InputStage[Any, Any], object, type[PipelineError], str]] = [
    (Tokenize.train(["a"]), b"a", TextError, "row 1 must be text, got a bytes; decode bytes, use TokenizeWords"),
    (Tokenize.train(["a"]), ("a", 1), TextError, r"row 1 must be text, got a tuple; .* as Example\(text, target=\.\.\.\)"),
    (Tokenize.train(["a"]), 3, TextError, "row 1 must be text, got an int"),
    (Tokenize.train(["a"]), "a\ud800b", TextError, r"row 1 holds a lone surrogate, '\\ud800' at character 1, which is half"),
    (Tokenize.train(["a"]).with_token_targets(), Example("a a", target=[1]), TargetError, "row 1 has 2 tokens but 1 targets; give each of them a target"),
    (Tokenize.train(["a"]), Example("a", target=[1]), TargetError, r"the target of row 1 must be one class, got a list of 1; write numbers as floats"),
    (Tokenize.train(["a"]), as_any(Example)("a", target=torch.tensor([1])), TargetError, "the target of row 1 must be one class, got a list"),
    (TokenizeWords.train([["a"]]), b"a", TextError, "row 1 must be a list of words, got a bytes"),
    (TokenizeWords.train([["a"]]), "a", TextError, "row 1 must be a list of words, got a str; use Tokenize for text"),
    (TokenizeWords.train([["a"]]), ["a", 1], TextError, "row 1 must hold words, got an int; use FromIds for ids"),
    (TokenizeWords.train([["a"]]), ["a\udfff"], TextError, "row 1 holds a lone surrogate"),
    (TokenizeWords.train([["a"]]), Example(["a"], target=[1, 2]), TargetError, "row 1 has 1 words but 2 targets"),
]  # fmt: skip


GOOD: dict[type, object] = {Tokenize: "a", TokenizeWords: ["a"], FromIds: [1], FromFeatures: torch.zeros(1, 2)}


@pytest.mark.parametrize(("stage", "value", "error", "message"), BAD)
def test_invalid_inputs_raise_with_their_row(
    stage: InputStage[Any, Any], value: object, error: type[PipelineError], message: str
) -> None:
    """The second of two inputs is invalid."""
    with pytest.raises(error, match=message) as info:
        list(stage.map([GOOD[type(stage)], value]))
    assert info.value.details["row"] == 1


@pytest.mark.parametrize("rows", [["to be"], [["to", "be"], "or"], [["to"], b"be"], [["to"], 3]])
def test_training_on_texts_instead_of_words_raises(rows: list[object]) -> None:
    """The letters of a text would be the words of the vocabulary."""
    with pytest.raises(TextError, match="row [01] must be a list of words, got a"):
        untyped(TokenizeWords.train)(rows)


@pytest.mark.parametrize("kind", ["words", "bpe", "characters"])
def test_training_on_a_lone_surrogate_names_the_row(kind: str) -> None:
    """The library underneath raises an error without it."""
    with pytest.raises(TextError, match=r"row 2 holds a lone surrogate, '\\ud800' at character 1"):
        Tokenize.train(["ok", "é", "a\ud800"], kind)
    with pytest.raises(TextError, match=r"row 1 holds a lone surrogate"):
        TokenizeWords.train([["ok"], ["é", "\udfff"]])


def test_token_targets_are_asked_for() -> None:
    """The stage itself is not changed, and a class per text needs no list."""
    plain = Tokenize.train(["a b"])
    asked = plain.with_token_targets()
    assert as_any(asked)(as_any(Example)("a b", target=np.array([1, 2]))).target == [1, 2]
    assert asked(Example("a b", target=1)).target == 1
    with pytest.raises(TargetError, match="must be one class, got a list of 2"):
        plain(Example("a b", target=[1, 2]))


@pytest.mark.parametrize("target", [[1, 2], ["bad"]])
def test_the_error_for_a_list_names_all_that_it_may_be_meant_for(target: list[Any]) -> None:
    """The type of the targets is known to `Pad`, not here."""
    with pytest.raises(TargetError, match=r"floats, \[1\.0.* a set, \{.*\.with_token_targets\(\)") as info:
        Tokenize.train(["a"])(Example("a", target))
    assert info.value.details["row"] == 0
