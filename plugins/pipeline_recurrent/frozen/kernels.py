"""The inference kernels of native/inference.c: their structs, and how they are called."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NamedTuple, final

from pipeline_recurrent.native.library import load_kernels, open_library

_Pointer = ctypes.c_void_p
_Integer = ctypes.c_int64
_NO_MEMORY: Final = 1

AMX_WORDS: Final = 16
"""Words in a row of AMX's registers: operands are filled up to a multiple."""


@final
class Matrix(ctypes.Structure):
    """A matrix with its bias. For this and the next structs, see those of the same names in inference.c."""

    _fields_ = (*((name, _Pointer) for name in ("panels", "bias", "scales", "offsets")), ("words", _Integer))


@final
class Direction(ctypes.Structure):
    """One direction of one layer."""

    _fields_ = (("input", Matrix), ("state", Matrix), ("table", _Pointer), ("table_stride", _Integer))


@final
class Layer(ctypes.Structure):
    """One layer."""

    _fields_ = (
        ("features", _Integer),
        ("weight", _Pointer),
        ("shift", _Pointer),
        ("epsilon", ctypes.c_double),
        ("directions", _Pointer),
    )


@final
class Stack(ctypes.Structure):
    """All layers."""

    _fields_ = (
        *((name, _Integer) for name in ("cell", "precision", "count", "directions", "residual")),
        *((name, _Integer) for name in ("hidden", "panels", "vecs", "amx")),
        ("layers", _Pointer),
    )


@final
class Batch(ctypes.Structure):
    """One batch."""

    _fields_ = (
        *((name, _Integer) for name in ("batch", "rows", "times", "steps")),
        *((name, _Pointer) for name in ("alive", "order", "x", "ids", "h0", "c0", "h1", "c1", "output")),
    )


class InferenceKernels(NamedTuple):
    """The inference kernels of one instruction set.

    Attributes:
        lanes: floats per vector.
        has_bfloat16: whether it multiplies numbers in bfloat16.
        amx: whether products of bfloat16 and of bytes use AMX.
        function: the C function.
        team: address of a function that calls another one on several threads.
    """

    lanes: int
    has_bfloat16: bool
    amx: bool
    function: Callable[..., int]
    team: int | None

    def run(self, stack: Stack, batch: Batch, *, chunks: int, threads: int) -> None:
        """Compute a batch. ctypes releases the interpreter lock meanwhile.

        Raises:
            MemoryError: if there was no memory for the kernels' buffers.
            IndexError: if an id is not in the table.
        """
        problem = self.function(ctypes.byref(stack), ctypes.byref(batch), chunks, threads, self.team)
        if problem == _NO_MEMORY:
            msg = f"no memory for the buffers of {batch.steps} steps; use smaller batches."
            raise MemoryError(msg)
        if problem:
            msg = "an id is out of range; switch the checks on, which name it: set_checks(True)."
            raise IndexError(msg)


@cache
def load_inference_kernels(instruction_set: str | None = None) -> InferenceKernels:
    """Load the kernels of an instruction set: the best one of this machine, or one by name that it can run.

    Raises:
        UnavailableError: if there is no library, or it has no kernels of that name.
    """
    kernels, library = load_kernels(instruction_set), open_library()
    function, has_bfloat16 = library[f"pipeline_infer_{kernels.name}"], library[f"pipeline_bfloat16_{kernels.name}"]
    function.argtypes = [_Pointer, _Pointer, _Integer, _Integer, _Pointer]
    function.restype = ctypes.c_int
    has_bfloat16.restype = _Integer
    return InferenceKernels(kernels.lanes, bool(has_bfloat16()), kernels.amx, function, kernels.team)


def make_array(structure: type[ctypes.Structure], values: Sequence[ctypes.Structure]) -> ctypes.Array[ctypes.Structure]:
    """Return structs in an array, as C reads them."""
    return (structure * len(values))(*values)
