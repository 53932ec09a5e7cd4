"""Sources whose inputs or targets are several columns."""

import json
import pickle
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import FromColumns, FromFeatures, FromNested, Labels, Numbers, Pad, Tokenize, TokenizeWords, read
from pipeline.errors import OptionError, RecordError
from pipeline.sources import Arrow, Conllu, Csv, JsonLines, Parquet, Records, Tsv
from support.needs import needs
from support.records import Event, Pair, Word
from support.source_files import write, write_word
from support.untyped import to_list, untyped

SALES = "user,code,price,time,label\nann,buy,2.5,3,x\nbob,buy,1,1,y\nann,sell,-3e1,2,x\n"


def read_sales(file: Path, content: str = SALES, **options: Any) -> Csv[Mapping[str, object]]:
    """Return the sales, grouped by user."""
    inputs: dict[str, type[str | int | float]] = {"code": str, "price": float, "time": int}
    return Csv(write(file, content.encode()), inputs=inputs, group="user", **options)


def test_lines_of_a_group_are_one_record(tmp_path: Path) -> None:
    """Wherever they are in the file; the record is located at its first line."""
    source = read_sales(tmp_path / "a.csv", target="label")
    ann = {"code": ["buy", "sell"], "price": [2.5, -30.0], "time": [3, 2]}
    bob = {"code": ["buy"], "price": [1.0], "time": [1]}
    assert [(one.input, one.target) for one in source] == [(ann, "x"), (bob, "y")]
    assert [source[0].input, source[-1].input, len(source)] == [ann, bob, 2]
    assert source.where(1) == f"{tmp_path / 'a.csv'}, line 3 (user = bob)"
    assert [one.input for one in pickle.loads(pickle.dumps(source))] == [ann, bob]


def test_lines_of_a_group_are_sorted(tmp_path: Path) -> None:
    """By a column of numbers, and each line keeps its target."""
    source = read_sales(tmp_path / "a.csv", sort="time", target="code", step_targets=True)
    assert source[0].input == {"code": ["sell", "buy"], "price": [-30.0, 2.5], "time": [2, 3]}
    assert source[0].target == ["sell", "buy"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=12))
def test_groups_hold_all_lines_in_order(tmp_path_factory: pytest.TempPathFactory, lines: list[tuple[int, int]]) -> None:
    """As a loop over the lines collects them; equal values keep the order of the file."""
    content = "g,at,n\n" + "".join(f"{group},{at},{number}\n" for number, (group, at) in enumerate(lines))
    file = write(tmp_path_factory.getbasetemp() / "groups.csv", content.encode())
    wanted: dict[int, list[tuple[int, int]]] = {}
    for number, (group, at) in enumerate(lines):
        wanted.setdefault(group, []).append((at, number))
    found = list(Csv(file, inputs={"at": int, "n": int}, group="g", sort="at"))
    assert [one.input for one in found] == [
        {"at": [at for at, _ in sorted(group)], "n": [number for _, number in sorted(group)]}
        for group in wanted.values()
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            SALES.replace("-3e1", "three"),
            r"a.csv, line 4 \(user = ann\): column 'price' must have a finite number, got 't",
        ),
        (SALES.replace("-3e1", "nan"), r"line 4 \(user = ann\): column 'price' must have a finite number, got 'nan'"),
        (SALES.replace("-3e1", ""), r"line 4 \(user = ann\): column 'price' must have a finite number, got ''"),
        (SALES.replace("2,x", "2.5,x"), r"line 4 \(user = ann\): column 'time' must have an integer, got '2.5'"),
        (SALES.replace("2,x", "2,y"), r"line 4 \(user = ann\): column 'label' must have one class.*and 'x' in line 2"),
        (SALES + "bob,buy\n", "line 5: a record must have 5 fields, as the first has, got 2"),
    ],
)
def test_the_line_at_fault_is_reported(tmp_path: Path, content: str, message: str) -> None:
    """Not the first line of the record."""
    source = read_sales(tmp_path / "a.csv", content, target="label")
    with pytest.raises(RecordError, match=message):
        list(source)
    with pytest.raises(RecordError, match=message):
        [source[number] for number in range(len(source))]


def test_a_record_with_a_wrong_line_is_skipped_as_a_whole(tmp_path: Path) -> None:
    """But a line whose group is not known is skipped alone."""
    content = SALES.replace("-3e1", "three") + "bob,buy\nbob,sell,7,7,y\n"
    source = read_sales(tmp_path / "a.csv", content, on_bad_record="skip")
    assert [one.input for one in source] == [{"code": ["buy", "sell"], "price": [1.0, 7.0], "time": [1, 7]}]
    assert source.skipped.kinds == {"number": 1, "fields": 1}


