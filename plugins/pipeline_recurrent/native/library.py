"""Find, check and load the compiled kernels; or give the reason why they cannot be used."""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, final

import torch

from pipeline_recurrent.native.compile import LIBRARY, SETS, compute_digest

SLOW_SETS = {"sse2"}
"""Instruction sets with which torch's own kernels, which find AVX at run time, are as fast."""

_Function = Callable[[ctypes.Array["Job"], int, int, int, int, int | None], None]


@final
class Job(ctypes.Structure):
    """One direction of one layer: the struct of the same name in kernels.c, where the fields are described."""

    # Fields that a job does not set are zero: null pointers for tensors that its cell does not have.
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("cell", "reverse", "depth", "wide", "times", "rows", "steps", "keep")),
        *((name, ctypes.c_int64) for name in ("gate_stride", "state_stride")),
        *((name, ctypes.c_void_p) for name in ("alive", "weight", "panels", "bias", "gates", "cells", "states")),
        *((name, ctypes.c_void_p) for name in ("output", "h0", "c0", "h1", "c1")),
        *((name, ctypes.c_void_p) for name in ("d_states", "d_gates", "d_h", "d_c", "before")),
    )


class Kernels(NamedTuple):
    """The kernels of one instruction set.

    Attributes:
        name: the instruction set.
        lanes: floats per vector: hidden sizes are rounded up to a multiple.
        function: the C function of kernels.c.
        low_function: the same for operands in bfloat16, if the set has products of these.
        team: address of a function that calls another one on several threads.
    """

    name: str
    lanes: int
    function: _Function
    low_function: _Function | None
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


class UnavailableError(Exception):
    """The kernels cannot be used; the message is the reason."""


@cache
def open_library() -> ctypes.CDLL:
    """Load the library next to its source.

    Raises:
        UnavailableError: if there is no library, it does not load, or it was compiled from another source.
    """
    if not LIBRARY.exists():
        msg = f"it is not compiled: there is no {LIBRARY}; python -m pipeline_recurrent.native makes it"
        raise UnavailableError(msg)
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.pipeline_digest.restype = library.pipeline_set.restype = ctypes.c_char_p
        digest = str(library.pipeline_digest(), "ascii")
    except (OSError, AttributeError) as error:
        msg = f"it does not load: {error}"
        raise UnavailableError(msg) from error
    # A library of another source may expect another struct, and would read wild addresses.
    if digest != compute_digest():
        msg = (
            f"{LIBRARY} was compiled from another source ({digest}, not {compute_digest()}); "
            "run python -m pipeline_recurrent.native again"
        )
        raise UnavailableError(msg)
    return library


@cache
def load_kernels(instruction_set: str | None = None) -> Kernels:
    """Load the kernels of an instruction set: the best one of this machine, or one by name that it can run.

    If the compiler did not know the best one, a narrower one is loaded.

    Raises:
        UnavailableError: if there is no library, or it has no kernels of that name.
    """
    library = open_library()
    name = instruction_set or str(library.pipeline_set(), "ascii")
    wider_first = [each for sets in SETS.values() if name in sets for each in reversed(sets)]
    names = [name] if instruction_set else list(dict.fromkeys(wider_first[wider_first.index(name) :]))
    found = next((each for each in names if hasattr(library, f"pipeline_run_{each}")), None)
    if found is None:
        msg = f"{LIBRARY} has no kernels for {name}"
        raise UnavailableError(msg)
    lanes = library[f"pipeline_lanes_{found}"]
    lanes.restype = ctypes.c_int64
    function = _find_function(library, f"pipeline_run_{found}")
    assert function is not None
    low = _find_function(library, f"pipeline_run_{found}_low")
    return Kernels(found, lanes(), function, low, _find_team(library))


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


def _find_team(library: ctypes.CDLL) -> int | None:
    """Return the address of OpenMP's `GOMP_parallel` in torch, or else of our own, which starts threads at each call.

    Torch's threads spin for a while after their work. Threads of another runtime would have to share the cores with
    them.
    """
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            parallel = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / name)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        return ctypes.cast(parallel, ctypes.c_void_p).value
    return ctypes.cast(library.pipeline_team, ctypes.c_void_p).value


def available(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> str | None:
    """Return None if the kernels can compute with tensors of this kind, else the reason why not."""
    if os.environ.get("PIPELINE_NATIVE") == "0":
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
