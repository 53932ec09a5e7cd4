"""Tensors are read as they were written, by this library and by safetensors."""

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.errors import LoadError, SaveError
from pipeline.saving.tensors import parse_tensors, read_tensors, write_tensors

DTYPES = [
    torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32, torch.uint64, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz,
]  # fmt: skip


THEIRS: Any = safetensors.torch


def have_equal_bytes(one: Tensor, other: Tensor) -> bool:
    """Return whether two tensors are equal in type, shape and every bit, NaN included."""
    same = one.dtype == other.dtype and one.shape == other.shape
    flat = [tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (one, other) if tensor.numel()]
    return same and (not flat or torch.equal(flat[0], flat[1]))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_type_is_read_as_written(tmp_path: Path, dtype: torch.dtype) -> None:
    """By both libraries, to the last bit."""
    tensor = torch.tensor([[0, 1, 1], [1, 0, 1]], dtype=torch.uint8).to(dtype)
    write_tensors(tmp_path / "a", {"a": tensor})
    assert have_equal_bytes(read_tensors(tmp_path / "a")["a"], tensor)
    assert have_equal_bytes(THEIRS.load_file(tmp_path / "a")["a"], tensor)


@given(shapes=st.lists(st.lists(st.integers(0, 5), max_size=3), max_size=4))
def test_every_shape_is_read_as_written(tmp_path_factory: pytest.TempPathFactory, shapes: list[list[int]]) -> None:
    """Scalars and empty tensors too, by both libraries, in the order of their names."""
    file = tmp_path_factory.mktemp("shapes") / "a"
    tensors = {f"t{index}": torch.randn(shape) for index, shape in enumerate(shapes)}
    write_tensors(file, tensors)
    found, theirs = read_tensors(file), THEIRS.load_file(file)
    assert set(found) == set(theirs) == set(tensors)
    assert all(have_equal_bytes(found[name], tensors[name]) for name in tensors)
    assert all(have_equal_bytes(theirs[name], tensors[name]) for name in tensors)


def test_files_of_the_library_are_read(tmp_path: Path) -> None:
    """Aligned or not."""
    tensors = {"a": torch.tensor([True]), "b": torch.randn(3), "c": torch.randn(2, 2).double()}
    THEIRS.save_file(tensors, tmp_path / "a", {"format": "pt"})
    found = read_tensors(tmp_path / "a")
    assert all(have_equal_bytes(found[name], tensors[name]) for name in tensors)


def test_nan_and_infinity_keep_their_bits(tmp_path: Path) -> None:
    """Weights may be anything."""
    tensor = torch.tensor([float("nan"), float("inf"), -0.0, 1e-45])
    write_tensors(tmp_path / "a", {"a": tensor})
    assert have_equal_bytes(read_tensors(tmp_path / "a")["a"], tensor)


def test_tensors_that_are_not_contiguous_are_read_as_written(tmp_path: Path) -> None:
    """Transposed, with steps, expanded, conjugated."""
    base = torch.arange(12.0).view(3, 4)
    tensors = {"t": base.t(), "s": base[:, ::2], "e": torch.ones(1).expand(3), "c": torch.tensor([1 + 2j]).conj()}
    write_tensors(tmp_path / "a", tensors)
    found = read_tensors(tmp_path / "a")
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_tensor_with_two_names_is_stored_once_and_read_as_one(tmp_path: Path) -> None:
    """As tied weights are; other views of its memory are not the same tensor."""
    weight = torch.randn(100, 4)
    write_tensors(tmp_path / "a", {"a": weight, "b": weight, "c": weight.detach(), "t": weight.t(), "r": weight[:50]})
    found = read_tensors(tmp_path / "a")
    assert found["a"] is found["b"] is found["c"]
    assert torch.equal(found["t"], weight.t())
    assert found["r"].data_ptr() != found["a"].data_ptr()
    assert (tmp_path / "a").stat().st_size < 2_500 * 4 + 1_000


def test_empty_tensors_are_not_one(tmp_path: Path) -> None:
    """They have no memory by which they could be compared."""
    write_tensors(tmp_path / "a", {"a": torch.zeros(0), "b": torch.zeros(0)})
    found = read_tensors(tmp_path / "a")
    assert found["a"] is not found["b"]


