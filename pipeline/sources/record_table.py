"""Records that were parsed once, to be read by number: in memory if they are few, else in a memory-mapped file.

A record is stored as JSON. That is safe to read, holds every input and target, and takes 1 to 2 us to read or write;
`pickle` is as fast but runs code, and a column per field would need a layout of its own for words and for targets.
"""

import json
import os
import shutil
import tempfile
import weakref
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, final

import numpy as np

from pipeline.array_file import Array, ArrayWriter, read_arrays, write_arrays
from pipeline.data.rows import Example
from pipeline.sources.malformed import Problem
from pipeline.sources.validated import explain_failed_write

MAX_IN_MEMORY: Final = 8 * 2**20
"""Bytes of records that a table keeps in memory. More are written to a file, in parts of this size."""

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Parsed(NamedTuple):
    """A record as parsed.

    Attributes:
        file: number of its file.
        line: number of its first line or row, from 1.
        name: name that the record gives itself; empty for none.
        record: the example, or the reason why there is none.
    """

    file: int
    line: int
    name: str
    record: Example[Any] | Problem


@final
class RecordTable:
    """Parsed records by number.

    The arrays are `content`, the JSON of all records without gaps; `ends`, the end of each record in it; `lines`, the
    first line of each record; `bad`, the numbers of malformed records; and `starts`, the first record of each file.

    Attributes:
        path: the memory-mapped file; None if the table is in memory.
    """

    def __init__(self, arrays: Mapping[str, Array], path: Path | None) -> None:
        self.path: Final = path
        self.lines: Final = arrays["lines"]
        self.bad: Final = arrays["bad"]
        self.starts: Final[Sequence[int]] = arrays["starts"].tolist()
        self._arrays: Final = arrays
        self._ends: Final = arrays["ends"]
        self._content: Final = memoryview(arrays["content"])

    def __len__(self) -> int:
        return len(self._ends)

    def read(self, number: int) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON value of a record."""
        start = int(self._ends[number - 1]) if number else 0
        return json.loads(self._content[start : int(self._ends[number])].tobytes())

    def get_file(self, number: int) -> int:
        """Return the number of the file of a record."""
        return bisect_right(self.starts, number) - 1

    def save(self, path: Path) -> "RecordTable":
        """Write the table to a file, and return the table that maps the file."""
        with explain_failed_write(path.parent):
            write_arrays(path, self._arrays, {})
            return read_table(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordTable, (self._arrays, self.path)


def read_table(path: Path) -> RecordTable:
    """Map a table that was written before.

    Raises:
        OSError: if there is none.
        ArrayFileError: if it is damaged.
    """
    return RecordTable(read_arrays(path).arrays, path)


def build_table(records: Iterable[Parsed], path: Path | None) -> RecordTable:
    """Store parsed records: in the file if there is a path; else in memory, or in a temporary file if they are many.

    Raises:
        SourceError: if the file cannot be written.
    """
    parts, folder = _Parts(), ""
    try:
        with explain_failed_write(Path(tempfile.gettempdir()) if path is None else path.parent), ExitStack() as stack:
            writer = None if path is None else stack.enter_context(ArrayWriter(path))
            for parsed in records:
                parts.append(parsed)
                if len(parts.content) <= MAX_IN_MEMORY:
                    continue
                if writer is None:
                    folder = tempfile.mkdtemp(prefix="pipeline-records-")
                    path = Path(folder) / "records.arrays"
                    writer = stack.enter_context(ArrayWriter(path))
                parts.move_to(writer)
            if writer is None or path is None:
                return RecordTable(parts.get_arrays(), None)
            parts.move_to(writer)
        table = read_table(path)
    except BaseException:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    if folder:
        weakref.finalize(table, _delete_folder, folder, os.getpid())
    return table


@final
class _Parts:
    """Records that are not written yet."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._ends, self._lines = array("q"), array("q")
        self._bad, self._starts = array("q"), array("q")
        self._offset = self._count = self._files = 0

    def append(self, parsed: Parsed) -> None:
        """Append a record."""
        while self._files <= parsed.file:
            self._starts.append(self._count)
            self._files += 1
        found = parsed.record
        if isinstance(found, Example):
            values = [found.input, found.target, parsed.name] if parsed.name else [found.input, found.target]
            self.content += _encode(values).encode()
        else:
            self._bad.append(self._count)
            self.content += json.dumps(
                {"kind": found.kind, "reason": found.reason, "text": found.text, "lines": found.lines, "name": parsed.name}
            ).encode()
        self._ends.append(self._offset + len(self.content))
        self._lines.append(parsed.line)
        self._count += 1

    def get_arrays(self) -> Mapping[str, Array]:
        """Return the records as arrays."""
        arrays: dict[str, Array] = {"content": np.frombuffer(bytes(self.content), np.uint8)}
        for name in ("ends", "lines", "bad", "starts"):
            arrays[name] = np.array(getattr(self, f"_{name}"), np.int64)
        return arrays

    def move_to(self, writer: ArrayWriter) -> None:
        """Write the records, and forget them."""
        for name, values in self.get_arrays().items():
            writer.append(name, values)
        self._offset += len(self.content)
        self.content = bytearray()
        for name in ("_ends", "_lines", "_bad", "_starts"):
            setattr(self, name, array("q"))


def _delete_folder(folder: str, process: int) -> None:
    # A forked worker has a copy of the table; the file belongs to the process that made it.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
