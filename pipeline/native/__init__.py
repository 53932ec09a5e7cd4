"""Compile C kernels for every instruction set of a machine, and load the best ones: for plugins with compiled code.

A plugin has a folder with its C sources and a description of them, `native.toml`; see `pipeline.native.compile`. It
compiles them with `python -m pipeline.native FOLDER`, or in the build hook of its wheel, and loads them with
`open_library` and `find_kernels`.
"""

from pipeline.native.compile import SETS, CompileError, KernelSources, compile_in_place, compile_library, read_sources
from pipeline.native.library import (
    SLOW_SETS,
    UnavailableError,
    describe_kernels,
    explain_unavailable,
    find_fast_kernels,
    find_kernels,
    find_team,
    is_switched_off,
    open_library,
)

__all__ = [
    "SETS",
    "SLOW_SETS",
    "CompileError",
    "KernelSources",
    "UnavailableError",
    "compile_in_place",
    "compile_library",
    "describe_kernels",
    "explain_unavailable",
    "find_fast_kernels",
    "find_kernels",
    "find_team",
    "is_switched_off",
    "open_library",
    "read_sources",
]
