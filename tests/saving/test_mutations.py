"""Damage of a saved folder: every random change of its bytes is found, but for the model card, which is never read."""

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from pipeline.errors import FolderError, LoadError
from pipeline.saving.reading import read_folder
from support.saved import make_classifier, read_bytes

COUNT: Final = 10_000 if os.environ.get("PIPELINE_TESTS_LONG") else 1_000


def flip_bit(files: dict[str, bytes], draw: random.Random) -> None:
    """Flip one bit of a file."""
    name = draw.choice(sorted(files))
    content = bytearray(files[name])
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    files[name] = bytes(content)


def change_byte(files: dict[str, bytes], draw: random.Random) -> None:
    """Change one byte of the manifest or the configuration, which are small and seldom drawn by their size."""
    name = draw.choice(["manifest.json", "pipeline.json"])
    content = bytearray(files[name])
    place = draw.randrange(len(content))
    content[place] = (content[place] + draw.randrange(1, 256)) % 256
    files[name] = bytes(content)


def truncate(files: dict[str, bytes], draw: random.Random) -> None:
    """Cut off the end of a file."""
    name = draw.choice(sorted(files))
    files[name] = files[name][: draw.randrange(len(files[name]))]


def extend(files: dict[str, bytes], draw: random.Random) -> None:
    """Append some bytes to a file."""
    name = draw.choice(sorted(files))
    files[name] += draw.randbytes(draw.randrange(1, 9))


def insert(files: dict[str, bytes], draw: random.Random) -> None:
    """Insert a byte, such as white space."""
    name = draw.choice(sorted(files))
    place = draw.randrange(len(files[name]))
    files[name] = files[name][:place] + draw.choice([b" ", b"\n", b"0", b"\x00"]) + files[name][place:]


def delete_bytes(files: dict[str, bytes], draw: random.Random) -> None:
    """Delete some bytes within a file."""
    name = draw.choice(sorted(files))
    start = draw.randrange(len(files[name]))
    files[name] = files[name][:start] + files[name][start + draw.randrange(1, 9) :]


def zero_block(files: dict[str, bytes], draw: random.Random) -> None:
    """Fill a block with zeros, as a power failure does; of a file that has other bytes there."""
    name = draw.choice(sorted(files))
    start = draw.choice([place for place, byte in enumerate(files[name]) if byte])
    files[name] = files[name][:start] + bytes(min(512, len(files[name]) - start)) + files[name][start + 512 :]


def swap(files: dict[str, bytes], draw: random.Random) -> None:
    """Exchange two files."""
    one, other = draw.sample(sorted(files), 2)
    files[one], files[other] = files[other], files[one]


def delete(files: dict[str, bytes], draw: random.Random) -> None:
    """Delete a file."""
    del files[draw.choice(sorted(files))]


def double_line(files: dict[str, bytes], draw: random.Random) -> None:
    """Write a line of a JSON file twice, and so its key."""
    name = draw.choice(sorted(name for name in files if name.endswith(".json")))
    lines = files[name].split(b"\n")
    place = draw.randrange(len(lines) - 1)
    files[name] = b"\n".join([*lines[: place + 1], *lines[place:]])


def exchange_with_other(files: dict[str, bytes], draw: random.Random, others: dict[str, bytes]) -> None:
    """Replace a file by that of another saved pipe."""
    name = draw.choice(sorted(name for name in files if others[name] != files[name]))
    files[name] = others[name]


MUTATIONS: Final[list[Callable[[dict[str, bytes], random.Random], None]]] = [
    flip_bit, change_byte, truncate, extend, insert, delete_bytes, zero_block, swap, delete, double_line,
]  # fmt: skip


def test_every_mutation_is_found(tmp_path: Path) -> None:
    """The count is larger in the session `long`."""
    make_classifier().save(tmp_path / "pipe")
    make_classifier().save(tmp_path / "other")
    whole, others = read_bytes(tmp_path / "pipe"), read_bytes(tmp_path / "other")
    # For people, who may edit it; see test_card.
    del whole["README.md"], others["README.md"]
    read_folder(tmp_path / "pipe")
    undetected: list[str] = []
    for number in range(COUNT):
        draw = random.Random(number)
        files = dict(whole)
        if number % 11 == 10:
            exchange_with_other(files, draw, others)
        else:
            MUTATIONS[number % 11](files, draw)
        # Most of the time goes into files: write only those that differ from the last time.
        _write(tmp_path / "pipe", files)
        try:
            read_folder(tmp_path / "pipe")
            undetected.append(f"mutation {number}")
        except (LoadError, FolderError):
            pass
    sys.stdout.write(f"{COUNT:,} mutations, {len(undetected)} not found\n")
    assert undetected == []


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name in {*(file.name for file in folder.iterdir()), *files}:
        file = folder / name
        if name not in files:
            file.unlink()
        elif not file.exists() or file.read_bytes() != files[name]:
            file.write_bytes(files[name])


def test_a_damaged_folder_is_named(tmp_path: Path) -> None:
    """The error says which file, and what to do."""
    make_classifier().save(tmp_path / "pipe")
    file = tmp_path / "pipe" / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    with pytest.raises(LoadError, match=r"'weights\.safetensors' is damaged: it has .* save the pipe again"):
        read_folder(tmp_path / "pipe")
    shutil.rmtree(tmp_path / "pipe")
    with pytest.raises(FolderError, match="cannot be read: No such file"):
        read_folder(tmp_path / "pipe")
