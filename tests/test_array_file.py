"""Array files: complete or absent, the same arrays back, and damage detected."""

from contextlib import suppress
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from pipeline.array_file import ArrayFileError, ArrayWriter, read_arrays, replace_file, write_arrays
from support.needs import needs

DTYPES = ["?", "i1", "<i2", ">i4", "<i8", "u1", "<u2", "<u4", ">u8", "<f2", "<f4", "<f8"]
SHAPES = arrays_of.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
EXAMPLE = {"ids": np.arange(5, dtype=np.int32), "ends": np.array([2, 5]), "words": np.empty((0, 2), np.uint8)}


@given(
    arrays=st.dictionaries(
        st.text(max_size=4).filter(lambda name: name != "__metadata__" and name.isprintable()),
        st.sampled_from(DTYPES).flatmap(lambda dtype: arrays_of.arrays(dtype, SHAPES)),
        max_size=4,
    ),
    metadata=st.dictionaries(st.text(max_size=4), st.one_of(st.none(), st.integers(), st.lists(st.text())), max_size=3),
)
def test_arrays_and_metadata_are_read_back(
    arrays: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
    metadata: dict[str, object],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Every type, byte order and shape is read back equal, aligned and read-only."""
    path = tmp_path_factory.mktemp("arrays") / "example"
    write_arrays(path, arrays, metadata)
    file = read_arrays(path)
    assert file.metadata == metadata
    assert set(file.arrays) == set(arrays)
    for name, array in arrays.items():
        mapped = file.arrays[name]
        assert (mapped.dtype, mapped.shape) == (array.dtype.newbyteorder("<"), array.shape)
        assert mapped.tobytes() == array.astype(mapped.dtype).tobytes()
        assert mapped.flags.aligned
        assert not mapped.size or not mapped.flags.writeable


@needs("safetensors")
def test_safetensors_reads_the_same(tmp_path: Path) -> None:
    """The reference implementation of the format finds the same arrays."""
    safetensors = import_module("safetensors.numpy")
    write_arrays(tmp_path / "example", EXAMPLE, {"rows": 2})
    theirs = safetensors.load_file(tmp_path / "example")
    assert {name: array.tolist() for name, array in theirs.items()} == {
        name: array.tolist() for name, array in EXAMPLE.items()
    }


def test_growing_arrays_equal_whole_arrays(tmp_path: Path) -> None:
    """Rows appended in parts give the bytes of arrays written at once, whatever the order of the parts."""
    write_arrays(tmp_path / "whole", EXAMPLE, {"rows": 2})
    with ArrayWriter(tmp_path / "grown") as writer:
        for name, array in EXAMPLE.items():
            writer.append(name, array[:0])
        writer.append("ends", EXAMPLE["ends"][:1])
        writer.append("ids", EXAMPLE["ids"][:2])
        writer.append("ends", EXAMPLE["ends"][1:])
        writer.append("ids", EXAMPLE["ids"][2:].astype(np.int64))
        writer.metadata = {"rows": 2}
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]
    assert (tmp_path / "grown").read_bytes() == (tmp_path / "whole").read_bytes()
    with ArrayWriter(tmp_path / "mixed") as writer:
        writer.append("ids", EXAMPLE["ids"])
        with pytest.raises(ValueError, match=r"^array 'ids' has rows of shape \(\), got rows of shape \(2,\)"):
            writer.append("ids", EXAMPLE["words"])


def test_arrays_are_mapped(tmp_path: Path) -> None:
    """Reading copies nothing: the arrays are views of one memory map."""
    write_arrays(tmp_path / "example", EXAMPLE, {})
    assert all(isinstance(read_arrays(tmp_path / "example").arrays[name].base, np.memmap) for name in ("ids", "ends"))


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    """After an error the old file is unchanged, and no temporary file is left."""
    path = tmp_path / "example"
    write_arrays(path, EXAMPLE, {})
    before = path.read_bytes()
    with pytest.raises(TypeError, match="^array 'names' must have numbers or booleans, got object"):
        write_arrays(path, {"names": np.array([None])}, {})
    with suppress(RuntimeError), ArrayWriter(path) as writer:
        writer.append("ids", EXAMPLE["ids"])
        raise RuntimeError("stop")
    with suppress(RuntimeError), replace_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError("stop")
    assert [file.name for file in tmp_path.iterdir()] == ["example"]
    assert path.read_bytes() == before


def test_damaged_files_are_rejected(tmp_path: Path) -> None:
    """A file truncated at any byte, a longer file and a wrong header raise an error that names the file."""
    path = tmp_path / "example"
    write_arrays(path, EXAMPLE, {"rows": 2})
    whole = path.read_bytes()
    damaged = [whole[:size] for size in range(len(whole))]
    damaged += [whole + b"x", b"\x93NUMPY" + whole, whole.replace(b'"I32"', b'"O32"'), whole.replace(b"[5]", b"[6]")]
    damaged += [whole.replace(b"[16, 36]", b"[16, 96]"), whole.replace(b'"json"', b'"jzon"')]
    damaged += [whole.replace(b'"{\\"rows\\": 2}"', b'"[\\"rows\\", 2]"'), (2**60).to_bytes(8, "little") + whole[8:]]
    for content in damaged:
        assert content != whole
        path.write_bytes(content)
        with pytest.raises(ArrayFileError, match=f"^{path} cannot be read as an array file: .*; delete it"):
            read_arrays(path)
    with pytest.raises(FileNotFoundError):
        read_arrays(tmp_path / "absent")
