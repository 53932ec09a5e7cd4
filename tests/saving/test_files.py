"""Files are read once, completely, and only if they are regular ones."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import FolderError, LoadError
from pipeline.saving import files
from pipeline.saving.files import explain_os_errors, read_regular_file


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 3])
def test_a_file_is_read_with_its_digest(tmp_path: Path, size: int) -> None:
    """Also if it is empty, or larger than a chunk."""
    content = bytes(range(251)) * (size // 251) + b"a" * (size % 251)
    (tmp_path / "a").write_bytes(content)
    found = read_regular_file(tmp_path / "a", limit=size)
    assert (bytes(found.data), found.digest) == (content, hashlib.sha256(content).hexdigest())


def test_a_path_may_be_relative_to_an_open_folder(tmp_path: Path) -> None:
    """So that it is the same folder even if it is renamed."""
    (tmp_path / "a").write_bytes(b"one")
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        assert bytes(read_regular_file("a", limit=9, folder=folder).data) == b"one"
    finally:
        os.close(folder)


def test_a_fifo_is_rejected_without_waiting(tmp_path: Path) -> None:
    """Opening one for reading would wait for a writer."""
    os.mkfifo(tmp_path / "a")
    with pytest.raises(LoadError, match="must be a regular file, got a FIFO"):
        read_regular_file(tmp_path / "a", limit=9)


def test_a_device_is_rejected() -> None:
    """It may be endless."""
    with pytest.raises(LoadError, match="must be a regular file, got a device"):
        read_regular_file("/dev/zero", limit=9)


def test_a_folder_is_rejected(tmp_path: Path) -> None:
    """In place of a file."""
    with pytest.raises(LoadError, match="must be a regular file, got a folder"):
        read_regular_file(tmp_path, limit=9)


def test_a_file_that_grows_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size is that of the moment when it was opened."""
    (tmp_path / "a").write_bytes(b"12345")
    real = os.fstat(os.open(tmp_path / "a", os.O_RDONLY))
    smaller = os.stat_result([4 if index == 6 else value for index, value in enumerate(real[:10])])

    def report_smaller(_handle: int) -> os.stat_result:
        return smaller

    monkeypatch.setattr(os, "fstat", report_smaller)
    with pytest.raises(LoadError, match="of 4 bytes changed while it was read"):
        read_regular_file(tmp_path / "a", limit=9)


def test_errors_of_the_system_name_the_fix(tmp_path: Path) -> None:
    """A full disk is not a bug of the program."""
    with (
        pytest.raises(FolderError, match="cannot be written: No space left on device; free some space") as caught,
        explain_os_errors(tmp_path, "write"),
    ):
        raise OSError(28, "No space left on device")
    assert caught.value.details["errno"] == 28


def test_large_files_are_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same digest; writing to the memory does not change the file."""
    monkeypatch.setattr(files, "MAPPED", 3)
    (tmp_path / "a").write_bytes(b"abcd")
    found = read_regular_file(tmp_path / "a", limit=9)
    assert (bytes(found.data), found.digest) == (b"abcd", hashlib.sha256(b"abcd").hexdigest())
    found.data[0] = 0
    assert (tmp_path / "a").read_bytes() == b"abcd"


def test_a_mapped_file_that_changes_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While its digest is computed."""
    monkeypatch.setattr(files, "MAPPED", 3)
    (tmp_path / "a").write_bytes(b"abcd")

    def change(data: memoryview) -> Any:
        (tmp_path / "a").write_bytes(b"abcde")
        return hashlib.sha256(data)

    monkeypatch.setattr(files, "sha256", change)
    with pytest.raises(LoadError, match="of 4 bytes changed while it was read"):
        read_regular_file(tmp_path / "a", limit=9)
