"""Tensors by name in a safetensors file, each stored once however many names it has.

Reading is stricter than the format: tensors must fill the file without gaps or overlaps, in order.

Source: Hugging Face 2022, "safetensors", https://github.com/huggingface/safetensors, section "Format". Aliases are
ours: the header's metadata has one JSON text under the key "aliases", from each further name of a tensor to its first
one. Other tools read such a file without the further names.
"""

import json
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import BinaryIO, Final, cast

import attrs
import torch
from torch import Tensor

from pipeline.errors import LoadError, SaveError
from pipeline.saving.files import explain_os_errors, read_regular_file
from pipeline.saving.json_files import Json, parse_json

_CODES: Final[Mapping[torch.dtype, str]] = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.uint16: "U16", torch.int16: "I16",
    torch.uint32: "U32", torch.int32: "I32", torch.uint64: "U64", torch.int64: "I64", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64", torch.complex64: "C64",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ", torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
}  # fmt: skip
"""The name that safetensors gives to each type that can be stored."""

_DTYPES: Final = {code: dtype for dtype, code in _CODES.items()}

_ALIGNMENT: Final = 64
"""torch's own tensors begin at a multiple of this. Matrix products may round differently at other addresses, and a
loaded model must give the same answers to the last bit."""

MAX_HEADER: Final = 100_000_000
"""Limit of the header's bytes, the same as in the safetensors library."""

MAX_FILE: Final = 1 << 40
"""Limit of a file's bytes: a terabyte."""


@attrs.frozen
class _Entry:
    """Type, shape and place of a tensor in the file's data."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file.

    Tensors with the same memory, shape and type are stored once, and `read_tensors` returns one object for them.

    Raises:
        SaveError: if a tensor is sparse, quantized, without memory (on the meta device), or of a type that the format
            does not have.
        FolderError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "weights.safetensors"
        >>> weight = torch.ones(2, 3)
        >>> write_tensors(file, {"embed.weight": weight, "head.weight": weight})
        >>> found = read_tensors(file)
        >>> found["embed.weight"] is found["head.weight"], file.stat().st_size
        (True, 216)
    """
    for name, tensor in tensors.items():
        _check_tensor(name, tensor)
    first: dict[tuple[object, ...], str] = {}
    aliases: dict[str, str] = {}
    for name, tensor in tensors.items():
        owner = first.setdefault(_identify(name, tensor), name)
        if owner != name:
            aliases[name] = owner
    # The format allows no gaps. Tensors that end at a multiple of 64 bytes come first, so that the next one is aligned;
    # these are nearly all bytes of a model. The others are few and small, and copied when they are read.
    order = sorted(
        (name for name in tensors if name not in aliases), key=lambda name: tensors[name].nbytes % _ALIGNMENT > 0
    )
    with explain_os_errors(file, "write"), file.open("wb") as stream:
        stream.write(_format_header(tensors, order, aliases))
        for name in order:
            _write_tensor(stream, tensors[name])


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file, on the CPU.

    Raises:
        LoadError: if the file is damaged, or not a safetensors file.
        FolderError: if it cannot be read.
    """
    return parse_tensors(read_regular_file(file, limit=MAX_FILE).data, str(file))


def parse_tensors(data: memoryview, name: str) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file's bytes. They share the memory of `data` where it is aligned.

    Args:
        data: the bytes of the file.
        name: the file's name, for errors.

    Raises:
        LoadError: as in `read_tensors`.
    """
    header, start = _parse_header(data, name)
    metadata = header.pop("__metadata__", {})
    size = len(data) - start
    found: dict[str, Tensor] = {}
    position = 0
    entries = {key: _parse_entry(entry, key, name) for key, entry in header.items()}
    for key, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.begin != position or entry.end > size:
            raise _make_error(name, f"tensor {key!r:.80} does not follow the one before it, or the end is missing")
        found[key] = _view_tensor(data, start, entry)
        position = entry.end
    if position != size:
        raise _make_error(name, f"{size - position:,} bytes belong to no tensor")
    # In the order of the header, in which they were written.
    ordered = {key: found[key] for key in entries}
    return ordered | _parse_aliases(metadata, ordered, name)


