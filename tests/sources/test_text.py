"""Text lines, JSON lines, and folders of text files, by file and by line."""

import json
import resource
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest

from pipeline import Example, Pad, Tokenize, TokenizeWords
from pipeline.batching import Budget
from pipeline.errors import OptionError, RecordError, SourceError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.sources import (
    Concat,
    Csv,
    JsonLines,
    Records,
    Source,
    TextFolder,
    TextLines,
    lengths_of,
    lines_of,
)
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
    with pytest.raises(OptionError, match="blank must be one of keep, drop, got 'wrong'"):
        TextLines(file, blank=WRONG)


def test_the_target_of_lines_is_a_class(tmp_path: Path) -> None:
    """A scalar of numpy is a number; other values are rejected before a line is read."""
    number: Any = np.int64(3)
    assert to_pairs([TextLines(write(tmp_path / "a", b"a"), target=number)[0]]) == [("a", 3)]
    wrong: Any
    for wrong in (b"a", 2**63, [[1]]):
        with pytest.raises(OptionError, match="target must be a class"):
            TextLines(tmp_path / "a", target=wrong)


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
    wanted: list[tuple[object, object]] = [(["a", "b"], ["X", None]), ([], [1, 3])]
    assert to_pairs(source) == to_pairs(source[number] for number in range(2)) == wanted
    assert source.skipped.kinds == {"type": 2, "surrogate": 1, "range": 1}
    assert source.skipped.first[-1].reason == f"field 't' must be a class number of at most 63 bits, got {10**30}"
    assert next(iter(TokenizeWords.train([["a", "b"]]).map([source[0]]))).target == ["X", None]
    with pytest.raises(
        OptionError, match="exactly one of text= .*, words= .* and inputs= .*, got text='a', words='b' and inputs=None"
    ):
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


def test_lines_of_a_folder(tmp_path: Path) -> None:
    """Files are in the order of their paths; each line has its file's name as target and its file in errors."""
    for name, content in (("b.txt", b"1\n2\n"), ("a/c.txt", b"3"), ("B.txt", b"\xff\n4\n"), ("a.txt", b"")):
        write(tmp_path / name, content)
    source = lines_of(tmp_path, target="file", on_bad_record="skip")
    assert to_pairs(source) == [("4", "B"), ("3", "c"), ("1", "b"), ("2", "b")]
    assert to_pairs(source[i] for i in range(4)) == to_pairs(source)
    assert list(source.targets()) == [source.target(i) for i in range(4)] == ["B", "c", "b", "b"]
    assert source.where(3) == f"{tmp_path / 'b.txt'}, line 2"
    assert source.skipped.kinds == {"encoding": 1}
    assert source.skipped.first[0].where == f"{tmp_path / 'B.txt'}, line 1"
    assert source.fingerprint == lines_of(tmp_path, target="file", on_bad_record="skip").fingerprint
    assert source.fingerprint != lines_of(tmp_path, target=None, on_bad_record="skip").fingerprint


def test_many_files_need_one_open_file(tmp_path: Path) -> None:
    """A folder may have more files than a process may open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    names = [f"{number:03}" for number in range(200)]
    for name in names:
        write(tmp_path / f"{name}.txt", b"" if name == "000" else f"a{name}\nb{name}\n".encode())
    source = lines_of(tmp_path, target="file")
    wanted = [f"{letter}{name}" for name in names[1:] for letter in "ab"]
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        for _ in range(2):
            assert [source[i].input for i in range(len(source))] == list(source.inputs()) == wanted
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert source.where(3) == f"{tmp_path / '002.txt'}, line 2"
    assert source[3].target == "002"


def test_targets_of_files_are_read_without_the_files(tmp_path: Path) -> None:
    """The names of folders are known; the location of a record is its file."""
    for name in ("spam/1.txt", "ham/1.txt", "ham/2.txt"):
        write(tmp_path / name, b"text")
    source = TextFolder(tmp_path, target="folder")
    for file in source.files:
        file.unlink()
    assert list(source.targets()) == ["ham", "ham", "spam"]
    assert source.targets()[-1] == "spam"
    with pytest.raises(SourceError, match=r"1\.txt' cannot be read"):
        source[0]


def test_a_changed_file_of_a_folder_is_noticed(tmp_path: Path) -> None:
    """A batch planned by old lengths never holds a new text."""
    for number in range(4):
        write(tmp_path / f"{number}.txt", b"a b")
    source, tokenize = TextFolder(tmp_path, encoding="ascii"), Tokenize.train(["a b"])
    batches = PlannedBatches(lengths_of(source, tokenize), Budget(4), seed=None)
    assert source.where(1) == str(tmp_path / "1.txt")
    write(tmp_path / "3.txt", b"a b " * 50)
    with pytest.raises(SourceError, match=r"3\.txt' has changed since it was first read"):
        list(Loader(RowDataset(source, tokenize), batches, Pad()))


BAD_FOLDERS: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (lambda folder: TextFolder(folder / "no"), SourceError, "no' is not a folder; check the path"),
    (TextFolder, SourceError, r"has no file '\*\*/\*\.txt'; select others with pattern="),
    (lambda folder: TextFolder(folder, pattern="*", target="folder"), RecordError, "must be in a subfolder of"),
    (lambda folder: lines_of(folder / "no"), SourceError, "is not a folder"),
]


def test_wrong_targets_of_a_folder_are_rejected(tmp_path: Path) -> None:
    """A typing error in the option is not taken for no target."""
    with pytest.raises(OptionError, match="target must be one of folder, file, got 'wrong'"):
        TextFolder(tmp_path, target=WRONG)


@pytest.mark.parametrize(("make", "kind", "message"), BAD_FOLDERS)
def test_wrong_folders_are_rejected(
    tmp_path: Path, make: Callable[[Path], object], kind: type[Exception], message: str
) -> None:
    """The error names the folder and the rule."""
    write(tmp_path / "a.csv", b"")
    with pytest.raises(kind, match=message):
        make(tmp_path)
