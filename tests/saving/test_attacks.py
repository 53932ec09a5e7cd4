"""Folders of an attacker: each is rejected with a clear error, quickly, and without running anything."""

import os
import shutil
import time
from pathlib import Path
from typing import Final

import pytest

from pipeline import load
from pipeline.errors import FolderError, LoadError
from support.attacks import ATTACKS
from support.hostile import change_config, find_part, sign
from support.saved import make_classifier

DOCS: Final = Path(__file__).parents[2] / "docs" / "security.md"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved classifier."""
    folder = tmp_path_factory.mktemp("saved") / "pipe"
    make_classifier().save(folder)
    return folder


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_rejected(tmp_path: Path, saved: Path, name: str) -> None:
    """With an error that says so, in little time."""
    folder = tmp_path / "pipe"
    shutil.copytree(saved, folder)
    ATTACKS[name](folder)
    start = time.monotonic()
    with pytest.raises((LoadError, FolderError)) as caught:
        load(folder, takes=str, gives=str)
    assert time.monotonic() - start < 5
    assert len(str(caught.value)) < 1_000
    assert str(caught.value).isprintable()


def test_every_attack_is_in_the_documentation() -> None:
    """The table of docs/security.md lists exactly these."""
    rows = [line.split("|")[1].strip() for line in DOCS.read_text().splitlines() if line.startswith("| ")]
    assert [name for name in rows if name in ATTACKS] == list(ATTACKS)


def test_the_folder_itself_is_fine(tmp_path: Path, saved: Path) -> None:
    """So that the attacks are rejected for what they change; signing again changes nothing."""
    folder = tmp_path / "pipe"
    shutil.copytree(saved, folder)
    sign(folder)
    load(folder, takes=str, gives=str)


def test_an_error_of_a_part_is_one_sentence(tmp_path: Path, saved: Path) -> None:
    """The full stop of its message is left out."""
    folder = tmp_path / "pipe"
    shutil.copytree(saved, folder)
    change_config(folder, lambda config: find_part(config, "stage", "bucket")["options"].update(rows=3))
    with pytest.raises(LoadError, match=r"cannot be loaded: .* to the policy instead; save the pipe again\.$"):
        load(folder)


def test_files_that_are_not_listed_are_never_opened(tmp_path: Path, saved: Path) -> None:
    """Such as those of version control; even a FIFO, for which a reader would wait."""
    folder = tmp_path / "pipe"
    shutil.copytree(saved, folder)
    os.mkfifo(folder / ".gitattributes")
    load(folder, takes=str, gives=str)


def test_links_to_the_right_files_are_followed(tmp_path: Path, saved: Path) -> None:
    """As a cache of Hugging Face has them: the digests of their targets are those of the manifest."""
    folder, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    folder.mkdir()
    shutil.copytree(saved, blobs)
    for file in blobs.iterdir():
        (folder / file.name).symlink_to(file)
    load(folder, takes=str, gives=str)
