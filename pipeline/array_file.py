"""Files of named arrays: written atomically, memory-mapped when read.

The format is safetensors, so other tools can open these files too: eight bytes for the size of a JSON header, the
header, then the arrays without gaps. Nothing in such a file is ever executed; pickles and object arrays do not exist in
it. Writing the format takes a few lines and saves a dependency.

Source: Hugging Face 2022, "safetensors", https://github.com/huggingface/safetensors, section "Format". Our metadata is
one JSON text under the key "json", because safetensors allows only strings there.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Final, Self, TypeAlias, cast, final

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError, SourceError

Array: TypeAlias = npt.NDArray[np.generic]

_CODES: Final[Mapping[str, str]] = {
    "b1": "BOOL", "i1": "I8", "i2": "I16", "i4": "I32", "i8": "I64", "f2": "F16", "f4": "F32", "f8": "F64",
    "u1": "U8", "u2": "U16", "u4": "U32", "u8": "U64",
}  # fmt: skip
"""numpy's name of each type that can be stored, and the name that safetensors gives it."""

_DTYPES: Final = {code: np.dtype(f"<{name}") for name, code in _CODES.items()}


class ArrayFileError(PipelineError, ValueError):
    """A file that is not an array file, or is damaged."""


@final
@attrs.frozen(eq=False)
class ArrayFile:
    """Content of an array file.

    Attributes:
        path: the file.
        arrays: the arrays by name, read-only and memory-mapped: parts that are not used are not read from disk.
        metadata: the JSON values that were written with them.
    """

    path: Path
    arrays: Mapping[str, Array]
    metadata: Mapping[str, object]


@contextmanager
def replace_file(path: Path) -> Generator[Path]:
    """Yield a temporary path in the same folder, and rename it to `path` when the block ends without an error.

    Readers see the old file or the complete new one, never a part. After an error the temporary file is deleted. If
    several processes write the same path, the last one wins.

    Example:
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replace_file(folder / "notes.txt") as temporary:
        ...     _ = temporary.write_text("done")
        >>> [file.name for file in folder.iterdir()]
        ['notes.txt']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not mkstemp: its files can be read by their owner only, and caches are shared between users.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def explain_failed_write(folder: Path) -> Generator[None]:
    """Turn an error of the system while a cache is written, such as a full disk, into a `SourceError`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, PipelineError):
            raise
        msg = f"the cache cannot be written to {str(folder)!r}: {error}; free some space, or name another folder."
        raise SourceError(msg, folder=str(folder)) from error


def write_arrays(path: Path, arrays: Mapping[str, Array], metadata: Mapping[str, object]) -> None:
    """Write arrays and JSON metadata to one file, atomically.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "lengths.arrays"
        >>> write_arrays(path, {"lengths": np.array([3, 1])}, {"source": "a.txt"})
        >>> file = read_arrays(path)
        >>> file.arrays["lengths"].tolist(), file.metadata
        ([3, 1], {'source': 'a.txt'})
    """
    shapes = {name: (array.dtype, array.shape) for name, array in arrays.items()}
    with _open_to_write(path, shapes, metadata) as (stream, order):
        for name in order:
            stream.write(_get_bytes(arrays[name], arrays[name].dtype))


@final
class ArrayWriter:
    """Write arrays that grow along their first axis to one file.

    Each array is collected in an unnamed temporary file, which the system deletes even if the process is killed. The
    file at `path` appears when the `with` block ends without an error.

    Attributes:
        metadata: JSON values to write with the arrays; may be set until the block ends.

    Example:
        >>> path = Path(tempfile.mkdtemp()) / "tokens.arrays"
        >>> with ArrayWriter(path) as writer:
        ...     writer.append("ids", np.array([1, 2]))
        ...     writer.append("ids", np.array([3]))
        >>> read_arrays(path).arrays["ids"].tolist()
        [1, 2, 3]
    """

    def __init__(self, path: Path, metadata: Mapping[str, object] | None = None) -> None:
        self.metadata: Mapping[str, object] = metadata or {}
        self._path = path
        self._files = ExitStack()
        self._parts: dict[str, tuple[BinaryIO, np.dtype[np.generic], tuple[int, ...]]] = {}

    def append(self, name: str, array: Array) -> None:
        """Append rows to the array of that name. Its first rows fix the type and the other axes."""
        if name not in self._parts:
            file = self._files.enter_context(self._open_part())
            self._parts[name] = (file, array.dtype, (0, *array.shape[1:]))
        file, dtype, shape = self._parts[name]
        if array.shape[1:] != shape[1:]:
            msg = f"array {name!r} has rows of shape {shape[1:]}, got rows of shape {array.shape[1:]}."
            raise ValueError(msg)
        file.write(_get_bytes(array, dtype))
        self._parts[name] = (file, dtype, (shape[0] + len(array), *shape[1:]))

    def _open_part(self) -> BinaryIO:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=self._path.parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._files:
            if kind is not None:
                return
            shapes = {name: (dtype, shape) for name, (_, dtype, shape) in self._parts.items()}
            with _open_to_write(self._path, shapes, self.metadata) as (stream, order):
                # The sizes are known only now, so that no array could be written at its place before.
                for name in order:
                    self._parts[name][0].seek(0)
                    shutil.copyfileobj(self._parts[name][0], stream, 1 << 20)