def test_without_groups_each_line_is_a_record(tmp_path: Path) -> None:
    """A pair of texts with a class, for example."""
    file = write(tmp_path / "a.tsv", b'premise\thypothesis\tgold\na\tb\tx\nc "d\te\t\n')
    source = Tsv(file, inputs=["premise", "hypothesis"], target="gold")
    assert [one.input for one in source] == [
        {"premise": "a", "hypothesis": "b"},
        {"premise": 'c "d', "hypothesis": "e"},
    ]
    letters = Tokenize.train(["abcde"], "characters")
    rows = list(FromColumns(Pair, read(letters), read(letters)).map(source))
    assert [(len(row.sequence.premise), row.target) for row in rows] == [(1, "x"), (4, None)]


def test_wrong_options_are_rejected(tmp_path: Path) -> None:
    """Before a line is read."""
    file = write(tmp_path / "a.csv", SALES.encode())
    make = untyped(Csv)
    for options, message in (
        ({"inputs": ["code"], "sort": "code"}, "sort and step_targets are for records of several lines"),
        ({"inputs": ["code"], "group": "user", "sort": "time"}, "sort must be one of the inputs, 'code', got 'time'"),
        ({"inputs": ["code"], "text": "code"}, "exactly one of text= and inputs="),
        ({"inputs": "code"}, "inputs must be a list of different columns.*got 'code'"),
        ({"inputs": ["code", "code"]}, "inputs must be a list of different columns"),
        ({"inputs": {"code": bool}}, "inputs must map columns to str, int or float, got <class 'bool'> for 'code'"),
    ):
        with pytest.raises(OptionError, match=message):
            make(file, **options)
    for options, column in (({"inputs": ["cod"]}, "cod"), ({"inputs": ["code"], "group": "users"}, "users")):
        with pytest.raises(RecordError, match=f"a.csv has no column '{column}'.*Did you mean"):
            make(file, **options)


def test_columns_of_sentences_are_inputs(tmp_path: Path) -> None:
    """Words and their tags together; the columns of CoNLL-U may be written in capitals."""
    file = write(tmp_path / "a.conllu", (write_word(1, "in", "ADP") + write_word(2, "dem", "DET")).encode())
    source = Conllu(file, inputs=("form", "UPOS"), target="head")
    assert_type(source, Conllu[Mapping[str, Sequence[str]]])
    assert source[0].input == {"form": ["in", "dem"], "UPOS": ["ADP", "DET"]}
    assert source[0].target == [0, 0]
    with pytest.raises(OptionError, match="inputs must be a column of .*a.conllu.*got 'tag'"):
        Conllu(file, inputs=("form", "tag"))


def test_words_and_characters_are_read_from_sentences(tmp_path: Path) -> None:
    """Both are fields of a row; the target is one tag per word."""
    file = write(tmp_path / "a.conllu", (write_word(1, "in", "ADP") + write_word(2, "dem", "DET")).encode())
    source = Conllu(file, inputs=["form"])
    words = TokenizeWords.train(one.input["form"] for one in source)
    letters = Tokenize.train((word for one in source for word in one.input["form"]), "characters")
    stage = FromColumns(Word, word=read(words, "form"), characters=read(FromNested(letters), "form"))
    (row,) = stage.map(source)
    assert to_list(row.sequence.characters.counts) == [2, 3]
    assert row.target == ["ADP", "DET"]


def make_events() -> FromColumns[Event]:
    """Return the stage that reads codes and amounts."""
    return FromColumns(Event, code=read(TokenizeWords.train([["a", "b"]])), amount=read(FromFeatures()))


def test_fields_of_json_objects_are_inputs(tmp_path: Path) -> None:
    """Lists in them are the steps; a missing one is malformed."""
    file = write(tmp_path / "a.jsonl", b'{"code": ["a"], "amount": [1.5], "y": 1, "z": 0}\n{"code": ["a"], "y": 1}\n')
    source = JsonLines(file, inputs=["code", "amount"], target="y")
    assert source[0].input == {"code": ["a"], "amount": [1.5]}
    assert to_list(make_events()(source[0]).sequence.amount.values) == [[1.5]]
    with pytest.raises(RecordError, match=r"a.jsonl, line 2: a record must have a field 'amount'"):
        _ = source[1]
    with pytest.raises(OptionError, match="exactly one of text="):
        untyped(JsonLines)(file, inputs=["code"], words="code")


def test_fields_of_records_are_inputs() -> None:
    """They may hold anything, such as arrays."""
    records = [{"code": ["a", "b"], "amount": np.ones((2, 3)), "y": 1}, {"amount": [1.0], "y": 0}]
    source = Records(records, inputs=["code", "amount"], target="y")
    assert (sorted(source[0].input), source[0].target) == (["amount", "code"], 1)
    with pytest.raises(RecordError, match="list, record 2: a record must have a field 'code'"):
        _ = source[1]


def write_table(file: Path, make: object, columns: Mapping[str, Sequence[object]]) -> Path:
    """Write a table in the format that a source reads."""
    table = import_module("pyarrow").table(dict(columns))
    if make is Parquet:
        import_module("pyarrow.parquet").write_table(table, file)
    else:
        with import_module("pyarrow.ipc").new_file(file, table.schema) as writer:
            writer.write_table(table)
    return file