def test_tensors_are_aligned_and_can_be_changed(tmp_path: Path) -> None:
    """As new ones are: a matrix product may round differently at other addresses."""
    write_tensors(tmp_path / "a", {"a": torch.ones(3), "b": torch.ones(16), "c": torch.ones(5), "d": torch.ones(32)})
    found = read_tensors(tmp_path / "a")
    assert all(tensor.data_ptr() % 64 == 0 for tensor in found.values())
    found["a"] += 1
    assert torch.equal(found["a"], torch.full((3,), 2.0))


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (torch.eye(2).to_sparse(), "of layout torch.sparse_coo"),
        (torch.ones(2, device="meta"), "without values, on the meta device"),
        (torch.ones(2, dtype=torch.complex128), "of type torch.complex128"),
    ],
)
def test_other_tensors_are_not_written(tmp_path: Path, tensor: Tensor, match: str) -> None:
    """Rather than written as something else."""
    with pytest.raises(SaveError, match=f"tensor 'a' cannot be saved: it is a tensor {match}"):
        write_tensors(tmp_path / "a", {"a": tensor})
    assert not (tmp_path / "a").exists()


def format_file(header: object, data: bytes = b"", length: int | None = None) -> memoryview:
    """Return a file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return memoryview(bytearray((len(text) if length is None else length).to_bytes(8, "little") + text + data))


def describe_tensor(begin: object, end: object, shape: object = (1,), dtype: object = "F32") -> dict[str, object]:
    """Return an entry of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


HOSTILE: dict[str, tuple[object, bytes, int | None]] = {
    "a header longer than the file": ({}, b"", 1 << 62),
    "a header cut short": ({}, b"", 1),
    "a header that is not an object": ([], b"", None),
    "a header with a doubled key": (b'{"a": 1, "a": 1}', b"", None),
    "a deep header": (b"[" * 10_000 + b"]" * 10_000, b"", None),
    "no entry": ({"a": 1}, b"", None),
    "an entry too much": ({"a": {**describe_tensor(0, 4), "code": "x"}}, b"1234", None),
    "an unknown type": ({"a": describe_tensor(0, 4, dtype="PICKLE")}, b"1234", None),
    "a type that is no text": ({"a": describe_tensor(0, 4, dtype=["F32"])}, b"1234", None),
    "a gap": ({"a": describe_tensor(4, 8)}, b"12345678", None),
    "an overlap": ({"a": describe_tensor(0, 4), "b": describe_tensor(0, 4)}, b"1234", None),
    "an end outside": ({"a": describe_tensor(0, 4)}, b"123", None),
    "bytes of no tensor": ({"a": describe_tensor(0, 4)}, b"12345", None),
    "a negative offset": ({"a": describe_tensor(-4, 0)}, b"", None),
    "a negative size": ({"a": describe_tensor(0, 4, shape=[-1, -1])}, b"1234", None),
    "a float as size": ({"a": describe_tensor(0, 4, shape=[1.0])}, b"1234", None),
    "true as size": ({"a": describe_tensor(0, 4, shape=[True])}, b"1234", None),
    "a shape that overflows": ({"a": describe_tensor(0, 4, shape=[1 << 33, 1 << 31])}, b"1234", None),
    "a shape of other size": ({"a": describe_tensor(0, 4, shape=[2])}, b"1234", None),
    "three offsets": ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4, 4]}}, b"1234", None),
    "thousands of axes": ({"a": describe_tensor(0, 4, shape=[1] * 5_000)}, b"1234", None),
    "metadata that is not text": ({"__metadata__": {"a": 1}}, b"", None),
    "an alias of nothing": ({"__metadata__": {"aliases": '{"a": "b"}'}}, b"", None),
    "aliases that are a list": ({"__metadata__": {"aliases": "[]"}}, b"", None),
    "an alias of a known name": (
        {"a": describe_tensor(0, 4), "__metadata__": {"aliases": '{"a": "a"}'}}, b"1234", None,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers_are_rejected(name: str) -> None:
    """Before anything is allocated for what they claim."""
    with pytest.raises(LoadError, match="is not a valid"):
        parse_tensors(format_file(*HOSTILE[name]), "a.safetensors")


def test_a_short_file_is_rejected() -> None:
    """It has not even a header's size."""
    with pytest.raises(LoadError, match="is not a valid safetensors file"):
        parse_tensors(memoryview(bytearray(b"123")), "a")
