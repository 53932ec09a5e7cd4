"""Read regular files of a folder with limits; see `folders` for writing."""

import errno
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import sha256
from io import FileIO
from mmap import ACCESS_COPY, mmap
from typing import Final

import attrs
import torch

from pipeline.errors import FolderError, LoadError, PipelineError

_CHUNK: Final = 1 << 20
"""Bytes that are read and then hashed, while they are in the processor's cache. 64 KB and 16 MB were slower."""

MAPPED: Final = 16 << 20
"""Files of this size or more are mapped into memory instead of read: only they take noticeable time."""

# Without O_NONBLOCK, opening a FIFO would wait for a writer forever. Windows has neither flag, but needs O_BINARY.
_FLAGS: Final = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


@attrs.frozen(eq=False)
class FileContent:
    """Content of a file, read once.

    Attributes:
        data: the bytes, beginning at a multiple of 64 in memory.
        digest: their SHA-256 in hexadecimal digits.
    """

    data: memoryview
    digest: str


def read_regular_file(path: str | os.PathLike[str], *, limit: int, folder: int | None = None) -> FileContent:
    """Read a regular file completely, and compute its digest on the way.

    The bytes in memory are those of the digest. Files of 16 MB or more are mapped: like any mapped file, they must not
    be overwritten in place while they are in use. `write_folder` never does that.

    Args:
        path: the file; a symbolic link is followed.
        limit: the largest size in bytes.
        folder: an open folder, to which the path is relative.

    Raises:
        FolderError: if the file does not exist, or cannot be read.
        LoadError: if it is not a regular file, is larger than the limit, or changes its size while it is read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> file = Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = file.write_bytes(b"abc")
        >>> read_regular_file(file, limit=3).digest[:16]
        'ba7816bf8f01cfea'
    """
    name = os.fspath(path)
    with explain_os_errors(name, "read"):
        handle = os.open(name, _FLAGS, dir_fd=folder) if folder is not None else os.open(name, _FLAGS)
        try:
            return _read(handle, name, limit)
        finally:
            os.close(handle)


def _map(handle: int, name: str, size: int) -> FileContent:
    """Map a large file into memory, and compute its digest there: reading it into new memory takes twice as long.

    The mapping is private: writing to it does not change the file.
    """
    before = os.fstat(handle)
    data = memoryview(mmap(handle, size, access=ACCESS_COPY))
    digest = sha256(data).hexdigest()
    after = os.fstat(handle)
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or size != after.st_size:
        raise _make_changed_error(name, size)
    return FileContent(data, digest)


def _make_changed_error(name: str, size: int) -> LoadError:
    msg = f"{name!r} of {size:,} bytes changed while it was read; wait until it is written, and try again."
    return LoadError(msg, file=name, size=size)


def _read(handle: int, name: str, limit: int) -> FileContent:
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        msg = f"{name!r} must be a regular file, got {_name_kind(status.st_mode)}; replace it by a file."
        raise LoadError(msg, file=name)
    size = status.st_size
    if size > limit:
        msg = f"{name!r} must have at most {limit:,} bytes, got {size:,}; check where the file comes from."
        raise LoadError(msg, file=name, size=size, limit=limit)
    if size >= MAPPED:
        return _map(handle, name, size)
    # Memory of torch begins at a multiple of 64, so that weights need no copy, and is not filled with zeros first.
    data: memoryview = torch.empty(size, dtype=torch.uint8, device="cpu").numpy().data
    digest, done = sha256(), 0
    file = FileIO(handle, closefd=False)
    while done < size and (count := file.readinto(data[done : done + _CHUNK])):
        digest.update(data[done : done + count])
        done += count
    if done < size or file.read(1):
        raise _make_changed_error(name, size)
    return FileContent(data, digest.hexdigest())


def _name_kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


@contextmanager
def explain_os_errors(path: str | os.PathLike[str], action: str) -> Generator[None]:
    """Turn errors of the operating system into a `FolderError` that names the file and the fix.

    Raises:
        FolderError: for every OSError that is not an error of this library already.
    """
    try:
        yield
    except PipelineError:
        raise
    except OSError as error:
        fixes = {
            errno.ENOSPC: "free some space, or choose another disk",
            errno.EDQUOT: "free some space, or choose another disk",
            errno.EFBIG: "raise the limit of file sizes (ulimit -f), or choose another disk",
            errno.EACCES: "change its access rights, or choose another folder",
            errno.EPERM: "change its access rights, or choose another folder",
            errno.EROFS: "choose a folder on a disk that can be written",
            errno.ENOENT: "check the path",
        }
        fix = fixes.get(error.errno or 0, "check the path and the disk")
        msg = f"{os.fspath(path)!r} cannot be {'written' if action == 'write' else action}: {error.strerror}; {fix}."
        raise FolderError(msg, path=os.fspath(path), errno=error.errno) from error
