"""The compiled kernels: found, checked and called, or the reason why not."""

import ctypes
import os
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple, final

import torch

from pipeline_recurrent.native.compile import LIBRARY, digest

SLOW = ("sse2", "generic")
"""Instruction sets with which torch's own kernels are as fast."""

_Run = Callable[[ctypes.Array["Job"], int, int, int, int, int | None], None]


@final
class Job(ctypes.Structure):
    """One direction of one layer, as kernels.c describes it."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("cell", "reverse", "depth", "wide", "times", "rows", "steps", "keep")),
        *((name, ctypes.c_int64) for name in ("gate_stride", "state_stride")),
        *((name, ctypes.c_void_p) for name in ("alive", "weight", "panels", "bias", "gates", "cells", "states")),
        *((name, ctypes.c_void_p) for name in ("h0", "c0", "h1", "c1")),
        *((name, ctypes.c_void_p) for name in ("d_states", "d_gates", "d_h", "d_c", "before")),
    )


class Kernels(NamedTuple):
    """The kernels of one instruction set."""

    name: str
    lanes: int
    """Floats a vector: what hidden sizes are rounded up to."""
    run: _Run
    team: int | None
    """Where the function is that calls another on several threads."""

    def __call__(self, jobs: Sequence[Job], *, back: bool, chunks: int, threads: int) -> None:
        """Do all jobs; other Python threads go on meanwhile."""
        self.run((Job * len(jobs))(*jobs), len(jobs), back, chunks, threads, self.team)


class UnavailableError(Exception):
    """The kernels cannot be used; the message is the reason."""


@cache
def opened() -> ctypes.CDLL:
    """The library beside the source it was made from.

    Raises:
        UnavailableError: if there is none, it does not load, or it was made from another source.
    """
    if not LIBRARY.exists():
        msg = f"it is not compiled: there is no {LIBRARY}, which python -m pipeline_recurrent.native makes"
        raise UnavailableError(msg)
    try:
        library = ctypes.CDLL(str(LIBRARY))
        library.pipeline_digest.restype = library.pipeline_set.restype = ctypes.c_char_p
        made_from = str(library.pipeline_digest(), "ascii")
    except (OSError, AttributeError) as error:
        msg = f"it does not load: {error}"
        raise UnavailableError(msg) from error
    if made_from != digest():
        msg = (
            f"{LIBRARY} was compiled from another source ({made_from}, here is {digest()}); "
            "python -m pipeline_recurrent.native makes it anew"
        )
        raise UnavailableError(msg)
    return library


@cache
def kernels(name: str | None = None) -> Kernels:
    """The kernels of an instruction set: this machine's best one, or one by name, which it has to be able to run.

    Raises:
        UnavailableError: if there is no library, or none of that name in it.
    """
    library = opened()
    name = name or str(library.pipeline_set(), "ascii")
    try:
        run, lanes = library[f"pipeline_run_{name}"], library[f"pipeline_lanes_{name}"]
    except AttributeError as error:
        msg = f"{LIBRARY} holds nothing for {name}"
        raise UnavailableError(msg) from error
    run.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 4, ctypes.c_void_p]
    run.restype = None
    lanes.restype = ctypes.c_int64
    return Kernels(name, lanes(), run, _team(library))


def instructions() -> str:
    """The instruction set that is used on this machine.

    Raises:
        UnavailableError: if there is none to be used.
    """
    return kernels().name


def _team(library: ctypes.CDLL) -> int | None:
    """OpenMP's call from the runtime that torch itself has loaded, or else our own, which starts threads each time.

    Torch's threads wait for work by spinning a while: any others would have to share the cores with them.
    """
    for name in ("libtorch_cpu.so", "libtorch_cpu.dylib"):
        try:
            parallel = ctypes.CDLL(str(Path(torch.__file__).with_name("lib") / name)).GOMP_parallel
        except (OSError, AttributeError):
            continue
        return ctypes.cast(parallel, ctypes.c_void_p).value
    return ctypes.cast(library.pipeline_team, ctypes.c_void_p).value


def available(dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> str | None:
    """None if the kernels can be used for tensors of this kind, else the reason why not."""
    if os.environ.get("PIPELINE_NATIVE") == "0":
        return "it is switched off by PIPELINE_NATIVE=0"
    if dtype is not torch.float32:
        return f"it computes in torch.float32, not in {dtype}"
    if torch.device(device).type != "cpu":
        return f"it runs on a CPU, not on {device}"
    return trouble()


@cache
def trouble() -> str | None:
    """What is the matter with the kernels, looked up once: it is asked before every batch."""
    try:
        name = kernels().name
    except UnavailableError as error:
        return str(error)
    return f"this machine has {name} at most, with which torch's own kernels are as fast" if name in SLOW else None
