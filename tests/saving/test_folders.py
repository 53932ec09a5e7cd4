"""A folder is written completely or not at all."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pipeline.errors import FolderError
from pipeline.saving import folders
from pipeline.saving.files import read_regular_file
from pipeline.saving.folders import open_folder, was_replaced, write_folder


def write(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a folder with one file."""
    with write_folder(path, replace=replace, marker="a.txt") as folder:
        (folder / "a.txt").write_text(text)


def test_the_block_writes_the_folder(tmp_path: Path) -> None:
    """Missing parents are made, and nothing is left beside the folder."""
    write(tmp_path / "deep" / "model", "one")
    assert (tmp_path / "deep" / "model" / "a.txt").read_text() == "one"
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["model"]


def test_replacing_leaves_nothing_of_the_old_folder(tmp_path: Path) -> None:
    """Files of the old folder that are not written again are gone."""
    write(tmp_path / "model", "one")
    (tmp_path / "model" / "old.txt").write_text("old")
    write(tmp_path / "model", "two")
    assert {each.name: each.read_text() for each in (tmp_path / "model").iterdir()} == {"a.txt": "two"}


def test_without_an_exchange_two_renames_do_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On platforms and file systems that cannot exchange two folders."""

    def fail(_one: Path, _other: Path) -> bool:
        return False

    monkeypatch.setattr(folders, "_exchange", fail)
    write(tmp_path / "model", "one")
    write(tmp_path / "model", "two")
    assert (tmp_path / "model" / "a.txt").read_text() == "two"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_a_folder_left_between_two_renames_is_restored(tmp_path: Path) -> None:
    """The old folder gets its name back before the next one is written, so that a failure loses nothing."""
    write(tmp_path / "model", "one")
    (tmp_path / "model").rename(tmp_path / ".model.1-aa.old")
    with pytest.raises(ZeroDivisionError), write_folder(tmp_path / "model", marker="a.txt"):
        raise ZeroDivisionError
    assert (tmp_path / "model" / "a.txt").read_text() == "one"


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    """And deletes the temporary one."""
    write(tmp_path / "model", "one")

    def fail() -> None:
        with write_folder(tmp_path / "model", marker="a.txt") as folder:
            (folder / "a.txt").write_text("two")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / "model" / "a.txt").read_text() == "one"
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_replacing_can_be_forbidden(tmp_path: Path) -> None:
    """With `replace=False` an existing folder is an error."""
    write(tmp_path / "model", "one")
    with pytest.raises(FolderError, match="exists already; choose another path"):
        write(tmp_path / "model", "two", replace=False)


def test_a_folder_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    """A folder with other files and without the marker may be anything."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match=r"has other files, and no 'a\.txt'"):
        write(tmp_path, "one")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    """As tempfile.mkdtemp makes it."""
    (tmp_path / "model").mkdir()
    write(tmp_path / "model", "one")
    assert (tmp_path / "model" / "a.txt").read_text() == "one"


def test_a_file_is_not_replaced(tmp_path: Path) -> None:
    """The path must be a folder's."""
    (tmp_path / "model").write_text("mine")
    with pytest.raises(FolderError, match="must be a folder, but is a file"):
        write(tmp_path / "model", "one")


def test_a_missing_marker_is_an_error(tmp_path: Path) -> None:
    """Without it the folder could never be replaced."""
    with (
        pytest.raises(FolderError, match=r"the block must write 'a\.txt'"),
        write_folder(tmp_path / "b", marker="a.txt"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    """The link stays a link."""
    write(tmp_path / "v1", "one")
    (tmp_path / "current").symlink_to(tmp_path / "v1")
    write(tmp_path / "current", "two")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "a.txt").read_text() == "two"


def test_a_second_writer_is_rejected(tmp_path: Path) -> None:
    """A thread of the same process too; the first one is not disturbed."""
    found: list[BaseException] = []

    def write_second() -> None:
        try:
            write(tmp_path / "model", "two")
        except FolderError as error:
            found.append(error)

    with write_folder(tmp_path / "model", marker="a.txt") as folder:
        thread = threading.Thread(target=write_second)
        thread.start()
        thread.join()
        (folder / "a.txt").write_text("one")
    assert "is being written by another process or thread" in str(found[0])
    assert (tmp_path / "model" / "a.txt").read_text() == "one"


def test_the_leftovers_of_a_killed_writer_are_deleted(tmp_path: Path) -> None:
    """The next writer finds an unlocked temporary folder; the old folder was readable all the time."""
    write(tmp_path / "model", "one")
    code = """
import os, signal, sys
from pipeline.saving.folders import write_folder
with write_folder(sys.argv[1], marker="a.txt") as folder:
    (folder / "a.txt").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model")], check=False)
    assert (tmp_path / "model" / "a.txt").read_text() == "one"
    assert len(list(tmp_path.glob(".model.*.part"))) == 1
    write(tmp_path / "model", "two")
    assert [each.name for each in tmp_path.iterdir()] == ["model"]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    """Signs that mean something in a pattern of files are themselves in a name."""
    write(tmp_path / "model*", "one")
    (tmp_path / ".model-b.1-aa.part").mkdir()
    write(tmp_path / "model*", "two")
    assert sorted(each.name for each in tmp_path.iterdir()) == [".model-b.1-aa.part", "model*"]


def test_an_open_folder_stays_the_old_one(tmp_path: Path) -> None:
    """And its reader can find out that it was replaced."""
    write(tmp_path / "model", "one")
    with open_folder(tmp_path / "model") as folder:
        assert not was_replaced(tmp_path / "model", folder)
        write(tmp_path / "model", "two")
        assert was_replaced(tmp_path / "model", folder)


def test_a_missing_folder_is_an_error_at_once(tmp_path: Path) -> None:
    """With the path and the remedy."""
    with (
        pytest.raises(FolderError, match=r"'.*none' cannot be read: No such file or directory; check the path\."),
        open_folder(tmp_path / "none"),
    ):
        pass


def test_a_parent_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    """Errors of the system name the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="cannot be written"):
        write(tmp_path / "file" / "model", "one")


def test_errors_of_files_name_their_folder(tmp_path: Path) -> None:
    """A file is opened by its name alone, which does not tell where it is."""
    with (
        pytest.raises(FolderError, match=r"'.*' cannot be read: No such file") as caught,
        open_folder(tmp_path) as handle,
    ):
        read_regular_file("manifest.json", limit=9, folder=handle)
    assert str(caught.value).startswith(f"{str(tmp_path)!r}: 'manifest.json' cannot be read")
