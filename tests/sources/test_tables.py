"""Rows of Arrow and Parquet files."""

import pickle
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipeline import Tokenize
from pipeline.errors import MissingExtraError, OptionError, RecordError, SourceError
from pipeline.sources import Arrow, Parquet, Source, lengths_of
from support.needs import needs
from support.pairs import to_pairs

TEXTS = [None if number % 7 == 3 else f"text {number}\u2028" for number in range(50)]
WORDS = [None if number % 5 == 0 else ["w"] * (number % 4) for number in range(50)]
GOOD = [(text, f"class {number % 3}") for number, text in enumerate(TEXTS) if text is not None]

Make = Callable[..., Source[Any]]


def build_table(**columns: Any) -> Any:
    """Build a table of pyarrow."""
    arrow = import_module("pyarrow")
    names = arrow.array([f"class {number % 3}" for number in range(50)]).dictionary_encode()
    return arrow.table({"other": list(range(50)), "label": names, "text": TEXTS, "words": WORDS, **columns})


def write_arrow(file: Path, content: Any, kind: str = "file") -> Path:
    """Write an Arrow file in batches of seven rows."""
    ipc = import_module("pyarrow.ipc")
    with getattr(ipc, f"new_{kind}")(str(file), content.schema) as writer:
        writer.write_table(content, max_chunksize=7)
    return file


def stream(folder: Path, **options: Any) -> Source[Any]:
    """An Arrow file in the stream format."""
    return Arrow(once(folder / "stream.arrow", lambda file: write_arrow(file, build_table(), "stream")), **options)


def mapped(folder: Path, **options: Any) -> Source[Any]:
    """An Arrow file in the file format."""
    return Arrow(once(folder / "file.arrow", lambda file: write_arrow(file, build_table())), **options)


def grouped(folder: Path, **options: Any) -> Source[Any]:
    """A Parquet file with row groups of eight rows."""
    parquet = import_module("pyarrow.parquet")
    return Parquet(
        once(folder / "a.parquet", lambda file: parquet.write_table(build_table(), file, row_group_size=8)), **options
    )


def cached(folder: Path, **options: Any) -> Source[Any]:
    """A Parquet file whose rows are cached."""
    return grouped(folder, **{"cache": folder / "cache", **options})


def once(file: Path, write: Callable[[Path], object]) -> Path:
    """Write a file if it does not exist."""
    if not file.exists():
        write(file)
    return file


pytestmark = pytest.mark.usefixtures("storage")
every_kind = pytest.mark.parametrize("make", [stream, mapped, grouped, cached], ids=lambda make: make.__name__)


@needs("pyarrow")
@every_kind
def test_rows_in_order_and_by_number(tmp_path: Path, make: Make) -> None:
    """Null inputs are malformed; dictionary-encoded values are decoded."""
    for _ in range(2):
        source = make(tmp_path, target="label", on_bad_record="skip")
        assert to_pairs(source) == GOOD
        assert to_pairs(source[number] for number in reversed(range(len(source)))) == GOOD[::-1]
        assert source.skipped.kinds == {"null": 7}
        assert source.where(3).endswith(", row 5")


@needs("pyarrow")
@every_kind
def test_a_null_input_raises(tmp_path: Path, make: Make) -> None:
    """The error names the file and the row."""
    source = make(tmp_path)
    with pytest.raises(RecordError, match=r", row 4: field 'text' must not be null; the record begins"):
        list(source)
    with pytest.raises(RecordError, match=", row 11: "):
        source[10]
    assert source[9].input == "text 9\u2028"


@needs("pyarrow")
@every_kind
def test_workers_read_rows(tmp_path: Path, make: Make) -> None:
    """Mapped files are mapped again in a worker."""
    source = make(tmp_path, target="label", on_bad_record="skip")
    assert to_pairs([source[0]]) == GOOD[:1]
    assert to_pairs(pickle.loads(pickle.dumps(source))) == GOOD
    loader = DataLoader(source, batch_size=4, num_workers=2, collate_fn=to_pairs, multiprocessing_context="fork")
    assert [pair for batch in loader for pair in batch] == GOOD


@needs("pyarrow")
@every_kind
def test_lists_of_words(tmp_path: Path, make: Make) -> None:
    """Columns of lists of any length."""
    source = make(tmp_path, words="words", target="other", on_bad_record="skip")
    assert to_pairs(source) == [(words, number) for number, words in enumerate(WORDS) if words is not None]


@needs("pyarrow")
@every_kind
def test_a_changed_file_is_noticed(tmp_path: Path, make: Make) -> None:
    """Rows are never read from another file than the first one."""
    source = make(tmp_path)
    assert len(source) == 50
    name = next(file for file in tmp_path.iterdir() if file.is_file())
    name.write_bytes(name.read_bytes() + b"\0")
    with pytest.raises(SourceError, match="has changed"):
        source[0]


