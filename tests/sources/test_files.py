"""Files of each format: what their records are, by number and in order, and what is said of malformed ones."""

import json
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, assert_type

import pytest
from torch.utils.data import DataLoader

from pipeline import Example, Tokenize, TokenizeWords
from pipeline.errors import OptionError, RecordError, SourceError
from pipeline.sources import (
    Conllu,
    Csv,
    Delimited,
    JsonLines,
    Problem,
    Records,
    Source,
    TextFolder,
    TextLines,
    Together,
    Tsv,
    lines_of,
)
from support.pairs import pairs


def word(number: object, form: str = "a", upos: str = "X", head: str = "0") -> str:
    """A line of CoNLL-U."""
    return f"{number}\t{form}\t_\t{upos}\t_\t_\t{head}\tdep\t_\t_\n"


Made = Callable[..., Source[Any]]


def lines(folder: Path, **options: Any) -> Source[Any]:
    """Lines, of which one is no UTF-8 and one holds a NUL."""
    return TextLines(written(folder / "a.txt", b"one\n\xff\xfe\n\ntwo\xc2\x85\x0c\rtwo\r\nth\0ree\nfour"), **options)


def table(folder: Path, **options: Any) -> Source[Any]:
    """Two columns, records over two lines, and one of each mistake."""
    content = b'text,label\n"a\nb",x\nc\n\n"d"e,y\n"\xe9",z\n"f ""g""",z\n"h\r\n'
    return Csv(written(folder / "a.csv", content), target="label", **options)


def objects(folder: Path, **options: Any) -> Source[Any]:
    """Objects, and one of each mistake."""
    content = (
        b'{"text": "a", "label": 1}\n{"text": "b"\n[]\n{"label": 1}\n{"text": 3, "label": 1}\n'
        b'\n{"text": "c", "label": 1.5}\n{"text": "\\ud800", "label": 1}\n{"text": "d\xe2\x80\xa8", "label": null}'
    )
    return JsonLines(written(folder / "a.jsonl", content), target="label", **options)


def sentences(folder: Path, **options: Any) -> Source[Any]:
    """Sentences, and one of each mistake."""
    content = (
        "# sent_id = s1\n" + word("1-2", "im") + word(1, "in", "ADP") + word(2, "dem", "_") + word("2.1") + "\n"
        "1\ttoo few\n\n" + "# sent_id = s3\n" + word(1) + word(3) + "\n# alone\n\n\n" + word(1, "b", "VERB")
    )
    return Conllu(written(folder / "a.conllu", content.encode()), **options)


def files(folder: Path, **options: Any) -> Source[Any]:
    """Files in folders, one of them no UTF-8."""
    for name, content in (
        ("b/1.txt", b"\xef\xbb\xbfone\n"),
        ("B/2.txt", b"two"),
        ("b/x.txt", b"\xff"),
        ("b/x.md", b""),
    ):
        written(folder / "texts" / name, content)
    return TextFolder(folder / "texts", target="folder", **options)


def written(file: Path, content: bytes) -> Path:
    """A file of that content; left alone if it is that already."""
    file.parent.mkdir(exist_ok=True, parents=True)
    if not file.exists() or file.read_bytes() != content:
        file.write_bytes(content)
    return file


GOOD: dict[Made, list[tuple[object, object]]] = {
    lines: [("one", None), ("", None), ("two\x85\x0c\rtwo", None), ("four", None)],
    table: [("a\nb", "x"), ('f "g"', "z")],
    objects: [("a", 1), ("d\u2028", None)],
    sentences: [(["in", "dem"], ["ADP", None]), (["b"], ["VERB"])],
    files: [("two", "B"), ("one\n", "b")],
}
KINDS = {
    lines: {"encoding": 1, "nul": 1},
    table: {"fields": 1, "quote": 2, "encoding": 1},
    objects: {"json": 2, "missing": 1, "type": 2, "surrogate": 1},
    sentences: {"columns": 1, "ids": 1, "words": 1},
    files: {"encoding": 1},
}
PLACES = {lines: [2, 5], table: [4, 6, 7, 9], objects: [2, 3, 4, 5, 7, 8], sentences: [7, 9, 13], files: [3]}
every = pytest.mark.parametrize("made", GOOD, ids=lambda made: made.__name__)


