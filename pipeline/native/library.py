"""Find, check and load a library of compiled kernels; or give the reason why it cannot be used."""

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch

from pipeline.native.compile import SETS, KernelSources

SLOW_SETS: Final = frozenset({"sse2"})
"""Instruction sets with which torch's own kernels, which find AVX at run time, are as fast."""

_SWITCH: Final = "PIPELINE_NATIVE"


class UnavailableError(Exception):
    """The kernels cannot be used; the message is the reason."""


def is_switched_off() -> bool:
    """Return whether compiled kernels are switched off by PIPELINE_NATIVE=0 in the environment."""
    return os.environ.get(_SWITCH) == "0"


def open_library(
    sources: KernelSources, command: str, *, path: Path | None = None, digest: str | None = None
) -> ctypes.CDLL:
    """Load the library of some sources.

    Args:
        sources: what it was compiled from.
        command: the command that compiles it, for errors.
        path: the file; by default that next to the sources.
        digest: the hash that the library must have; by default that of the sources.

    Raises:
        UnavailableError: if there is no library, it does not load, or it was compiled from another source.
    """
    path = sources.library if path is None else path
    if not path.exists():
        msg = f"it is not compiled: there is no {path}; {command} makes it"
        raise UnavailableError(msg)
    try:
        library = ctypes.CDLL(str(path))
        library.pipeline_digest.restype = library.pipeline_set.restype = ctypes.c_char_p
        found = str(library.pipeline_digest(), "ascii")
    except (OSError, AttributeError) as error:
        msg = f"it does not load: {error}"
        raise UnavailableError(msg) from error
    # A library of another source may expect another struct, and would read wild addresses.
    digest = sources.compute_digest() if digest is None else digest
    if found != digest:
        msg = f"{path} was compiled from another source ({found}, not {digest}); run {command} again"
        raise UnavailableError(msg)
    return library


def find_kernels(library: ctypes.CDLL, prefix: str, instruction_set: str | None = None) -> str:
    """Return the instruction set whose kernels to use: the best one of this machine, or the one with a name.

    If the compiler did not know the best one, a narrower one is returned.

    Args:
        library: an open library.
        prefix: the name of a function without the name of the set.
        instruction_set: the set, if it is not to be chosen.

    Raises:
        UnavailableError: if the library has no such kernels.
    """
    name = instruction_set or str(library.pipeline_set(), "ascii")
    wider_first = [each for sets in SETS.values() if name in sets for each in reversed(sets)]
    names = [name] if instruction_set else list(dict.fromkeys(wider_first[wider_first.index(name) :]))
    found = next((each for each in names if hasattr(library, f"{prefix}_{each}")), None)
    if found is None:
        msg = f"{getattr(library, '_name', 'the library')} has no kernels for {name}"
        raise UnavailableError(msg)
    return found


def find_fast_kernels(library: ctypes.CDLL, prefix: str, instruction_set: str | None = None) -> str:
    """Return what `find_kernels` does, unless torch's own kernels are as fast as those of this machine.

    Raises:
        UnavailableError: if they are, and no set was named, or the library has no such kernels.
    """
    name = find_kernels(library, prefix, instruction_set)
    if name in SLOW_SETS and instruction_set is None:
        msg = f"this machine has only {name}, with which torch's own kernels are as fast"
        raise UnavailableError(msg)
    return name


def explain_unavailable(load: Callable[[], object]) -> str | None:
    """Return why a function cannot load its kernels, if so."""
    try:
        load()
    except UnavailableError as error:
        return str(error).removesuffix(".")
    return None


def describe_kernels(reason: str | None) -> str:
    """Return a status line: that compiled kernels compute in place of torch, or the reason why they do not."""
    if is_switched_off():
        reason = "it is switched off by PIPELINE_NATIVE=0"
    return "compiled kernels, in float32 on a CPU" if reason is None else f"torch's operations: no kernels, {reason}"


def find_team(library: ctypes.CDLL) -> int | None:
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