@needs("pyarrow")
@pytest.mark.parametrize("kind", [Arrow, Parquet])
def test_other_formats_and_options_are_rejected(tmp_path: Path, kind: Any) -> None:
    """The error names the file and the format."""
    file = tmp_path / "a"
    file.write_bytes(b"text\nno table at all\n" * 10)
    with pytest.raises(RecordError, match=r"a must be an? (Arrow|Parquet) file, but pyarrow cannot read it: "):
        kind(file)
    file.write_bytes(b"")
    with pytest.raises(RecordError, match=r"a must be an? (Arrow|Parquet) file, but pyarrow cannot read it: "):
        kind(file)
    with pytest.raises(OptionError, match="exactly one of text= .* must name the field of the input"):
        kind(file, text="a", words="b")


@needs("pyarrow")
@every_kind
def test_missing_columns_are_rejected(tmp_path: Path, make: Make) -> None:
    """The error names the existing columns."""
    with pytest.raises(RecordError, match="has no column 'no'; its columns are 'other', 'label', 'text', 'words'"):
        make(tmp_path, text="no")
    with pytest.raises(RecordError, match="row 1: field 'other' must be text, got an int"):
        make(tmp_path, text="other")[0]


@needs("pyarrow")
def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    """Arrow does not validate text; the record is malformed, its neighbors are not."""
    arrow = import_module("pyarrow")
    raw = arrow.array([b"a", b"\xff", b"c"]).view(arrow.string())
    source = Arrow(write_arrow(tmp_path / "a", arrow.table({"text": raw})), on_bad_record="skip")
    assert [one.input for one in source] == [source[0].input, source[1].input] == ["a", "c"]
    assert source.skipped.kinds == {"encoding": 1}


@needs("pyarrow")
def test_a_table_without_rows(tmp_path: Path) -> None:
    """It is a source without records."""
    parquet = import_module("pyarrow.parquet")
    parquet.write_table(build_table().slice(0, 0), tmp_path / "a")
    for source in (Parquet(tmp_path / "a"), Arrow(write_arrow(tmp_path / "b", build_table().slice(0, 0)))):
        assert (len(source), list(source)) == (0, [])


@needs("pyarrow")
def test_rows_are_cached_once(tmp_path: Path) -> None:
    """In one file for the same columns."""
    source = cached(tmp_path, target="label")
    assert source[0].target == cached(tmp_path, target="label")[0].target == "class 0"
    assert [path.name.split("-")[0] for path in (tmp_path / "cache").iterdir()] == ["records"]


@needs("pyarrow")
def test_lengths_of_a_table_are_cached(tmp_path: Path) -> None:
    """They are found by its fingerprint."""
    tokenize = Tokenize.train(text for text in TEXTS if text)
    source = mapped(tmp_path, on_bad_record="skip")
    found = lengths_of(source, tokenize, cache=tmp_path / "lengths")
    assert found.tolist() == lengths_of(source, tokenize).tolist() == [2] * 43


@needs("pyarrow")
def test_parts_with_other_dictionaries_are_read(tmp_path: Path) -> None:
    """Each row group of a Parquet file may have its own dictionary, as pandas categories do."""
    arrow, parquet = import_module("pyarrow"), import_module("pyarrow.parquet")
    parts = [
        arrow.table({"text": ["1", "2"], "y": arrow.array(kinds).dictionary_encode()})
        for kinds in (["a", "b"], ["c", "a"])
    ]
    with parquet.ParquetWriter(tmp_path / "a", parts[0].schema) as writer:
        for part in parts:
            writer.write_table(part)
    for cache in (None, tmp_path / "cache"):
        source = Parquet(tmp_path / "a", target="y", cache=cache)
        assert list(source.targets()) == [source[number].target for number in range(4)] == ["a", "b", "c", "a"]


@needs("pyarrow")
@pytest.mark.parametrize("make", [mapped, grouped], ids=lambda make: make.__name__)
def test_a_damaged_file_raises_our_error(tmp_path: Path, make: Make) -> None:
    """Errors of pyarrow are never raised as they are; the error names the file and the row."""
    make(tmp_path)
    file = next(path for path in tmp_path.iterdir())
    content = file.read_bytes()
    # pyarrow validates the pages of Parquet files, but not the data in Arrow files, which may be cut off.
    damaged = [content[:size] for size in range(0, len(content), 97)]
    if make is grouped:
        damaged += [content[:n] + b"\xff" * 8 + content[n + 8 :] for n in range(4, len(content) - 4_000, 10)]
    failed = 0
    for wrong in damaged:
        file.write_bytes(wrong)
        try:
            list(iter(make(tmp_path, on_bad_record="skip")))
        except RecordError as error:
            failed += str(file) in str(error)
    assert failed > len(damaged) // 3


@needs("pyarrow")
def test_a_stream_is_rejected() -> None:
    """Pyarrow reads these formats from their end."""
    with pytest.raises(OptionError, match="must be a regular file, because a Parquet file is read from its end"):
        Parquet("/dev/null")


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the format that needs it."""
    (tmp_path / "a").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        MissingExtraError, match=r"an Arrow file needs the package pyarrow, .*; pip install 'ragged-pipeline\[arrow\]'"
    ):
        Arrow(tmp_path / "a")
    with pytest.raises(MissingExtraError, match=r"a Parquet file needs the package pyarrow, which is not installed"):
        Parquet(tmp_path / "a")