@every
@pytest.mark.parametrize("kept", [False, True])
def test_malformed_records_are_skipped_and_counted(tmp_path: Path, made: Made, kept: bool) -> None:
    """By number and in order alike, before and after the index is there, and from what was kept."""
    cache = tmp_path / "kept" if kept else None
    for _ in range(2):
        source = made(tmp_path, on_bad_record="skip", cache=cache)
        assert pairs(source) == GOOD[made]
        assert len(source) == len(GOOD[made])
        assert pairs(source[number] for number in range(len(source))) == GOOD[made]
        assert pairs(source) == GOOD[made]
        assert [source.target(number) for number in range(len(source))] == [target for _, target in GOOD[made]]
        assert source.skipped.kinds == KINDS[made]
        assert [problem.number for problem in source.skipped.first] == PLACES[made]
        assert str(source.skipped).startswith(f"{sum(KINDS[made].values())} records left out: ")
        with pytest.raises(IndexError, match="but number 99 was asked for"):
            source[99]
        assert pairs([source[-1]]) == GOOD[made][-1:]


@every
def test_the_first_malformed_record_stops(tmp_path: Path, made: Made) -> None:
    """In order, and by its number; the error names its file and line."""
    source = made(tmp_path)
    with pytest.raises(RecordError, match='; mend it, or read with on_bad_record="skip"') as raised:
        list(source)
    assert raised.value.details["line"] == PLACES[made][0]
    first = raised.value.details["kind"]
    assert first == next(iter(KINDS[made]))
    bad: list[tuple[object, bool]] = []
    for number in range(len(source)):
        try:
            source[number]
        except RecordError as error:
            bad.append((error.details["line"], source.where(number) in str(error)))
    assert bad == [(place, True) for place in PLACES[made]]
    assert source.skipped.total == 0


@every
def test_a_function_decides(tmp_path: Path, made: Made) -> None:
    """It is given each problem, and what it gives is taken; None is left out."""
    seen: list[Problem] = []

    def decide(problem: Problem) -> Example[Any] | None:
        seen.append(problem)
        return Example("mended") if problem.number == PLACES[made][0] else None

    source = made(tmp_path, on_bad_record=decide)
    given = pairs(source)
    assert [problem.number for problem in seen] == PLACES[made]
    assert len(given) == len(GOOD[made]) + 1 == len(source)
    assert given.count(("mended", None)) == 1
    assert [pair for pair in given if pair[0] != "mended"] == GOOD[made]
    assert pairs(source[number] for number in range(len(source))) == given
    assert source.skipped.total == len(PLACES[made]) - 1
    assert source.fingerprint is None


@every
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_what_the_process_reads(tmp_path: Path, made: Made, context: str) -> None:
    """Sent to workers, with the index kept or not."""
    if made not in {table, files} and context == "spawn":
        pytest.skip("a process that is spawned takes seconds: two formats stand for all")
    source = made(tmp_path, on_bad_record="skip", cache=tmp_path / "kept" if made is table else None)
    assert pairs([source[0]]) == GOOD[made][:1]
    loader = DataLoader(
        source, batch_size=2, num_workers=2, collate_fn=pairs, multiprocessing_context=context, shuffle=False
    )
    assert [pair for batch in loader for pair in batch] == GOOD[made]
    assert pairs(pickle.loads(pickle.dumps(source))) == GOOD[made]


@every
def test_a_changed_file_is_refused_and_known(tmp_path: Path, made: Made) -> None:
    """Nothing is read at places that were looked up in another file; and the fingerprint is another."""
    source = made(tmp_path, on_bad_record="skip")
    before = source.fingerprint
    assert made(tmp_path, on_bad_record="skip").fingerprint != made(tmp_path).fingerprint
    if isinstance(source, TextFolder):
        os.utime(source.files[0], ns=(1, 1))
    else:
        len(source)
        name = next(file for file in tmp_path.glob("a.*"))
        name.write_bytes(name.read_bytes() + b"\n")
        with pytest.raises(SourceError, match="has changed since its records were first looked up"):
            source[0]
        with pytest.raises(SourceError, match="has changed"):
            pickle.loads(pickle.dumps(source))[0]
    assert made(tmp_path, on_bad_record="skip").fingerprint != before


