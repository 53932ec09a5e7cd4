"""Folders of text files, by file and by line."""

import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline import Pad, Tokenize
from pipeline.batching import Budget
from pipeline.errors import RecordError, SourceError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.sources import TextFolder, lengths_of, lines_of
from support.pairs import to_pairs
from support.source_files import write

pytestmark = pytest.mark.usefixtures("storage")


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


def test_a_file_that_changes_while_in_use_is_noticed(tmp_path: Path) -> None:
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


@pytest.mark.parametrize(("make", "kind", "message"), BAD_FOLDERS)
def test_wrong_folders_are_rejected(
    tmp_path: Path, make: Callable[[Path], object], kind: type[Exception], message: str
) -> None:
    """The error names the folder and the rule."""
    write(tmp_path / "a.csv", b"")
    with pytest.raises(kind, match=message):
        make(tmp_path)
