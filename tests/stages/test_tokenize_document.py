"""Tests of `TokenizeDocument`: texts as rows of sentences."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import (
    Bucket,
    Classify,
    EachStep,
    Embed,
    Encode,
    Example,
    Ids,
    Nested,
    Pad,
    Pool,
    Tokenize,
    TokenizeDocument,
    load,
)
from pipeline.data.tensors import to_ints
from pipeline.errors import OptionError, SaveError, ShapeError, TextError
from pipeline.stages.tokenize_document import Split
from support.untyped import as_any, untyped

TOKENIZE = Tokenize.train(["a b c d . ! ? \" ' ) 3 5 。"], "characters")

SENTENCES: list[tuple[str, list[str]]] = [
    ("", []),
    (" \n\n ", []),
    ("a", ["a"]),
    ("a b. c! d? ", ["a b.", "c!", "d?"]),
    ("a... b", ["a...", "b"]),
    ("3.5 a. b", ["3.5 a.", "b"]),
    ('"a." b (c.) d', ['"a."', "b (c.)", "d"]),
    ("a\nb\n\nc\n \nd", ["a\nb", "c", "d"]),
    ("a。b。", ["a。", "b。"]),
]


def list_sentences(stage: TokenizeDocument, text: str) -> list[str]:
    """Return the sentences that the steps of a text's row are."""
    row = stage(text)
    found = [text[start:end] for start, end in stage.locate_steps(text, row)]
    assert to_ints(row.sequence.counts) == [len(TOKENIZE(sentence)) for sentence in found]
    return found


@pytest.mark.parametrize(("text", "expected"), SENTENCES)
def test_a_text_is_split_into_its_sentences(text: str, expected: list[str]) -> None:
    """Their tokens are those of the sentences alone."""
    stage = TokenizeDocument(TOKENIZE)
    assert list_sentences(stage, text) == expected
    inner = [number for sentence in expected for number in to_ints(TOKENIZE(sentence).sequence.values)]
    assert to_ints(stage(text).sequence.inner.values) == inner


@pytest.mark.parametrize(
    ("split", "expected"),
    [
        ("lines", ["a. b", "c", "d"]),
        ("paragraphs", ["a. b\nc", "d"]),
        ("sentences", ["a.", "b\nc", "d"]),
    ],
)
def test_lines_and_paragraphs_may_be_the_steps(split: Split, expected: list[str]) -> None:
    """Blank ones are left out."""
    assert list_sentences(TokenizeDocument(TOKENIZE, split=split), "a. b\nc\n\n d") == expected


def test_a_function_may_split_texts() -> None:
    """Its parts are found in the text, in their order; others are an error with the row."""
    stage = TokenizeDocument(TOKENIZE, split=lambda text: text.split(" a "))
    assert list_sentences(stage, "b a b a c") == ["b", "b", "c"]
    changing = TokenizeDocument(TOKENIZE, split=lambda text: text.upper().split())
    with pytest.raises(ShapeError, match="sentence 0 of row 1 must be a part of the text .* got 'B'"):
        list(changing.map(["", "b"]))


def test_documents_are_truncated_to_a_number_of_sentences() -> None:
    """And their sentences by the stage of a sentence."""
    stage = TokenizeDocument(Tokenize(TOKENIZE.tokenizer, max_length=2), max_sentences=2)
    row = stage("a b c. d. a.")
    assert to_ints(row.sequence.counts) == [2, 2]
    assert [len(spans) for spans in stage.locate_tokens("a b c. d. a.")] == [2, 2]


def test_tokens_have_places_in_the_text() -> None:
    """Not in their sentence."""
    text = "a b. c!"
    found = TokenizeDocument(TOKENIZE).locate_tokens(text)
    assert [[text[start:end] for start, end in spans] for spans in found] == [["a", " ", "b", "."], ["c", "!"]]
    bare = TokenizeDocument(Tokenize(TOKENIZE.tokenizer, offsets=False))
    with pytest.raises(OptionError, match="the places of tokens are not known; make the Tokenize stage with offsets"):
        bare.locate_tokens(text)


def test_targets_and_row_ids_are_kept() -> None:
    """Also of empty documents."""
    rows = list(TokenizeDocument(TOKENIZE).map([Example("", target="x"), Example("a. b.", target="y")]))
    assert [(row.row_id, row.target, len(row)) for row in rows] == [(0, "x", 0), (1, "y", 2)]


def test_wrong_uses_raise() -> None:
    """With the argument or the row."""
    with pytest.raises(OptionError, match="split must be one of sentences, lines, paragraphs, got 'words'"):
        untyped(TokenizeDocument)(TOKENIZE, split="words")
    for value in (0, 2.5, True, "3"):
        with pytest.raises(OptionError, match=f"max_sentences must be an integer of at least 1, got {value!r}; None"):
            untyped(TokenizeDocument)(TOKENIZE, max_sentences=value)
    with pytest.raises(TextError, match="row 1 must be text, got a list; use FromNested for documents that are lists"):
        list(as_any(TokenizeDocument(TOKENIZE)).map(["a", ["a"]]))
    with pytest.raises(TextError, match="row 1 holds a lone surrogate"):
        list(TokenizeDocument(TOKENIZE).map(["a", "b. \ud800."]))


def make_pipe(stage: TokenizeDocument) -> Any:
    """Make a pipe for documents."""
    read = Embed(20, 3) >> Encode("gru", hidden_size=3) >> Pool("mean")
    model = EachStep(read) >> Encode("gru", hidden_size=3) >> Pool("mean") >> Classify(2)
    return stage >> Bucket(Nested[Ids], max_padded_steps=40) >> Pad(Nested[Ids]) >> model


def test_a_pipe_is_saved_and_loaded(tmp_path: Path) -> None:
    """A function is code, and is not saved."""
    pipe = make_pipe(TokenizeDocument(TOKENIZE, split="lines", max_sentences=3))
    pipe.save(tmp_path / "saved")
    loaded = load(tmp_path / "saved", takes=str, gives=int)
    texts = ["a\nb", "", "c\nd\na\nb"]
    assert list(loaded.predict(texts)) == list(pipe.predict(texts))
    with pytest.raises(SaveError, match="split cannot be saved"):
        make_pipe(TokenizeDocument(TOKENIZE, split=str.splitlines)).save(tmp_path / "other")


def test_batches_are_planned_by_words() -> None:
    """A budget holds for rows times the most words of a document; a sentence without words counts as one."""
    bucket = Bucket(Nested[Ids], max_padded_steps=8, seed=None)
    documents = ["ab\ncd", "a", "ab\nab", "abcd", "a\nb"]
    rows = list(TokenizeDocument(TOKENIZE, split="lines").map(documents))
    assert [[row.row_id for row in batch] for batch in bucket(rows)] == [[0, 2], [3, 4], [1]]
    with pytest.raises(OptionError, match="rows of Nested cannot be truncated or split by a number of inner steps"):
        Bucket(Nested[Ids], max_padded_steps=8, too_long="truncate")
