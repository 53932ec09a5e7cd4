"""Rows of Arrow and Parquet files."""

import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipeline.errors import MissingExtraError, OptionError, RecordError, SourceError
from pipeline.sources import Arrow, Parquet, Source, lengths_of
from pipeline.stages.tokenize import Tokenize
from support.needs import needs
from support.pairs import pairs

TEXTS = [None if number % 7 == 3 else f"text {number}\u2028" for number in range(50)]
WORDS = [None if number % 5 == 0 else ["w"] * (number % 4) for number in range(50)]
GOOD = [(text, f"class {number % 3}") for number, text in enumerate(TEXTS) if text is not None]

Made = Callable[..., Source[Any]]


def table(**columns: Any) -> Any:
    """A table of pyarrow."""
    arrow = import_module("pyarrow")
    names = arrow.array([f"class {number % 3}" for number in range(50)]).dictionary_encode()
    return arrow.table({"other": list(range(50)), "label": names, "text": TEXTS, "words": WORDS, **columns})


def written_arrow(file: Path, content: Any, kind: str = "file") -> Path:
    """An Arrow file of batches of seven rows."""
    ipc = import_module("pyarrow.ipc")
    with getattr(ipc, f"new_{kind}")(str(file), content.schema) as writer:
        writer.write_table(content, max_chunksize=7)
    return file


def stream(folder: Path, **options: Any) -> Source[Any]:
    """In the stream format."""
    return Arrow(once(folder / "stream.arrow", lambda file: written_arrow(file, table(), "stream")), **options)


def mapped(folder: Path, **options: Any) -> Source[Any]:
    """In the file format."""
    return Arrow(once(folder / "file.arrow", lambda file: written_arrow(file, table())), **options)


def grouped(folder: Path, **options: Any) -> Source[Any]:
    """Row groups of eight."""
    parquet = import_module("pyarrow.parquet")
    return Parquet(
        once(folder / "a.parquet", lambda file: parquet.write_table(table(), file, row_group_size=8)), **options
    )


def unpacked(folder: Path, **options: Any) -> Source[Any]:
    """Row groups, unpacked into a folder once."""
    return grouped(folder, **{"cache": folder / "kept", **options})


def once(file: Path, write: Callable[[Path], object]) -> Path:
    """A file that is written if it is not there."""
    if not file.exists():
        write(file)
    return file


every = pytest.mark.parametrize("made", [stream, mapped, grouped, unpacked], ids=lambda made: made.__name__)


@needs("pyarrow")
@every
def test_rows_in_order_and_by_number(tmp_path: Path, made: Made) -> None:
    """Null inputs are malformed; dictionaries are what they stand for."""
    for _ in range(2):
        source = made(tmp_path, target="label", on_bad_record="skip")
        assert pairs(source) == GOOD
        assert pairs(source[number] for number in reversed(range(len(source)))) == GOOD[::-1]
        assert source.skipped.kinds == {"null": 7}
        assert source.where(3).endswith(", row 5")


@needs("pyarrow")
@every
def test_a_null_stops(tmp_path: Path, made: Made) -> None:
    """And is named by file and row."""
    source = made(tmp_path)
    with pytest.raises(RecordError, match=r", row 4: field 'text' must be there, but is null; the record begins"):
        list(source)
    with pytest.raises(RecordError, match=", row 11: "):
        source[10]
    assert source[9].input == "text 9\u2028"


@needs("pyarrow")
@every
def test_workers_read_rows(tmp_path: Path, made: Made) -> None:
    """What is mapped is mapped again there."""
    source = made(tmp_path, target="label", on_bad_record="skip")
    assert pairs([source[0]]) == GOOD[:1]
    assert pairs(pickle.loads(pickle.dumps(source))) == GOOD
    loader = DataLoader(source, batch_size=4, num_workers=2, collate_fn=pairs, multiprocessing_context="fork")
    assert [pair for batch in loader for pair in batch] == GOOD


