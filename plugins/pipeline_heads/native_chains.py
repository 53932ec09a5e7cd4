"""Sums and maxima over all paths of linear chains, by the compiled kernels of native/chains.c."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, final

import torch
from torch import Tensor

from pipeline import native
from pipeline.extend import name_transform
from pipeline.native import (
    find_fast_kernels,
    is_switched_off,
    open_library,
    read_sources,
)
from pipeline_heads.torch_chains import Chain, Counts

SOURCES: Final = read_sources(Path(__file__).parent / "native")
COMMAND: Final = "python -m pipeline_heads.native"

_PREFIX: Final = "pipeline_chain_sum"


@final
class _Job(ctypes.Structure):
    """The struct `Chain` of native/chains.c, where the fields are described."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("classes", "times", "rows", "steps")),
        *((name, ctypes.c_void_p) for name in ("sizes", "emissions", "transitions", "start", "end")),
        *((name, ctypes.c_void_p) for name in ("alphas", "totals", "weights")),
        *((name, ctypes.c_void_p) for name in ("d_emissions", "d_transitions", "d_start", "d_end", "best")),
    )


@cache
def load_functions(instruction_set: str | None = None) -> Mapping[str, Callable[[object], int]]:
    """Load the functions of an instruction set: the best one of this machine, or one by name that it can run.

    Raises:
        UnavailableError: if there is no library, or it has no kernels of that name.
    """
    library = open_library(SOURCES, COMMAND)
    name = find_fast_kernels(library, _PREFIX, instruction_set)
    functions: dict[str, Callable[[object], int]] = {}
    for task in ("sum", "count", "best"):
        function = library[f"pipeline_chain_{task}_{name}"]
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_int
        functions[task] = function
    return functions


@cache
def explain_unavailable() -> str | None:
    """Return why the kernels cannot be used, if so."""
    return native.explain_unavailable(load_functions)


def describe() -> str:
    """Return a line about what computes chains on this machine, and why."""
    return native.describe_kernels(explain_unavailable())


def computes(chain: Chain) -> bool:
    """Return whether the kernels can compute a chain."""
    first = chain.emissions
    return (
        not torch.compiler.is_compiling()
        and first.device.type == "cpu"
        and all(each.dtype is torch.float32 for each in chain)
        and not is_switched_off()
        and explain_unavailable() is None
        and not name_transform()
    )


def compute_alphas(chain: Chain, sizes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """As `torch_chains.compute_alphas`; but the sums up to a step are relative to the largest one of its row."""
    alphas = torch.empty_like(chain.emissions)
    totals = alphas.new_empty(sizes[0] if sizes else 0)
    _run("sum", chain, sizes, alphas=alphas, totals=totals)
    return alphas, totals


def count_expected(chain: Chain, alphas: Tensor, totals: Tensor, weights: Tensor, sizes: Sequence[int]) -> Counts:
    """As `torch_chains.count_expected`."""
    counts = Counts(*(torch.empty_like(each) for each in chain))
    emissions, transitions, start, end = counts
    _run(
        "count",
        chain,
        sizes,
        alphas=alphas,
        totals=totals,
        weights=weights,
        d_emissions=emissions,
        d_transitions=transitions,
        d_start=start,
        d_end=end,
    )
    return counts


def find_best_paths(chain: Chain, sizes: Sequence[int]) -> Tensor:
    """As `torch_chains.find_best_paths`."""
    best = torch.empty(len(chain.emissions), dtype=torch.int64, device="cpu")
    _run("best", chain, sizes, best=best)
    return best


def _run(task: str, chain: Chain, sizes: Sequence[int], **tensors: Tensor) -> None:
    """Do a task; its results are written into the tensors.

    Raises:
        MemoryError: if there is no memory for tables.
    """
    job = _Job()
    rows = sizes[0] if sizes else 0
    job.classes, job.times, job.rows, job.steps = len(chain.start), len(sizes), rows, len(chain.emissions)
    alive = (ctypes.c_int64 * len(sizes))(*sizes)
    job.sizes = ctypes.addressof(alive)
    for name, tensor in (*zip(Chain._fields, chain, strict=True), *tensors.items()):
        setattr(job, name, tensor.data_ptr())
    # ctypes releases the interpreter lock meanwhile.
    if load_functions()[task](ctypes.addressof(job)):
        msg = f"no memory for the tables of {job.classes} classes"
        raise MemoryError(msg)
