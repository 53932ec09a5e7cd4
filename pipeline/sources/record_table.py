"""Records that were parsed once, to be read by number: in memory if they are few, else in a memory-mapped file.

A record is stored as JSON. That is safe to read, holds every input and target, and takes 1 to 2 us to read or write;
`pickle` is as fast but runs code, and one array per field would need a layout of its own for words and for targets.
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

import attrs
import numpy as np

from pipeline.array_file import Array, ArrayWriter, explain_failed_write, read_arrays, write_arrays
from pipeline.data.rows import Example
from pipeline.sources.malformed import Problem

MAX_IN_MEMORY: Final = 8 * 2**20
"""Bytes of records that a table keeps in memory. More are written to a file, in parts of this size."""

_encode: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_decode: Final = json.JSONDecoder().raw_decode


class Parsed(NamedTuple):
    """A record as parsed.

    Attributes:
        file: number of its file.
        line: number of its first line or row, from 1.
        name: name that the record gives itself; empty for none.
        record: the example, or the problem of a malformed record.
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
        self.bad: Final[Sequence[int]] = arrays["bad"].tolist()
        self._starts: Final[Sequence[int]] = arrays["starts"].tolist()
        self._arrays: Final = arrays
        # Items of a memoryview are made four times as fast as those of an array.
        self._ends: Final = arrays["ends"].data
        self._content: Final = arrays["content"].data

    def __len__(self) -> int:
        return len(self._ends)

    def read(self, number: int) -> Parsed:
        """Return a record. A problem in it does not know its location."""
        start = self._ends[number - 1] if number else 0
        # raw_decode leaves out the search for white space around the value, a third of the time of `json.loads`.
        value = _decode(str(self._content[start : self._ends[number]], "utf-8"))[0]
        name, *fields = value
        record = Example(*fields) if len(fields) == 2 else Problem(*fields)
        return Parsed(bisect_right(self._starts, number) - 1, int(self._arrays["lines"][number]), name, record)

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
        OSError: if the file does not exist.
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
        with explain_failed_write(path.parent if path else Path(tempfile.gettempdir())), ExitStack() as stack:
            writer = stack.enter_context(ArrayWriter(path)) if path else None
            for parsed in records:
                parts.append(parsed)
                # Not before the limit is reached: most data sets are small, and need no file.
                if len(parts.content) > MAX_IN_MEMORY:
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
        # Also called when the interpreter exits. A mapped file can be deleted: its pages stay until they are unmapped.
        weakref.finalize(table, _delete_folder, folder, os.getpid())
    return table


@final
class _Parts:
    """Records that are not written yet."""

    def __init__(self) -> None:
        self.content = bytearray()
        self._numbers = {name: array("q") for name in ("ends", "lines", "bad", "starts")}
        self._offset = self._count = self._files = 0

    def append(self, parsed: Parsed) -> None:
        """Append a record."""
        file, line, name, record = parsed
        # Files without records start where the next one starts; a binary search finds the last of equal starts.
        while self._files <= file:
            self._numbers["starts"].append(self._count)
            self._files += 1
        if isinstance(record, Problem):
            self._numbers["bad"].append(self._count)
            self.content += json.dumps([name, *attrs.astuple(record)]).encode()
        else:
            self.content += _encode([name, record.input, record.target]).encode()
        self._numbers["ends"].append(self._offset + len(self.content))
        self._numbers["lines"].append(line)
        self._count += 1

    def get_arrays(self) -> Mapping[str, Array]:
        """Return the records as arrays."""
        numbers = {name: np.array(values, np.int64) for name, values in self._numbers.items()}
        return {"content": np.frombuffer(bytes(self.content), np.uint8), **numbers}

    def move_to(self, writer: ArrayWriter) -> None:
        """Write the records, and forget them."""
        for name, values in self.get_arrays().items():
            writer.append(name, values)
        self._offset += len(self.content)
        self.content = bytearray()
        self._numbers = {name: array("q") for name in self._numbers}


def _delete_folder(folder: str, process: int) -> None:
    # A forked worker has a copy of the table; the file belongs to the process that made it.
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
