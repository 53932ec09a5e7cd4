"""Text lines and JSON lines."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, assert_type

import pytest

from pipeline import Example, Tokenize, TokenizeWords
from pipeline.errors import OptionError, RecordError
from pipeline.sources import Concat, Csv, JsonLines, Records, Source, TextLines
from support.pairs import to_pairs
from support.source_files import write

pytestmark = pytest.mark.usefixtures("storage")

WRONG: Any = "wrong"
WRONG_FIELDS: Any = {"text": "a", "words": "b"}


def test_blank_lines_are_kept_or_dropped(tmp_path: Path) -> None:
    """A line of spaces is not blank, and white space is kept."""
    file = write(tmp_path / "a", b"\na\n\r\n \nb \n\n")
    assert list(TextLines(file, target=3).inputs()) == ["", "a", "", " ", "b ", ""]
    dropped = TextLines(file, blank="drop", target=3)
    assert to_pairs(dropped) == to_pairs(dropped[i] for i in range(3)) == [("a", 3), (" ", 3), ("b ", 3)]
    assert dropped.where(2) == f"{file}, line 5"
    with pytest.raises(OptionError, match="blank must be one of 'keep', 'drop', got 'wrong'"):
        TextLines(file, blank=WRONG)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "a line must be JSON: "),
        ('"text"', "a line must be a JSON object, as in {...}, got a str"),
        ('{"text": null}', "field 'text' must be text, got None"),
        ('{"txt": "a"}', "a record must have a field 'text', got fields 'txt'"),
        ("{}", "a record must have a field 'text', got an empty record"),
        (" ", "a line must be JSON: "),
    ],
)
def test_malformed_json_is_explained(tmp_path: Path, line: str, reason: str) -> None:
    """The reason names the rule and the value."""
    file = write(tmp_path / "a", line.encode())
    with pytest.raises(RecordError) as raised:
        JsonLines(file)[0]
    assert str(raised.value).startswith(f"{file}, line 1: {reason}")


def test_words_and_their_targets_in_json(tmp_path: Path) -> None:
    """Lists of words with a class per word; true and false are 1 and 0."""
    rows = [
        {"w": ["a", "b"], "t": ["X", None]},
        {"w": [], "t": [True, 3]},
        {"w": "ab", "t": 1},
        {"w": ["a", 1], "t": 1},
        {"w": ["a"], "t": "\ud800"},
        {"w": ["a"], "t": 10**30},
    ]
    file = write(tmp_path / "a", "\n".join(map(json.dumps, rows)).encode())
    source = JsonLines(file, words="w", target="t", on_bad_record="skip")
    wanted: list[tuple[object, object]] = [(["a", "b"], ["X", None]), ([], [1, 3]), (["a"], 10**30)]
    assert to_pairs(source) == to_pairs(source[number] for number in range(3)) == wanted
    assert source.skipped.kinds == {"type": 2, "surrogate": 1}
    assert next(iter(TokenizeWords.train([["a", "b"]]).map([source[0]]))).target == ["X", None]
    with pytest.raises(OptionError, match="exactly one of text= .* and words= .*, got text='a' and words='b'"):
        JsonLines(file, **WRONG_FIELDS)


def test_a_source_is_typed_by_its_input(tmp_path: Path) -> None:
    """Texts go to one input stage, and words to the other."""
    file = write(tmp_path / "a.jsonl", b'{"text": "a b", "words": ["a", "b"]}\n{"text": "b", "words": []}\n')
    texts, words = JsonLines(file), JsonLines(file, words="words")
    assert_type(texts, JsonLines[str])
    assert_type(words, JsonLines[Sequence[str]])
    assert_type(Concat(texts, TextLines(file)), Concat[str])
    assert_type(Records([Example("a", 1)]), Records[str])
    assert_type(Records([{"text": "a"}], text="text"), Records[str])
    assert_type(Records([("a", "b")], words=0), Records[Sequence[str]])
    assert_type(words[0], Example[Sequence[str]])
    assert_type(words[:1], Source[Sequence[str]])
    assert_type(texts.inputs(), Sequence[str])
    table = write(tmp_path / "train.csv", b"text,label\na,x\nb,y\n")
    assert_type(Csv(table, text="text", target="label").split(0.5, seed=0), tuple[Source[str], Source[str]])
    assert_type(texts.filter(lambda example: "a" in example.input), Source[str])
    assert [len(row) for row in Tokenize.train(texts.inputs()).map(texts)] == [2, 1]
    assert [len(row) for row in TokenizeWords.train(words.inputs()).map(words)] == [2, 0]