def _check_tensor(name: str, tensor: Tensor) -> None:
    kind = None
    if tensor.layout is not torch.strided:
        kind = f"a tensor of layout {tensor.layout}"
    elif tensor.device.type == "meta":
        kind = "a tensor without values, on the meta device"
    elif tensor.dtype not in _CODES:
        kind = f"a tensor of type {tensor.dtype}"
    elif type(tensor) not in {Tensor, torch.nn.Parameter, torch.nn.Buffer}:
        kind = f"a tensor of class {type(tensor).__name__}"
    if kind is not None:
        msg = f"tensor {name!r} cannot be saved: it is {kind}; convert it to a plain tensor of numbers."
        raise SaveError(msg, tensor=name)


def _identify(name: str, tensor: Tensor) -> tuple[object, ...]:
    """Return a value that is equal for tensors with the same elements in memory."""
    if tensor.numel() == 0:
        # Empty tensors have no memory that could be shared.
        return (name,)
    return (
        tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), tensor.is_conj(),
        tensor.is_neg(),
    )  # fmt: skip


def _format_header(tensors: Mapping[str, Tensor], order: list[str], aliases: Mapping[str, str]) -> bytes:
    header: dict[str, object] = {
        "__metadata__": {"format": "pt", **({"aliases": json.dumps(aliases)} if aliases else {})}
    }
    begin = 0
    for name in order:
        tensor = tensors[name]
        end = begin + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write_tensor(stream: BinaryIO, tensor: Tensor) -> None:
    plain = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if plain.numel():
        # NumPy has no bfloat16: the bytes are viewed as integers.
        stream.write(plain.view(torch.uint8).numpy().data)


def _parse_header(data: memoryview, name: str) -> tuple[dict[str, Json], int]:
    length = int.from_bytes(data[:8], "little")
    # Compared with the real size before anything is allocated: the number may be anything.
    if len(data) < 8 or length > min(len(data) - 8, MAX_HEADER):
        raise _make_error(name, f"its header claims {length:,} bytes, and the file has {len(data):,}")
    header = parse_json(bytes(data[8 : 8 + length]), name)
    if not isinstance(header, dict):
        raise _make_error(name, "its header is not a JSON object")
    return header, 8 + length


def _parse_entry(entry: Json, key: str, name: str) -> _Entry:
    what = f"the header's entry {key!r:.80}"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _make_error(name, f"{what} must have dtype, shape and data_offsets")
    dtype = _DTYPES.get(str(entry["dtype"]))
    shape, offsets = entry["shape"], entry["data_offsets"]
    if dtype is None or not _is_sizes(shape) or not _is_sizes(offsets) or len(cast("list[int]", offsets)) != 2:
        raise _make_error(name, f"{what} has an unknown type, or numbers that are not sizes")
    sizes, (begin, end) = cast("list[int]", shape), cast("list[int]", offsets)
    # Python's integers cannot overflow, as a product of 64-bit numbers could.
    if prod(sizes) * dtype.itemsize != end - begin:
        raise _make_error(name, f"{what} has a shape that does not match its {end - begin:,} bytes")
    return _Entry(dtype, tuple(sizes), begin, end)


def _is_sizes(value: Json) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= 64
        and all(type(size) is int and 0 <= size < 1 << 48 for size in value)
    )


def _view_tensor(data: memoryview, start: int, entry: _Entry) -> Tensor:
    count = prod(entry.shape)
    if count == 0:
        return torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    flat = torch.frombuffer(data, dtype=torch.uint8, count=entry.end - entry.begin, offset=start + entry.begin)
    if flat.data_ptr() % _ALIGNMENT:
        flat = flat.clone()
    return flat.view(entry.dtype).reshape(entry.shape)


def _parse_aliases(metadata: Json, tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _make_error(name, "its metadata must be texts by name")
    aliases = parse_json(str(metadata.get("aliases", "{}")).encode("utf-8", "replace"), name)
    if not isinstance(aliases, dict):
        raise _make_error(name, "its aliases must be names by name")
    for alias, owner in aliases.items():
        if alias in tensors or not isinstance(owner, str) or owner not in tensors:
            raise _make_error(name, f"alias {alias!r:.80} must be another name of a tensor in the file")
    return {alias: tensors[cast("str", owner)] for alias, owner in aliases.items()}


def _make_error(name: str, reason: str) -> LoadError:
    msg = f"{name!r} is not a valid safetensors file: {reason}; save it again."
    return LoadError(msg, file=name, reason=reason)
