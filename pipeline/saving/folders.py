"""Write a folder completely or not at all: readers see the old folder or the new one, never a mixture.

The new files are written to a temporary folder beside the old one, synced to the disk, and moved into place with one
system call where the platform has one that exchanges two folders (Linux, macOS). Elsewhere the old folder is renamed
first; for a moment there is no folder of that name, and `open_folder` waits for it.

Source: Linux manual, renameat2(2), RENAME_EXCHANGE; Pillai et al. 2014, "All File Systems Are Not Created Equal", OSDI,
for the syncs that make such a move durable.
"""

import ctypes
import errno
import os
import shutil
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pipeline.errors import FolderError, LoadError
from pipeline.saving.files import explain_os_errors

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
_RENAME_SWAP: Final = 2
"""The same flag of macOS's renamex_np."""

_WAIT: Final = 0.5
"""Seconds for which a reader waits for a folder that is being replaced by two renames."""


@contextmanager
def write_folder(
    path: str | os.PathLike[str], *, replace: bool = True, marker: str = "manifest.json"
) -> Generator[Path]:
    """Yield a new temporary folder, and move it to `path` when the block ends without an error.

    After an error, the temporary folder is deleted and `path` is as before. If the process is killed, `path` is as
    before too, and the next writer of it deletes what was left.

    Args:
        path: the folder to write. Its parent is made if it does not exist. A symbolic link to a folder is followed.
        replace: whether a folder that exists may be replaced.
        marker: a file that the block writes. A folder is replaced only if it has this file, or is empty: other folders
            may be a user's own.

    Raises:
        FolderError: if the folder cannot be written, exists and may not be replaced, or is being written by another
            process or thread.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "model"
        >>> with write_folder(path, marker="a.txt") as folder:
        ...     _ = (folder / "a.txt").write_text("done")
        >>> [file.name for file in path.iterdir()], [file.name for file in path.parent.iterdir()]
        (['a.txt'], ['model'])
    """
    target = Path(os.path.realpath(path))
    with explain_os_errors(path, "write"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            check_target(target, replace=replace, marker=marker)
            _delete_leftovers(target)
            temporary = target.with_name(f".{target.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
            # Not mkdtemp: its folders can be read by their owner only, and models are shared between users.
            temporary.mkdir()
            try:
                yield temporary
                if not (temporary / marker).is_file():
                    msg = f"the block must write {marker!r}, which shows that the folder may be replaced; write it."
                    raise FolderError(msg, path=str(path), marker=marker)
                _sync_tree(temporary)
                # Again, since the block may have taken long.
                check_target(target, replace=replace, marker=marker)
                _move(temporary, target)
                _sync_folder(target.parent)
            finally:
                # After a success this is the old folder.
                shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def open_folder(path: str | os.PathLike[str]) -> Generator[int | None]:
    """Open a folder for reading: files opened relative to it belong together, even if it is replaced meanwhile.

    Yields:
        The open folder for `read_regular_file`; None on platforms where files cannot be opened relative to a folder.

    Raises:
        FolderError: if it does not exist, is not a folder, or cannot be read.
    """
    if os.open not in os.supports_dir_fd:
        yield None
        return
    with explain_os_errors(path, "read"):
        handle = _open_patiently(Path(path))
    try:
        yield handle
    except (FolderError, LoadError) as error:
        # Files are opened by their names in the folder, which do not tell where they are.
        msg = f"{os.fspath(path)!r}: {error}"
        raise type(error)(msg, **error.details) from error
    finally:
        os.close(handle)


def was_replaced(path: str | os.PathLike[str], folder: int | None) -> bool:
    """Return whether a folder was replaced after it was opened, so that its files may be deleted already."""
    if folder is None:
        return False
    try:
        return not os.path.samestat(Path(path).stat(), os.fstat(folder))
    except FileNotFoundError:
        return True


def _open_patiently(path: Path) -> int:
    deadline = time.monotonic() + _WAIT
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            # Only a replacement by two renames leaves such a folder.
            if not list(path.parent.glob(f".{path.name}.*.old")) or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def check_target(target: Path, *, replace: bool, marker: str) -> None:
    """Reject a folder that `write_folder` would not replace.

    Raises:
        FolderError: saying why.
    """
    if not target.exists():
        return
    if not target.is_dir():
        msg = f"{str(target)!r} must be a folder, but is a file; choose another path, or delete the file."
        raise FolderError(msg, path=str(target))
    if not replace:
        msg = f"{str(target)!r} exists already; choose another path, or allow replacing it."
        raise FolderError(msg, path=str(target))
    if not (target / marker).is_file() and any(target.iterdir()):
        msg = (
            f"{str(target)!r} has other files, and no {marker!r}, so that replacing it could delete your own; choose "
            "another path, or delete the folder yourself."
        )
        raise FolderError(msg, path=str(target), marker=marker)


@contextmanager
def _lock(target: Path) -> Generator[None]:
    """Hold the lock of a folder, in a file beside it that is deleted at the end.

    The operating system releases the lock if the process dies.
    """
    file = target.with_name(f".{target.name}.lock")
    handle = _take_lock(file)
    if handle is None:
        msg = f"{str(target)!r} is being written by another process or thread; wait for it, or choose another path."
        raise FolderError(msg, path=str(target))
    try:
        yield
    finally:
        # Deleted while it is locked: a writer that waits for this file's lock notices that it is gone.
        file.unlink(missing_ok=True)
        os.close(handle)


def _take_lock(file: Path) -> int | None:
    """Return the locked file, or None if another writer has it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            if not _try_lock(handle):
                os.close(handle)
                return None
            # The previous owner may have deleted the file after it was opened here: another one may have the name now.
            if os.path.samestat(os.fstat(handle), file.stat()):
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _try_lock(handle: int) -> bool:
    if sys.platform == "win32":
        import msvcrt  # noqa: PLC0415 - exists on Windows only

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl  # noqa: PLC0415 - does not exist on Windows

    try:
        # Belongs to the open file, so that two threads of one process exclude each other too.
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _delete_leftovers(target: Path) -> None:
    """Delete temporary folders of writers that were killed; the lock shows that no writer is alive."""
    for left in target.parent.glob(f".{_escape(target.name)}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    for left in target.parent.glob(f".{_escape(target.name)}.*.old"):
        # Killed between two renames: the old folder is the only complete one.
        if target.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.rename(target)


def _escape(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder):
        for name in names:
            _sync_file(Path(parent, name))
        _sync_folder(Path(parent))


def _sync_file(file: Path) -> None:
    with file.open("r+b") as stream:
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot sync folders.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(handle)


def _move(temporary: Path, target: Path) -> None:
    """Move the new folder to its place. An old folder has the temporary name afterwards."""
    if not target.exists():
        temporary.rename(target)
    elif not _exchange(temporary, target):
        old = temporary.with_suffix(".old")
        target.rename(old)
        try:
            temporary.rename(target)
        except BaseException:
            old.rename(target)
            raise
        with suppress(OSError):
            old.rename(temporary)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; return False where the platform or the file system cannot."""
    if sys.platform == "win32":
        return False
    library = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
        result = library.renameat2(*arguments)
    elif sys.platform == "darwin" and hasattr(library, "renamex_np"):
        result = library.renamex_np(os.fsencode(one), os.fsencode(other), _RENAME_SWAP)
    else:
        return False
    if result == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}:
        return False
    raise OSError(number, os.strerror(number), str(other))
