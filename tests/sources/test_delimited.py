"""Comma-separated and tab-separated values: the same records as those of the `csv` module, and malformed ones."""

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Labels
from pipeline.errors import OptionError, RecordError
from pipeline.sources import Csv, Delimited, Tsv
from support.pairs import to_pairs
from support.source_files import write

pytestmark = pytest.mark.usefixtures("storage")

FIELDS = st.text(alphabet='ab,"\n\r\u2028\x85\t', max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all examples."""
    return tmp_path_factory.mktemp("delimited")


@given(
    rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=6),
    # With another line end, the minimal quotes of the writer leave out fields that only the reader splits.
    form=st.sampled_from(
        [("\n", csv.QUOTE_ALL), ("\r", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL)]
    ),
)
def test_tables_that_the_csv_module_writes_are_read(
    folder: Path, rows: list[tuple[str, str]], form: tuple[str, Any]
) -> None:
    """With any line end, and with line ends in fields."""
    text = io.StringIO()
    csv.writer(text, lineterminator=form[0], quoting=form[1]).writerows(rows)
    source = Csv(write(folder / "a", text.getvalue().encode()), text=0, target=1, header=False, empty_target="keep")
    assert to_pairs(source) == to_pairs(source[number] for number in range(len(rows))) == rows


@given(text=st.text(alphabet='ab,"\n\r\u2028\x85', max_size=40), width=st.integers(1, 3))
def test_any_text_is_read_as_by_the_csv_module(folder: Path, text: str, width: int) -> None:
    """All records of the csv module are read; one that it rejects is malformed, and the next line is read."""
    first = ",".join("a" * width)
    file = write(folder / "b", f"{first}\n{text}".encode())
    source = Csv(file, text=0, target=width - 1, header=False, on_bad_record="skip", empty_target="keep")
    try:
        wanted = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error:
        assert source.skipped.kinds["quote"] > 0
    else:
        good = [(row[0], row[width - 1]) for row in wanted if len(row) == width]
        assert to_pairs(source)[1:] == good
        assert source.skipped.total == len(wanted) - len(good)
    assert to_pairs(source) == to_pairs(source[number] for number in range(len(source)))


@given(text=st.text(alphabet='ab\t"\n\r\u2028', max_size=40))
def test_quotes_are_text_in_tab_separated_values(folder: Path, text: str) -> None:
    """Every line that is not blank is a record."""
    source = Tsv(write(folder / "c", b"a\n" + text.encode()), text=0, header=False, on_bad_record="skip")
    records = [line.removesuffix("\n") for line in io.TextIOWrapper(io.BytesIO(text.encode())) if line != "\n"]
    assert [one.input for one in source][1:] == [record for record in records if "\t" not in record]
    assert source.skipped.total == sum("\t" in record for record in records)


def test_a_carriage_return_ends_a_record(tmp_path: Path) -> None:
    """Files of old Macs have no other line end. A quoted one is text."""
    mac = Csv(write(tmp_path / "a", b'text,label\rgood,1\r"b\rad",0\r'), target="label")
    assert to_pairs(mac) == [("good", "1"), ("b\rad", "0")]
    assert mac.where(1) == f"{tmp_path / 'a'}, line 3"


def test_an_open_quote_loses_one_record(tmp_path: Path) -> None:
    """The lines after it are read again, however many the quote took with it."""
    rows = "".join(f"w{number},3\n" for number in range(1_000))
    file = write(tmp_path / "a", f'text,y\na,1\n"b,2\n{rows}'.encode())
    source = Csv(file, on_bad_record="skip")
    assert len(source) == 1_001
    assert source.skipped.kinds == {"quote": 1}
    assert source[1].input == "w0"
    assert source.where(1) == f"{file}, line 4"
    with pytest.raises(
        RecordError, match=r"a, line 3: the quote that opens in this line is not closed correctly in 1001 lines"
    ):
        list(Csv(file))
    closed = write(tmp_path / "b", f'text,y\n"b,2\n{rows}c,"4"\nd,5\n'.encode())
    source = Csv(closed, target="y", on_bad_record="skip")
    assert source.skipped.kinds == {"quote": 1}
    assert to_pairs(source[-2:]) == [("c", "4"), ("d", "5")]


def test_many_open_quotes_take_linear_time(tmp_path: Path) -> None:
    """Each line is parsed a few times at most."""
    times: list[float] = []
    for count in (2_000, 16_000):
        file = write(tmp_path / f"{count}", b"text,y\n" + b'"b,2\nc,3\n' * count)
        begin = time.process_time()
        source = Csv(file, on_bad_record="skip")
        assert (len(source), source.skipped.total) == (count, count)
        times.append(time.process_time() - begin)
    assert times[1] < 30 * times[0]


def test_a_field_of_any_length_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 16 Mi characters; then an open quote is assumed, so that memory stays small."""
    long = "x" * 200_000
    assert Csv(write(tmp_path / "a", f'text\n"{long}"\n'.encode()))[0].input == long
    monkeypatch.setattr("pipeline.sources.delimited_source._MAX_FIELD", 1)
    before = csv.field_size_limit(1_000)
    try:
        source = Csv(write(tmp_path / "b", b'text\n"open\n' + b"good\n" * 1_000), on_bad_record="skip")
        assert (len(source), source.skipped.kinds) == (1_000, {"quote": 1})
        with pytest.raises(RecordError, match=r"in \d+ lines: field larger than field limit \(1000\)"):
            Csv(tmp_path / "b")[0]
    finally:
        csv.field_size_limit(before)


@pytest.mark.parametrize(
    ("option", "targets"), [("none", ["pos", None, "neg", " pos"]), ("keep", ["pos", "", "neg", " pos"])]
)
def test_an_empty_target_is_not_a_class(tmp_path: Path, option: Any, targets: list[str | None]) -> None:
    """It is no target, an empty text or malformed, as chosen. White space is kept."""
    file = write(tmp_path / "a", b"text,y\na,pos\nb,\nc,neg\n d , pos\n")
    source = Csv(file, target="y", empty_target=option)
    assert list(source.targets()) == [source[number].target for number in range(4)] == targets
    assert list(Labels.from_targets(source.targets())) == [" pos", "neg", "pos"]
    assert source[3].input == " d "
    strict = Csv(file, target="y", empty_target="raise", on_bad_record="skip")
    assert strict.skipped.kinds == {"target": 1}
    with pytest.raises(RecordError, match="a, line 3: column 'y' must have a class, got an empty field"):
        list(Csv(file, target="y", empty_target="raise"))


def test_columns_are_chosen_by_name_or_number(tmp_path: Path) -> None:
    """Names may occur twice if another column is chosen."""
    file = write(tmp_path / "a.csv", b"id,text,text\n1,a,b\n")
    assert Csv(file, text=2)[0].input == "b"
    assert Csv(file, text="id")[0].input == "1"
    assert Csv(file, text="id").columns == ["id", "text", "text"]
    file = write(tmp_path / "b", b"'a;b';c\n")
    assert to_pairs(Delimited(file, text=1, target=0, header=False, delimiter=";", quote="'")) == [("c", "a;b")]


WRONG: Any = "wrong"
BAD_OPTIONS: list[tuple[Callable[[Path], object], type[Exception], str]] = [
    (
        Csv,
        RecordError,
        r"more than one column 'text'; its columns are 'id', 'text', 'text'; rename one of them\.",
    ),
    (
        lambda f: Csv(f, text="no"),
        RecordError,
        "has no column 'no'; its columns are 'id', 'text', 'text'; choose one of these.$",
    ),
    (lambda f: Csv(f, text="txt"), RecordError, r"; choose one of these\. Did you mean 'text'\?$"),
    (lambda f: Csv(f, text=" id"), RecordError, r"; choose one of these\. Did you mean 'id'\? White space is kept\.$"),
    (lambda f: Csv(f, text=3), RecordError, "has 3 columns, numbered from 0, got column 3"),
    (
        lambda f: Csv(f, header=False),
        OptionError,
        "with header=False a column must be given by number, from 0, got 'text'",
    ),
    (lambda f: Delimited(f, text=0, delimiter=",,"), OptionError, "delimiter must be one ASCII character"),
    (
        lambda f: Delimited(f, text=0, quote="\n"),
        OptionError,
        "quote must be one ASCII character that is not a line end",
    ),
    (lambda f: Delimited(f, text=0, quote=","), OptionError, "delimiter and quote must differ, got ',' for both"),
    (
        lambda f: Csv(f, text=0, empty_target=WRONG),
        OptionError,
        "empty_target must be one of none, keep, raise, got",
    ),
    (
        lambda f: Csv(f, text=0, on_bad_record=WRONG),
        OptionError,
        '"raise", "skip" or a function of a Problem, got \'wrong\'',
    ),
]


@pytest.mark.parametrize(("make", "kind", "message"), BAD_OPTIONS)
def test_wrong_options_are_rejected(
    tmp_path: Path, make: Callable[[Path], object], kind: type[Exception], message: str
) -> None:
    """The error names the rule and the value."""
    with pytest.raises(kind, match=message):
        make(write(tmp_path / "a.csv", b"id,text,text\n1,a,b\n"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no records, but must have a header; write one, or say header=False"),
        (b"\n\n", "has no records"),
        (b'text,"open\n', r"line 1, first record: the quote .* is not closed correctly in 1 lines: .*; fix it"),
        (b"\ntext,\xff\n", "line 2, first record: a record must be UTF-8"),
        (b"t\0ext\n", "line 1, first record: a record must be text, .* NUL"),
    ],
)
def test_a_table_without_a_correct_header_is_rejected(tmp_path: Path, content: bytes, message: str) -> None:
    """The first record determines the columns, so it cannot be skipped."""
    with pytest.raises(RecordError, match=message):
        Csv(write(tmp_path / "a", content), on_bad_record="skip")


def test_another_delimiter_is_suggested(tmp_path: Path) -> None:
    """If the only column holds one."""
    file = write(tmp_path / "a.csv", b"text;label\na;b\n")
    with pytest.raises(RecordError, match=r"no column 'text' but only one, 'text;label'; .*, delimiter=';'\)"):
        Csv(file)


def test_a_field_that_is_too_long_is_not_taken_for_a_quote(tmp_path: Path) -> None:
    """It is one line; a quote that is not closed takes several."""
    file = write(tmp_path / "a.csv", b"text\n" + b"a" * (2**24 + 1) + b"\nb\n")
    with pytest.raises(RecordError, match=r"line 2: a field must have at most [\d,]+ characters; raise csv.field_size"):
        list(Csv(file))
    assert list(Csv(file, on_bad_record="skip").inputs()) == ["b"]
