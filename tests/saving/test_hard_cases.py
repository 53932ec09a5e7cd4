"""Full disks, missing rights, several writers, readers in between, and processes that are killed while they save."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from pipeline import load
from pipeline.errors import FolderError
from pipeline.saving.folders import write_folder
from support.saved import make_classifier, read_bytes

TESTS: Final = Path(__file__).parents[1]
KILLS: Final = 100 if os.environ.get("PIPELINE_TESTS_LONG") else 5


class Savers:
    """Starts processes that save again and again."""

    def __init__(self, server: "subprocess.Popen[str]", log: Path) -> None:
        self.server = server
        self.log = log

    def start(self, folder: Path, first: int, *, limit: int = 0) -> int:
        """Start a process, and return its id after its first save, or its error."""
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.log.unlink(missing_ok=True)
        self.server.stdin.write(json.dumps([str(folder), first, limit, str(self.log)]) + "\n")
        self.server.stdin.flush()
        process = int(self.server.stdout.readline())
        wait_until(lambda: "\n" in self.read_log())
        return process

    def read_log(self) -> str:
        """Return the numbers of the saves so far, and the error."""
        return self.log.read_text() if self.log.exists() else ""


@pytest.fixture(scope="module")
def savers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Savers]:
    """Return what starts processes."""
    command = [sys.executable, "-m", "support.saving_process"]
    with subprocess.Popen(command, cwd=TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        yield Savers(server, tmp_path_factory.mktemp("savers") / "log.txt")


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(process: int) -> None:
    """Kill a process, and wait for its end."""
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: not is_running(process))


def is_running(process: int) -> bool:
    """Return whether a process exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def read_number(folder: Path) -> int:
    """Load the pipe, and return the number that all its weights are equal to: a mixture has several."""
    found = {float(value) for parameter in load(folder).parameters() for value in parameter.detach().flatten()}
    assert len(found) == 1
    return int(found.pop())


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, savers: Savers) -> None:
    """The error says so, and nothing is left of the new folder."""
    make_classifier().save(tmp_path / "pipe")
    before = read_bytes(tmp_path / "pipe")
    savers.start(tmp_path / "pipe", 1, limit=900)
    assert "cannot be written: File too large; raise the limit of file sizes (ulimit -f)" in savers.read_log()
    assert read_bytes(tmp_path / "pipe") == before
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_a_folder_without_rights_is_an_error(tmp_path: Path) -> None:
    """The error names the path and the fix; /proc cannot be written even by root."""
    path = "/proc/none/pipe" if Path("/proc").is_dir() else "/System/none/pipe"
    with pytest.raises(FolderError, match=r"pipe' cannot be written: .*; (check the path|change its access rights)"):
        make_classifier().save(path)
    if os.geteuid() != 0:
        tmp_path.chmod(0o500)
        with pytest.raises(FolderError, match="Permission denied; change its access rights"):
            make_classifier().save(tmp_path / "pipe")
        tmp_path.chmod(0o700)


def test_a_second_process_is_told_to_wait(tmp_path: Path, savers: Savers) -> None:
    """While the first one writes."""
    with write_folder(tmp_path / "pipe") as folder:
        (folder / "manifest.json").write_text("{}")
        savers.start(tmp_path / "pipe", 1)
        assert "is being written by another process or thread; wait for it" in savers.read_log()


def test_a_reader_sees_the_old_folder_or_the_new_one(tmp_path: Path, savers: Savers) -> None:
    """While another process replaces it again and again."""
    process = savers.start(tmp_path / "pipe", 1)
    try:
        numbers: list[int] = []
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            numbers.append(read_number(tmp_path / "pipe"))
    finally:
        kill(process)
    assert numbers == sorted(numbers)
    assert len(set(numbers)) > 5


def test_a_killed_process_leaves_a_complete_folder(tmp_path: Path, savers: Savers) -> None:
    """At any moment of a save; and the next one cleans up. There are more kills in the session `long`."""
    draw = random.Random(0)
    last = 0
    for number in range(1, KILLS + 1):
        process = savers.start(tmp_path / "pipe", number * 100_000)
        time.sleep(draw.random() / 10)
        kill(process)
        found = read_number(tmp_path / "pipe")
        assert found >= max(last, number * 100_000)
        last = found
    make_classifier().save(tmp_path / "pipe")
    assert [each.name for each in tmp_path.iterdir() if each.name != ".pipe.lock"] == ["pipe"]
    sys.stdout.write(f"{KILLS} kills while saving\n")
