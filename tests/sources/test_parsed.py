"""Sources of all text formats: records by number and in order, malformed records, workers, changes and caches."""

import copy
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipeline import Example, Tokenize
from pipeline.errors import RecordError, SourceError
from pipeline.sources import Csv, JsonLines, Problem, Source, TextFolder, TextLines
from pipeline.sources.parsed import ParsedSource
from pipeline.sources.text_file import InputFile
from support.pairs import to_pairs
from support.source_files import FIRST_LINES, GOOD, KINDS, Make, files, lines, objects, sentences, table, write

every_format = pytest.mark.parametrize("make", GOOD, ids=lambda make: make.__name__)
pytestmark = pytest.mark.usefixtures("storage")


@every_format
@pytest.mark.parametrize("cached", [False, True])
def test_malformed_records_are_skipped_and_counted(tmp_path: Path, make: Make, cached: bool) -> None:
    """Reading in order and by number gives the same records, before and after they are stored."""
    cache = tmp_path / "cache" if cached else None
    for _ in range(2):
        source = make(tmp_path, on_bad_record="skip", cache=cache)
        assert to_pairs(source) == GOOD[make]
        assert len(source) == len(GOOD[make])
        assert to_pairs(source[number] for number in range(len(source))) == GOOD[make]
        assert to_pairs(source) == GOOD[make]
        assert [source.target(number) for number in range(len(source))] == [target for _, target in GOOD[make]]
        assert source.skipped.kinds == KINDS[make]
        assert [problem.number for problem in source.skipped.first] == FIRST_LINES[make]
        total = sum(KINDS[make].values())
        assert str(source.skipped).startswith(f"{total} {'record' if total == 1 else 'records'} skipped (")
        with pytest.raises(IndexError, match="records, numbered from 0, got index 99"):
            source[99]
        assert to_pairs([source[-1]]) == GOOD[make][-1:]


@every_format
def test_a_malformed_record_raises(tmp_path: Path, make: Make) -> None:
    """Reading in order stops at the first one; reading by number raises for each. Errors name the file and the line."""
    source = make(tmp_path)
    with pytest.raises(RecordError, match='; fix it, or read with on_bad_record="skip" or with a function') as raised:
        list(iter(source))
    assert raised.value.details["line"] == FIRST_LINES[make][0]
    assert raised.value.details["kind"] == next(iter(KINDS[make]))
    bad: list[tuple[object, bool]] = []
    for number in range(len(source)):
        try:
            source[number]
        except RecordError as error:
            bad.append((error.details["line"], str(error).startswith(f"{source.where(number)}: ")))
    assert bad == [(line, True) for line in FIRST_LINES[make]]
    assert source.skipped.total == 0


@every_format
def test_a_function_replaces_malformed_records(tmp_path: Path, make: Make) -> None:
    """The function is called with each problem; its result replaces the record, and None skips it."""
    seen: list[Problem] = []

    def replace(problem: Problem) -> Example[Any] | None:
        seen.append(problem)
        return Example("fixed") if problem.number == FIRST_LINES[make][0] else None

    source = make(tmp_path, on_bad_record=replace)
    given = to_pairs(source)
    assert [problem.number for problem in seen] == FIRST_LINES[make]
    assert len(given) == len(GOOD[make]) + 1 == len(source)
    assert given.count(("fixed", None)) == 1
    assert [pair for pair in given if pair[0] != "fixed"] == GOOD[make]
    assert to_pairs(source[number] for number in range(len(source))) == given
    assert source.skipped.total == len(FIRST_LINES[make]) - 1
    assert source.fingerprint is None


def test_a_function_must_return_the_same_each_time(tmp_path: Path) -> None:
    """A record that was accepted cannot be skipped later."""
    answers = [Example("fixed"), None]
    source = Csv(write(tmp_path / "a", b"text\na,b\n"), on_bad_record=lambda _: answers.pop(0))
    assert len(source) == 1
    with pytest.raises(SourceError, match="a, line 2: the function given as on_bad_record= returned None"):
        source[0]


@every_format
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_same(tmp_path: Path, make: Make, context: str, storage: str) -> None:
    """Forked and spawned workers read all records, with and without a cache."""
    if context == "spawn" and (make not in {table, files} or storage == "in memory"):
        pytest.skip("starting a spawned process takes seconds; two formats represent all")
    source = make(tmp_path, on_bad_record="skip", cache=tmp_path / "cache" if make is table else None)
    assert to_pairs([source[0]]) == GOOD[make][:1]
    loader = DataLoader(
        source, batch_size=2, num_workers=2, collate_fn=to_pairs, multiprocessing_context=context, shuffle=False
    )
    assert [pair for batch in loader for pair in batch] == GOOD[make]
    assert to_pairs(pickle.loads(pickle.dumps(source))) == GOOD[make]


@pytest.mark.usefixtures("storage")
def test_a_mapped_table_is_pickled_as_a_path(tmp_path: Path, storage: str) -> None:
    """A pickle of a source with many records is small, and is read again from the file if the table was deleted."""
    source = TextLines(write(tmp_path / "a", b"some text\n" * 10_000))
    assert source[9_999].input == "some text"
    pickled = pickle.dumps(source)
    assert (len(pickled) < 2_000) == (storage == "mapped")
    del source
    assert pickle.loads(pickled)[9_999].input == "some text"


