"""Arrays kept beside data, so that they are made once: a folder of `.npy` files, named by a digest of what made them.

Nothing in such a folder is ever run: the arrays are plain numbers, and the notes beside them are JSON.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from io import BufferedWriter
from pathlib import Path
from typing import Any, Final, TypeAlias, cast, final

import attrs
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from pipeline.errors import SourceError

Array: TypeAlias = NDArray[np.generic]

_NOTES: Final = "kept.json"
_FORMAT: Final = 1
"""The number of this layout: what was written in another is made anew."""


def digest(*parts: str | bytes) -> str:
    """A name for content, as 32 hexadecimal digits; equal parts in equal order have equal names.

    Example:
        >>> digest("ab", "c") == digest("a", "bc"), len(digest())
        (False, 32)
    """
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part
        found.update(len(content).to_bytes(8, "little"))
        found.update(content)
    return found.hexdigest()


@final
@attrs.frozen(eq=False)
class Kept:
    """What one folder holds.

    Attributes:
        folder: where it lies.
        arrays: by name, memory-mapped and read-only.
        notes: what was noted beside them.
    """

    folder: Path
    arrays: Mapping[str, Array]
    notes: Mapping[str, Any]


@final
class Writing:
    """A folder that is being written: whole arrays, or arrays that grow."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sizes: dict[str, int] = {}
        self._growing: dict[str, tuple[BufferedWriter, np.dtype[np.generic], tuple[int, ...], int]] = {}

    def add(self, name: str, array: Array) -> None:
        """Write an array, or more of its rows."""
        if name not in self._growing:
            file = (self._folder / f"{name}.npy").open("wb")
            self._growing[name] = (file, array.dtype, array.shape[1:], 0)
            _write_header(file, array.dtype, (0, *array.shape[1:]))
        file, dtype, rest, rows = self._growing[name]
        file.write(np.ascontiguousarray(array, dtype=dtype).tobytes())
        self._growing[name] = (file, dtype, rest, rows + len(array))

    def path(self, name: str) -> Path:
        """Where to write a file that is no array; it is complete when `finish` is called."""
        self._sizes[name] = 0
        return self._folder / name

    def finish(self, notes: Mapping[str, Any]) -> None:
        """Say how long each array became, and write the notes, last of all."""
        for name, (file, dtype, rest, rows) in self._growing.items():
            file.seek(0)
            _write_header(file, dtype, (rows, *rest))
            self._close(file)
            self._sizes[f"{name}.npy"] = 0
        self._growing.clear()
        sizes = {name: (self._folder / name).stat().st_size for name in self._sizes}
        with (self._folder / _NOTES).open("wb") as file:
            file.write(json.dumps({"format": _FORMAT, "sizes": sizes, "notes": notes}).encode())
            file.flush()
            os.fsync(file.fileno())

    def close(self) -> None:
        """Close what is still open."""
        for file, *_ in self._growing.values():
            file.close()

    @staticmethod
    def _close(file: BufferedWriter) -> None:
        file.flush()
        os.fsync(file.fileno())
        file.close()


@final
@attrs.frozen
class Store:
    """A folder of what is kept.

    Attributes:
        folder: where; made when something is written.
    """

    folder: Path = attrs.field(converter=Path)

    def load(self, name: str) -> Kept | None:
        """What is kept under a name; None if there is nothing, or nothing whole that was written here.

        Example:
            >>> Store("no-such-folder").load("lengths-0")
            >>>
        """
        folder = self.folder / name
        try:
            notes = json.loads((folder / _NOTES).read_bytes())
            if notes["format"] != _FORMAT:
                return None
            sizes: Mapping[str, int] = notes["sizes"]
            if any((folder / file).stat().st_size != size for file, size in sizes.items()):
                return None
            arrays = {file.removesuffix(".npy"): _read(folder / file) for file in sizes if file.endswith(".npy")}
            return Kept(folder, arrays, notes["notes"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def names(self, prefix: str) -> list[str]:
        """The names that begin so, the latest first."""
        found = [path for path in self.folder.glob(f"{prefix}*") if not path.name.endswith(".part")]
        return [path.name for path in sorted(found, key=lambda path: -path.stat().st_mtime_ns)]

    @contextmanager
    def writing(self, name: str) -> Generator[Writing]:
        """Write what is kept under a name: it is there whole, or not at all, whoever else writes it.

        Raises:
            SourceError: if the folder cannot be written.
        """
        folder = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(prefix=f"{name}-", suffix=".part", dir=self.folder))
        except OSError as error:
            msg = f"what is to be kept cannot be written to {str(self.folder)!r}: {error}; name another folder."
            raise SourceError(msg, folder=str(self.folder)) from error
        writing = Writing(made)
        try:
            yield writing
            _put(made, folder)
        finally:
            writing.close()
            shutil.rmtree(made, ignore_errors=True)

    def save(self, name: str, arrays: Mapping[str, Array], notes: Mapping[str, Any]) -> Kept:
        """Keep whole arrays, and give them back as they will be read."""
        with self.writing(name) as writing:
            for array, values in arrays.items():
                writing.add(array, values)
            writing.finish(notes)
        return self.load(name) or Kept(self.folder / name, arrays, notes)


def _put(made: Path, folder: Path) -> None:
    """Give a finished folder its name. What stands there already is broken, or another's that is as good."""
    try:
        made.rename(folder)
    except OSError:
        away = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", suffix=".part", dir=folder.parent))
        try:
            folder.rename(away / "old")
            made.rename(folder)
        except OSError:  # another process was faster, and what it wrote is the same
            if not folder.exists():
                raise
        finally:
            shutil.rmtree(away, ignore_errors=True)


def _write_header(file: BufferedWriter, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    # numpy leaves room in the header for the first axis to grow: it is as long for 0 rows as for any number.
    npy.write_array_header_1_0(file, {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})


def _read(file: Path) -> Array:
    with file.open("rb") as opened:
        npy.read_magic(opened)
        shape, _, dtype = npy.read_array_header_1_0(opened)
        if 0 in shape:  # there is nothing to map
            return np.empty(shape, dtype)
    return cast("Array", np.load(file, mmap_mode="r", allow_pickle=False))