@needs("pyarrow")
@pytest.mark.parametrize("make", [Arrow, Parquet])
def test_columns_of_tables_are_inputs(tmp_path: Path, make: Any) -> None:
    """Lists of text and of numbers, with the location of what is null or of another type."""
    columns: dict[str, Sequence[object]] = {
        "code": [["a", "b"], [], None],
        "amount": [[[1.0, 2.0], [3.0, 4.0]], [], []],
        "y": [1, None, 0],
    }
    file = write_table(tmp_path / "a.table", make, {**columns, "bytes": [b"", b"", b""]})
    source = make(file, inputs=["code", "amount"], target="y")
    assert [one.target for one in source[:2]] == [1, None]
    assert [one.input["code"] for one in source[:2]] == [["a", "b"], []]
    row = make_events()(source[0])
    assert to_list(row.sequence.amount.values) == [[1, 2], [3, 4]]
    with pytest.raises(RecordError, match="a.table, row 3: field 'code' must not be null"):
        _ = source[2]
    with pytest.raises(RecordError, match="row 1: field 'bytes' must hold text, numbers, or lists of these, got"):
        list(make(file, inputs=["bytes"]))


REVIEWS: list[dict[str, object]] = [
    {"text": "fine", "label": "good", "stars": 5},
    {"text": "so so", "label": None, "stars": 2.5},
    {"text": "dull", "label": "bad", "stars": None},
]
NAMED = [{name: review[name] for name in ("label", "stars")} for review in REVIEWS]


def test_several_columns_of_a_table_are_targets_by_name(tmp_path: Path) -> None:
    """A missing field is None, and the order of the names is that of the option."""
    file = write(tmp_path / "a.csv", b"stars,text,label\n5,fine,good\n2.5,so so,\n,dull,bad\n")
    source = Csv(file, target=["label", "stars"], cache=tmp_path / "cache")
    wanted = [{"label": "good", "stars": "5"}, {"label": None, "stars": "2.5"}, {"label": "bad", "stars": None}]
    assert list(source.targets()) == [source[number].target for number in range(3)] == wanted
    assert Csv(file, target=["stars"], cache=tmp_path / "cache")[0].target == {"stars": "5"}
    pad = Pad(targets={"label": Labels(["bad", "good"]), "stars": Numbers()})
    batch = pad(list(Tokenize.train(source.inputs()).map(source)))
    assert batch.metadata.weights == {"label": 2, "stars": 2}
    with pytest.raises(RecordError, match="line 3: column 'label' must have a class, got an empty field"):
        list(Csv(file, target=["label", "stars"], empty_target="raise"))


def test_groups_have_several_targets(tmp_path: Path) -> None:
    """One mapping for all lines of a record, or a mapping of lists with one entry per line."""
    source = read_sales(tmp_path / "a.csv", target=["label", "user"])
    assert list(source.targets()) == [{"label": "x", "user": "ann"}, {"label": "y", "user": "bob"}]
    steps = read_sales(tmp_path / "a.csv", sort="time", target=["label", "code"], step_targets=True)
    assert steps[0].target == {"label": ["x", "x"], "code": ["sell", "buy"]}


def test_several_fields_of_records_are_targets_by_name(tmp_path: Path) -> None:
    """Null is None; a record without one of the fields is malformed."""
    file = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, REVIEWS)).encode())
    for source in (
        JsonLines(file, target=["label", "stars"]),
        Records(REVIEWS, text="text", target=["label", "stars"]),
    ):
        assert list(source.targets()) == [source[number].target for number in range(3)] == NAMED
        with pytest.raises(OptionError, match=r"stratify=True needs one class .* has several targets"):
            source.split(0.5, stratify=True)
    with pytest.raises(RecordError, match="record 1: a record must have a field 'star', got fields 'text', 'label'"):
        list(Records(REVIEWS, text="text", target=["label", "star"]))


@needs("pyarrow")
@pytest.mark.parametrize("make", [Arrow, Parquet])
def test_several_columns_of_arrow_tables_are_targets_by_name(tmp_path: Path, make: Any) -> None:
    """Null is None, but not in the input."""
    file = write_table(tmp_path / "a.table", make, {name: [row[name] for row in REVIEWS] for name in REVIEWS[0]})
    assert list(make(file, target=["label", "stars"]).targets()) == NAMED


@pytest.mark.parametrize("target", [[], ["label", "label"], ["label", 2], {"label": "text"}])
def test_targets_that_are_not_columns_are_rejected(tmp_path: Path, target: Any) -> None:
    """By every source that takes several."""
    file = write(tmp_path / "a.csv", b"text,label\n")
    for make in (Csv, JsonLines):
        with pytest.raises(OptionError, match="target must be a column, or a list of names of different columns"):
            untyped(make)(file, target=target)
    with pytest.raises(OptionError, match="target must be a column, or a list of names of different columns"):
        untyped(Records)(REVIEWS, text="text", target=target)