EMPTY: list[Callable[[Path], Source[Any]]] = [
    TextLines,
    JsonLines,
    Conllu,
    lambda file: Csv(file, text=0, header=False),
    lambda file: Tsv(file, text=0, header=False),
]


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("made", EMPTY)
def test_an_empty_file_has_no_records(tmp_path: Path, made: Callable[[Path], Source[Any]], content: bytes) -> None:
    """With or without a byte-order mark."""
    source = made(written(tmp_path / "empty", content))
    assert len(source) == 0
    assert list(source) == []
    with pytest.raises(IndexError):
        source[0]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    """At the beginning of a file; elsewhere it is."""
    assert TextLines(written(tmp_path / "a", b"\xef\xbb\xbfa\n\xef\xbb\xbfb"))[0].input == "a"
    assert TextLines(tmp_path / "a")[1].input == "\ufeffb"
    assert Csv(written(tmp_path / "b", b"\xef\xbb\xbftext\na\n"))[0].input == "a"
    assert JsonLines(written(tmp_path / "c", b'\xef\xbb\xbf{"text": "a"}'))[0].input == "a"


def test_blank_lines_are_kept_or_dropped(tmp_path: Path) -> None:
    """As is said; a line of spaces is not blank."""
    file = written(tmp_path / "a", b"\na\n\r\n \nb\n\n")
    assert [one.input for one in TextLines(file, target=3)] == ["", "a", "", " ", "b", ""]
    dropped = TextLines(file, blank="drop", target=3)
    assert pairs(dropped) == pairs(dropped[i] for i in range(3)) == [("a", 3), (" ", 3), ("b", 3)]
    assert dropped.where(2) == f"{file}, line 5"


def test_columns_of_a_table(tmp_path: Path) -> None:
    """By name, by number, and what is refused."""
    file = written(tmp_path / "a.csv", b"id,text,text\n1,a,b\n")
    assert Csv(file, text=2)[0].input == "b"
    assert Csv(file, text="id")[0].input == "1"
    semicolon = Delimited(
        written(tmp_path / "b", b"'a;b';c\n"), text=1, target=0, header=False, delimiter=";", quote="'"
    )
    assert pairs(semicolon) == [("c", "a;b")]
    long = "x" * 200_000
    assert Csv(written(tmp_path / "c", f'text\n"{long}"\n'.encode()))[0].input == long
    assert Csv(written(tmp_path / "d", b"text\na\rb\n"))[0].input == "a\rb"


WRONG: Any = "wrong"
WRONG_FIELDS: Any = {"text": "a", "words": "b"}
REFUSED: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (Csv, RecordError, r"more than one column 'text'; its header is 'id', 'text', 'text'\. Say"),
    (lambda f: Csv(f, text="no"), RecordError, "has no column 'no'; its header is"),
    (lambda f: Csv(f, text=3), RecordError, "has 3 columns, from 0, but column 3 was asked for"),
    (lambda f: Csv(f, header=False), OptionError, "'text' is asked for by name, but header=False; say its number"),
    (lambda f: Delimited(f, text=0, delimiter=",,"), OptionError, "delimiter must be one ASCII character"),
    (
        lambda f: Delimited(f, text=0, quote="\n"),
        OptionError,
        "quote must be one ASCII character that ends no line",
    ),
    (lambda f: Delimited(f, text=0, quote=","), OptionError, "delimiter and quote must differ"),
    (lambda f: TextLines(f, on_bad_record=WRONG), OptionError, '"raise", "skip" or a function of a Problem'),
    (lambda f: TextLines(f, blank=WRONG), OptionError, "blank must be one of 'keep', 'drop', but 'wrong' arrived"),
    (lambda f: TextLines(f.parent), SourceError, "is a folder, but a file is wanted"),
    (lambda f: TextLines(f.parent / "no"), SourceError, "cannot be read: .*; name a file that is there"),
    (lambda f: TextLines(f.parent / "a.txt.gz"), OptionError, "is compressed, and no record of such a file"),
    (lambda f: TextFolder(f.parent / "no"), SourceError, "is no folder"),
    (lambda f: TextFolder(f.parent), SourceError, r"has no file '\*\*/\*\.txt'; say which with pattern="),
    (lambda f: TextFolder(f.parent, pattern="*", target="folder"), RecordError, "lies in no folder below"),
    (lambda f: JsonLines(f, **WRONG_FIELDS), OptionError, "text='a' and words='b' arrived, but one of them"),
    (lambda f: Conllu(f, target=WRONG), OptionError, "target must be one of 'form', 'lemma'"),
    (lambda f: Conllu(f, words=WRONG), OptionError, "words must be one of"),
    (lambda _: Together[str](), OptionError, "needs one source or more"),
]