def read_arrays(path: Path) -> ArrayFile:
    """Map an array file into memory.

    Raises:
        ArrayFileError: if the file has another format, or is truncated, or longer than its header says.
        OSError: if the file does not exist or cannot be read.
    """
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        begin = int.from_bytes(stream.read(8), "little") + 8
        if not 8 < begin <= size:
            raise _build_error(path, f"it is truncated or has another format ({size:,} bytes)")
        try:
            header: dict[str, dict[str, object]] = json.loads(stream.read(begin - 8))
            metadata: dict[str, object] = dict(json.loads(str(header.pop("__metadata__")["json"])))
            # An empty range cannot be mapped.
            content = np.memmap(stream, np.uint8, mode="r") if size > begin else np.empty(begin, np.uint8)
            arrays: dict[str, Array] = {}
            for name, entry in header.items():
                arrays[name] = _view_array(content[begin:], entry)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _build_error(path, f"its header is damaged or of another format ({error})") from error
    total = begin + sum(array.nbytes for array in arrays.values())
    if total != size:
        raise _build_error(path, f"it has {size:,} bytes, but its header describes {total:,}")
    return ArrayFile(path, arrays, metadata)


@contextmanager
def _open_to_write(
    path: Path, shapes: Mapping[str, tuple["np.dtype[np.generic]", tuple[int, ...]]], metadata: Mapping[str, object]
) -> Generator[tuple[BinaryIO, list[str]]]:
    """Open a temporary file for `path`, write the header, and yield the file and the order in which arrays follow."""
    # Largest items first: every array then begins at a multiple of its item size, although there are no gaps.
    order = sorted(shapes, key=lambda name: -shapes[name][0].itemsize)
    header: dict[str, object] = {"__metadata__": {"json": json.dumps(metadata)}}
    offset = 0
    for name in order:
        dtype, shape = shapes[name]
        code = _CODES.get(dtype.str[1:])
        if code is None:
            msg = f"array {name!r} must have numbers or booleans, got {dtype}."
            raise TypeError(msg)
        end = offset + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with replace_file(path) as temporary, temporary.open("xb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        yield stream, order
        # Without this, a power failure after the rename may leave a file of the right name full of zeros.
        stream.flush()
        os.fsync(stream.fileno())


def _view_array(content: npt.NDArray[np.uint8], entry: Mapping[str, object]) -> Array:
    """Return one array as a view of the mapped file; numpy rejects offsets, shapes and types that do not agree."""
    begin, end = cast("list[int]", entry["data_offsets"])
    if not 0 <= begin <= end <= len(content):
        msg = f"an array at bytes {begin:,} to {end:,} does not fit {len(content):,} bytes of data"
        raise ValueError(msg)
    array = content[begin:end].view(_DTYPES[str(entry["dtype"])]).reshape(cast("list[int]", entry["shape"]))
    # As a plain array: slices of a memmap are ten times slower to make (1.2 us, not 0.13).
    return np.asarray(array)


def _get_bytes(array: Array, dtype: "np.dtype[np.generic]") -> memoryview:
    """Return the bytes of an array of that type, little-endian, without a copy where possible."""
    return np.ascontiguousarray(array, dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data


def _build_error(path: Path, reason: str) -> ArrayFileError:
    msg = f"{path} cannot be read as an array file: {reason}; delete it, so that it is written again."
    return ArrayFileError(msg, path=path, reason=reason)