@needs("pyarrow")
@every
def test_lists_of_words(tmp_path: Path, made: Made) -> None:
    """Columns of lists, of any length."""
    source = made(tmp_path, words="words", target="other", on_bad_record="skip")
    assert pairs(source) == [(words, number) for number, words in enumerate(WORDS) if words is not None]


@needs("pyarrow")
@every
def test_a_changed_table_is_refused(tmp_path: Path, made: Made) -> None:
    """Nothing is read from another file than the one that was looked up."""
    source = made(tmp_path)
    assert len(source) == 50
    name = next(file for file in tmp_path.iterdir() if file.is_file())
    name.write_bytes(name.read_bytes() + b"\0")
    with pytest.raises(SourceError, match="has changed"):
        source[0]


@needs("pyarrow")
@pytest.mark.parametrize("kind", [Arrow, Parquet])
def test_what_is_refused(tmp_path: Path, kind: Any) -> None:
    """Another format, and columns that are not there."""
    file = tmp_path / "a"
    file.write_bytes(b"text\nno table at all\n" * 10)
    with pytest.raises(RecordError, match="file, but pyarrow refuses it: "):
        kind(file)
    file.write_bytes(b"")
    with pytest.raises(RecordError, match="file, but pyarrow refuses it: "):
        kind(file)
    with pytest.raises(OptionError, match="one of them must name the field"):
        kind(file, text="a", words="b")


@needs("pyarrow")
@every
def test_columns_that_are_not_there(tmp_path: Path, made: Made) -> None:
    """The error names those that are."""
    with pytest.raises(RecordError, match="has no column 'no'; its columns are 'other', 'label', 'text', 'words'"):
        made(tmp_path, text="no")
    with pytest.raises(RecordError, match="row 1: field 'other' must be text, but an int arrived"):
        made(tmp_path, text="other")[0]


@needs("pyarrow")
def test_text_that_is_no_utf_8(tmp_path: Path) -> None:
    """Arrow does not look; the record is malformed, and its neighbours are not."""
    arrow = import_module("pyarrow")
    raw = arrow.array([b"a", b"\xff", b"c"]).view(arrow.string())
    source = Arrow(written_arrow(tmp_path / "a", arrow.table({"text": raw})), on_bad_record="skip")
    assert [one.input for one in source] == [source[0].input, source[1].input] == ["a", "c"]
    assert source.skipped.kinds == {"encoding": 1}


@needs("pyarrow")
def test_a_table_of_no_rows(tmp_path: Path) -> None:
    """Is a source of no records."""
    parquet = import_module("pyarrow.parquet")
    parquet.write_table(table().slice(0, 0), tmp_path / "a")
    for source in (Parquet(tmp_path / "a"), Arrow(written_arrow(tmp_path / "b", table().slice(0, 0)))):
        assert (len(source), list(source)) == (0, [])


@needs("pyarrow")
def test_a_row_group_is_unpacked_once(tmp_path: Path) -> None:
    """Into one Arrow file, whatever is read and by whomever."""
    source = unpacked(tmp_path, target="label")
    assert source[0].target == unpacked(tmp_path, target="label")[0].target == "class 0"
    assert [path.name.split("-")[0] for path in (tmp_path / "kept").iterdir()] == ["table"]


@needs("pyarrow")
def test_lengths_of_a_table_are_kept(tmp_path: Path) -> None:
    """By its fingerprint."""
    tokenize = Tokenize.train(text for text in TEXTS if text)
    source = mapped(tmp_path, on_bad_record="skip")
    found = lengths_of(source, tokenize, cache=tmp_path / "lengths")
    assert found.tolist() == lengths_of(source, tokenize).tolist() == [2] * 43


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what needs it."""
    (tmp_path / "a").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        MissingExtraError, match=r"an Arrow file needs the package pyarrow, .*; pip install 'ragged-pipeline\[arrow\]'"
    ):
        Arrow(tmp_path / "a")
    with pytest.raises(MissingExtraError, match=r"a Parquet file needs the package pyarrow, which is not installed"):
        Parquet(tmp_path / "a")