@pytest.mark.parametrize(("make", "kind", "message"), REFUSED)
def test_bad_options_are_refused(
    tmp_path: Path, make: Callable[[Path], object], kind: type[Exception], message: str
) -> None:
    """With what may stand there."""
    with pytest.raises(kind, match=message):
        make(written(tmp_path / "a.csv", b"id,text,text\n1,a,b\n"))


def test_a_table_without_its_header_is_refused(tmp_path: Path) -> None:
    """An empty file has none, and a malformed one says nothing."""
    with pytest.raises(RecordError, match="is empty, but a header is wanted"):
        Csv(written(tmp_path / "a", b""))
    with pytest.raises(
        RecordError, match="first record: a quote must be closed, but the one that opens field 2 is not"
    ):
        Csv(written(tmp_path / "b", b'text,"open\n'))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "must be JSON"),
        ('"text"', "must be a JSON object"),
        ('{"text": null}', "field 'text' must be text, but None arrived"),
        ('{"txt": "a"}', "must have a field 'text', but it has 'txt'"),
        ("{}", "must have a field 'text', but it has none"),
    ],
)
def test_what_is_wrong_with_a_line_of_json(tmp_path: Path, line: str, reason: str) -> None:
    """The reason says the rule and what arrived."""
    file = written(tmp_path / "a", line.encode())
    with pytest.raises(RecordError) as raised:
        JsonLines(file)[0]
    assert str(raised.value).startswith(f"{file}, line 1: ")
    assert reason in str(raised.value)


def test_words_and_their_targets_in_json(tmp_path: Path) -> None:
    """Lists of words with a class each, true and false as 1 and 0."""
    rows = [
        {"w": ["a", "b"], "t": ["X", None]},
        {"w": [], "t": [True, 3]},
        {"w": "ab", "t": 1},
        {"w": ["a", 1], "t": 1},
    ]
    file = written(tmp_path / "a", "\n".join(map(json.dumps, rows)).encode())
    source = JsonLines(file, words="w", target="t", on_bad_record="skip")
    assert pairs(source) == [(["a", "b"], ["X", None]), ([], [1, 3])]
    assert source.skipped.kinds == {"type": 2}
    rows_of = list(TokenizeWords.train([["a", "b"]]).map([source[0]]))
    assert rows_of[0].target == ["X", None]


def test_annotations_of_sentences(tmp_path: Path) -> None:
    """Any column may be the target; heads are numbers."""
    file = written(
        tmp_path / "a", ("# text = x\r\n" + word(1, "_", head="2").replace("\n", "\r\n") + word(2, "b")).encode()
    )
    heads = Conllu(file, target="head")
    assert pairs(heads) == [(["_", "b"], [2, 0])]
    assert pairs(Conllu(file, target=None)) == [(["_", "b"], None)]
    assert pairs(Conllu(file, target="form")) == [(["_", "b"], ["_", "b"])]
    assert pairs(Conllu(file, words="lemma", target="deprel")) == [(["_", "_"], ["dep", "dep"])]
    with pytest.raises(RecordError, match=r"a head must be the number of a word, 1 to 1, or 0, but '7' arrived"):
        Conllu(written(tmp_path / "b", word(1, head="7").encode()), target="head")[0]


