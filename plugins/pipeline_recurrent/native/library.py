"""Find, check and load the compiled kernels; or give the reason why they cannot be used."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, final

import torch

from pipeline import native
from pipeline.native import (
    SLOW_SETS,
    UnavailableError,
    find_kernels,
    find_team,
    is_switched_off,
    read_sources,
)

SOURCES: Final = read_sources(Path(__file__).parent)
LIBRARY = SOURCES.library
COMMAND: Final = "python -m pipeline_recurrent.native"

_Function = Callable[[ctypes.Array["Job"], int, int, int, int, int | None], None]


@final
class Job(ctypes.Structure):
    """One direction of one layer: the struct of the same name in job.h, where the fields are described."""

    # Fields that a job does not set are zero: null pointers for tensors that its cell does not have.
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("cell", "reverse", "depth", "wide", "times", "rows", "steps", "keep")),
        *((name, ctypes.c_int64) for name in ("gate_stride", "state_stride", "output_stride")),
        *((name, ctypes.c_void_p) for name in ("alive", "weight", "panels", "operands", "bias", "gates")),
        *((name, ctypes.c_void_p) for name in ("cells", "states")),
        *((name, ctypes.c_void_p) for name in ("output", "h0", "c0", "h1", "c1")),
        *((name, ctypes.c_void_p) for name in ("d_states", "d_gates", "d_h", "d_c", "before", "d_bias")),
    )


class Kernels(NamedTuple):
    """The kernels of one instruction set.

    Attributes:
        name: the instruction set.
        lanes: floats per vector: hidden sizes are rounded up to a multiple.
        function: the C function of kernels.c.
        low_function: the same for operands in bfloat16, if the set has products of these.
        amx: whether products of bfloat16 and of bytes may use AMX, which this machine has.
        team: address of a function that calls another one on several threads.
    """

    name: str
    lanes: int
    function: _Function
    low_function: _Function | None
    amx: bool
    team: int | None

    def run(
        self, jobs: Sequence[Job], *, backward: bool, chunks: int, threads: int, dtype: torch.dtype = torch.float32
    ) -> None:
        """Do all jobs, with operands of a dtype that `computes`. ctypes releases the interpreter lock meanwhile."""
        function = self.function if dtype is torch.float32 else self.low_function
        assert function is not None
        function((Job * len(jobs))(*jobs), len(jobs), backward, chunks, threads, self.team)

    def computes(self, dtype: torch.dtype) -> bool:
        """Return whether there are kernels whose products have operands of a dtype."""
        return dtype is torch.float32 or (dtype is torch.bfloat16 and self.low_function is not None)


@cache
def open_library() -> ctypes.CDLL:
    """Load the library next to its source.

    Raises:
        UnavailableError: if there is no library, it does not load, or it was compiled from another source.
    """
    return native.open_library(SOURCES, COMMAND, path=LIBRARY)


@cache
def load_kernels(instruction_set: str | None = None) -> Kernels:
    """Load the kernels of an instruction set: the best one of this machine, or one by name that it can run.

    If the compiler did not know the best one, a narrower one is loaded. AMX is used beside the best one; not beside one
    that is named.

    Raises:
        UnavailableError: if there is no library, or it has no kernels of that name.
    """
    library = open_library()
    found = find_kernels(library, "pipeline_run", instruction_set)
    lanes = library[f"pipeline_lanes_{found}"]
    lanes.restype = ctypes.c_int64
    function = _find_function(library, f"pipeline_run_{found}")
    assert function is not None
    low = _find_function(library, f"pipeline_run_{found}_low")
    permit_amx = library[f"pipeline_amx_{found}"]
    permit_amx.restype = ctypes.c_int64
    amx = instruction_set is None and bool(permit_amx())
    return Kernels(found, lanes(), function, low, amx, find_team(library))


def _find_function(library: ctypes.CDLL, name: str) -> _Function | None:
    try:
        function = library[name]
    except AttributeError:
        return None
    # Without these, ctypes would pass Python integers as 32-bit ints, and cut addresses in half.
    function.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p]
    function.restype = None
    return function


def instructions() -> str:
    """Return the instruction set that is used on this machine.

    Raises:
        UnavailableError: if the kernels cannot be used.
    """
    return load_kernels().name


def describe_instructions() -> str:
    """Return the same with AMX, if that is used beside it.

    Raises:
        UnavailableError: if the kernels cannot be used.
    """
    kernels = load_kernels()
    return f"{kernels.name} and amx" if kernels.amx else kernels.name


@cache
def has_amx() -> bool:
    """Return whether the kernels use AMX on this machine. Cached: it is asked before every batch."""
    return explain_unavailable() is None and load_kernels().amx


def available(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> str | None:
    """Return None if the kernels can compute with tensors of this kind, else the reason why not."""
    if is_switched_off():
        return "it is switched off by PIPELINE_NATIVE=0"
    if dtype not in {torch.float32, torch.bfloat16}:
        return f"it computes in torch.float32 and torch.bfloat16, not in {dtype}"
    if torch.device(device).type != "cpu":
        return f"it runs on a CPU, not on {device}"
    reason = explain_unavailable()
    if reason is None and not load_kernels().computes(dtype):
        return f"it computes {dtype} in torch.float32, because {load_kernels().name} has no products of {dtype}"
    return reason


@cache
def explain_unavailable() -> str | None:
    """Return why the library cannot be used, if so. Cached: it is asked before every batch."""
    try:
        name = load_kernels().name
    except UnavailableError as error:
        return str(error).removesuffix(".")
    return f"this machine has only {name}, with which torch's own kernels are as fast" if name in SLOW_SETS else None
