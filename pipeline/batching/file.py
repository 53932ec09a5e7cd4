"""Arrays kept in one file, read where they lie: memory-mapped, nothing unpickled."""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.lib import format as npy

from pipeline.batching.numbers import IntArray
from pipeline.errors import PlanError

_MAGIC: Final = b"pipeline plan 1\n"


def write(path: Path, facts: Mapping[str, object], arrays: Mapping[str, IntArray]) -> None:
    """Write facts, as JSON, and arrays, as `.npy` one behind the other.

    It is written beside, and renamed when it is whole: nobody ever sees a part of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    said = json.dumps({"facts": facts, "arrays": list(arrays)}).encode()
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(_MAGIC + len(said).to_bytes(8, "little") + said)
            for array in arrays.values():
                npy.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[dict[str, object], dict[str, IntArray]]:
    """The facts, and the arrays by name, mapped into memory.

    Raises:
        PlanError: for a file of another kind, or one that is not whole.
    """
    with path.open("rb") as stream:
        size = path.stat().st_size
        if stream.read(len(_MAGIC)) != _MAGIC:
            raise _refused(path, "it is no plan of this library, or one of another version")
        try:
            said = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            arrays = {str(name): _mapped(stream, path, size) for name in said["arrays"]}
            facts = dict(said["facts"])
        except (ValueError, KeyError, TypeError, EOFError) as error:
            raise _refused(path, f"it is damaged ({error})") from error
        if stream.tell() != size:
            raise _refused(path, f"it has {size:,} bytes, but what it names ends at {stream.tell():,}")
    return facts, arrays


def _mapped(stream: BinaryIO, path: Path, size: int) -> IntArray:
    npy.read_magic(stream)
    shape, _, kind = npy.read_array_header_1_0(stream)
    begins = stream.tell()
    ends = begins + int(np.prod(shape)) * kind.itemsize
    if kind.kind != "i" or ends > size:
        msg = f"an array of {shape} numbers of {kind} at byte {begins:,} does not fit {size:,} bytes"
        raise ValueError(msg)
    stream.seek(ends)
    if ends == begins:
        return np.empty(shape, kind)
    return np.memmap(path, dtype=kind, mode="r", offset=begins, shape=shape)


def _refused(path: Path, why: str) -> PlanError:
    msg = f"{path} cannot be read as a plan: {why}; delete it, and it is made anew."
    return PlanError(msg, path=path)