def test_errors_name_the_sentence(tmp_path: Path) -> None:
    """By the name that its comment gives it."""
    with pytest.raises(
        RecordError,
        match=r"a\.conllu, line 9 \(sent_id = s3\): words must be numbered from 1, but line 3 of the sentence",
    ):
        sentences(tmp_path)[2]


def test_lines_of_a_folder(tmp_path: Path) -> None:
    """Files in the order of their paths, each line with its file's name, and named by its file."""
    for name, content in (("b.txt", b"1\n2\n"), ("a/c.txt", b"3"), ("B.txt", b"\xff\n4\n")):
        written(tmp_path / name, content)
    source = lines_of(tmp_path, target="file", on_bad_record="skip")
    assert pairs(source) == [("4", "B"), ("3", "c"), ("1", "b"), ("2", "b")]
    assert pairs(source[i] for i in range(4)) == pairs(source)
    assert [source.target(i) for i in range(4)] == ["B", "c", "b", "b"]
    assert source.where(3) == f"{tmp_path / 'b.txt'}, line 2"
    assert source.skipped.kinds == {"encoding": 1}
    assert len(source.skipped.first) == 1
    assert source.fingerprint == lines_of(tmp_path, target="file", on_bad_record="skip").fingerprint
    assert source.fingerprint != lines_of(tmp_path, target=None, on_bad_record="skip").fingerprint


def test_sources_go_into_doors(tmp_path: Path) -> None:
    """A door takes them as they are, and `predict` too."""
    source = table(tmp_path, on_bad_record="skip")
    rows = list(Tokenize.train(one.input for one in source).map(source))
    assert [(len(row), row.target, row.row_id) for row in rows] == [(2, "x", 0), (4, "z", 1)]


def test_an_index_that_is_kept_is_used_and_a_broken_one_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is looked up in the file again, until what was kept is not whole."""
    cache = tmp_path / "kept"
    lines(tmp_path, cache=cache)[0]
    kept = [path for path in cache.iterdir() if path.name.startswith("index-")]
    assert len(kept) == len(list(cache.iterdir())) == 1

    def refuse(*_: object) -> None:
        pytest.fail("the index was made again")

    with monkeypatch.context() as patch:
        patch.setattr(TextLines, "_made_index", refuse)
        assert lines(tmp_path, cache=cache)[0].input == "one"
    bounds = kept[0] / "bounds.npy"
    bounds.write_bytes(bounds.read_bytes()[:-8])
    assert len(lines(tmp_path, cache=cache)) == 6
    assert bounds.stat().st_size == 128 + 8 * 7


def test_more_files_than_a_process_may_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those read long ago are let go, and mapped again when they are read."""
    monkeypatch.setattr("pipeline.sources.opened._AT_ONCE", 3)
    for number in range(9):
        written(tmp_path / f"{number}.txt", f"a{number}\nb{number}\n".encode())
    source = lines_of(tmp_path)
    wanted = [f"{letter}{number}" for number in range(9) for letter in "ab"]
    for _ in range(2):
        assert [source[i].input for i in range(18)] == [one.input for one in source] == wanted
    assert isinstance(source, Together)
    assert sum(vars(vars(one)["_opened"])["_map"] is not None for one in source.sources) <= 3


def test_a_source_is_typed_by_its_input(tmp_path: Path) -> None:
    """Texts go to one door, and words to the other."""
    file = written(tmp_path / "a.jsonl", b'{"text": "a b", "words": ["a", "b"]}\n')
    texts, words = JsonLines(file), JsonLines(file, words="words")
    assert_type(texts, JsonLines[str])
    assert_type(words, JsonLines[Sequence[str]])
    assert_type(Together(texts, TextLines(file)), Together[str])
    assert_type(Records([Example("a", 1)]), Records[str])
    assert_type(Records([{"text": "a"}], text="text"), Records[str])
    assert_type(Records([("a", "b")], words=0), Records[Sequence[str]])
    assert [len(row) for row in Tokenize.train(["a b"]).map(texts)] == [2]
    assert [len(row) for row in TokenizeWords.train([["a", "b"]]).map(words)] == [2]