@every_format
def test_a_changed_file_is_noticed(tmp_path: Path, make: Make) -> None:
    """Another size raises an error at the next access by number, also in a worker's copy of the source."""
    source = make(tmp_path, on_bad_record="skip")
    before = source.fingerprint
    assert make(tmp_path, on_bad_record="raise").fingerprint != before
    len(source)
    name = source.files[0] if isinstance(source, TextFolder) else next(tmp_path.glob("a.*"))
    name.write_bytes(name.read_bytes() + b"\n")
    for one in (source, pickle.loads(pickle.dumps(source))):
        with pytest.raises(SourceError, match=r"has changed since it was first read; create the source again\."):
            one[0]
    with pytest.raises(SourceError, match="has changed"):
        list(source)


CHANGES = {
    lines: (b"one", b"two"),
    table: (b'"a', b'"A'),
    objects: (b'"a"', b'"A"'),
    sentences: (b"\tin\t", b"\tIn\t"),
    files: (b"two", b"TWO"),
}


def reopen(source: Source[Any]) -> Source[Any]:
    """Make the same source of the files as they are now."""
    state: Any = vars(source)
    again = copy.copy(source)
    files = [InputFile(file.path) for file in state["_files"]]
    vars(again).update(_files=files, _table=None, _screening=None)
    return again


@every_format
def test_other_content_of_the_same_size_and_time_is_noticed(tmp_path: Path, make: Make) -> None:
    """Restoring the modification time, as `cp -p` does, does not hide a change; nor does it find cached records."""
    source = make(tmp_path, on_bad_record="skip", cache=tmp_path / "cache")
    before, everything = source.fingerprint, to_pairs(source[:])
    name = source.files[0] if isinstance(source, TextFolder) else next(tmp_path.glob("a.*"))
    content, status = name.read_bytes(), name.stat()
    name.write_bytes(content.replace(*CHANGES[make]))
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(SourceError, match="has changed"):
        source[0]
    again = reopen(source)
    assert again.fingerprint != before
    assert to_pairs(again) != everything
    name.write_bytes(content)
    os.utime(name, ns=(1, 1))
    assert to_pairs(source[:]) == everything  # the content is the same again, so another time does not matter
    assert source.fingerprint == before


def test_a_change_while_reading_in_order_is_noticed(tmp_path: Path) -> None:
    """The file is compared with its earlier state after each block."""
    source = TextLines(write(tmp_path / "a", b"some text\n" * 300_000))
    examples = iter(source)
    next(examples)
    with (tmp_path / "a").open("ab") as file:
        file.write(b"more\n")
    with pytest.raises(SourceError, match="has changed"):
        list(examples)


def test_cached_records_are_read_and_damaged_ones_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is not parsed again, unless the cached records are damaged. Other options have other records."""
    cache = tmp_path / "cache"
    lines(tmp_path, cache=cache)[0]
    cached = next(cache.iterdir())
    assert cached.name.startswith("records-")

    def fail(*_: object) -> None:
        pytest.fail("the file was parsed again")

    with monkeypatch.context() as patch:
        patch.setattr(TextLines, "_parse", fail)
        assert lines(tmp_path, cache=cache)[0].input == "one"
        assert lines(tmp_path, cache=cache, on_bad_record="skip").skipped.total == 2
    whole = cached.read_bytes()
    cached.write_bytes(whole[:-8])
    assert len(lines(tmp_path, cache=cache)) == 7
    assert cached.read_bytes() == whole
    assert len(list(cache.iterdir())) == 1
    assert TextLines(tmp_path / "a.txt", target=3, cache=cache)[0].target == 3
    assert JsonLines(write(tmp_path / "a.jsonl", b'{"text": "b"}'), cache=cache)[0].input == "b"
    assert len(list(cache.iterdir())) == 3


def test_cached_problems_name_the_file_that_is_read(tmp_path: Path) -> None:
    """A file that was moved has the same cached records, and its errors its new name."""
    lines(tmp_path / "a", cache=tmp_path / "cache").where(0)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = TextLines(tmp_path / "b" / "a.txt", cache=tmp_path / "cache")
    with pytest.raises(RecordError, match=rf"^{tmp_path}/b/a\.txt, line 2: a record must be UTF-8"):
        moved[1]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_the_table_is_the_same_in_memory_and_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of any size give the same records."""
    content = "".join(f'"row {number}\n",{number}\n\n' for number in range(100)) + "a,b,c\n"
    file = write(tmp_path / "a", content.encode())
    wanted: list[tuple[object, object]] = [(f"row {number}\n", str(number)) for number in range(100)]
    for size in (0, 1, 100, 1_000, 10_000):
        monkeypatch.setattr("pipeline.sources.record_table.MAX_IN_MEMORY", size)
        source = Csv(file, text=0, target=1, header=False, on_bad_record="skip")
        assert isinstance(source, ParsedSource)
        assert to_pairs(source[number] for number in range(100)) == wanted
        assert source.where(99) == f"{file}, line 298"
        assert source.skipped.first[0].number == 301


def test_sources_are_inputs_of_stages(tmp_path: Path) -> None:
    """An input stage takes a source as it is."""
    source = table(tmp_path, on_bad_record="skip")
    rows = list(Tokenize.train(source.inputs()).map(source))
    assert [(len(row), row.target, row.row_id) for row in rows] == [(2, "x", 0), (4, None, 1)]
