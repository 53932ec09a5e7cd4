"""The parts of layers between matrix products, by the compiled kernels of native/layers.c."""

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final, Literal, NamedTuple, final

import torch
from torch import Tensor

from pipeline import native
from pipeline.extend import find_last_kept, name_transform
from pipeline.native import (
    find_fast_kernels,
    find_team,
    is_switched_off,
    open_library,
    read_sources,
)

SOURCES: Final = read_sources(Path(__file__).parent / "native")
COMMAND: Final = "python -m pipeline_transformer.native"

KernelActivation = Literal["gelu", "relu"]
"""The activations of the kernels."""

_PREFIX: Final = "pipeline_layer"
_ACTIVATIONS: Final = ("gelu", "relu")
_TASKS: Final = ("activate", "activate_back", "normalize", "normalize_back")

_MIN_NUMBERS_FOR_THREADS: Final = 2**18
"""One thread is used for fewer numbers: 0.1 ms, about what waking a second thread costs."""


@final
class _Job(ctypes.Structure):
    """The struct `Job` of native/layers.c, where the fields are described."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "columns", "activation", "least_dropped")),
        *((name, ctypes.c_double) for name in ("scale", "eps")),
        *((name, ctypes.c_void_p) for name in ("values", "bias", "bits", "residual", "weight", "shift")),
        *((name, ctypes.c_void_p) for name in ("sums", "results", "means", "scales", "d_results", "d_sums")),
        *((name, ctypes.c_void_p) for name in ("d_values", "d_residual", "d_bias", "d_weight", "d_shift")),
    )


class Kernels(NamedTuple):
    """The kernels of one instruction set.

    Attributes:
        function: the C function.
        team: address of a function that calls another one on several threads.
    """

    function: Callable[[object, int, int, int | None], int]
    team: int | None


@cache
def load_kernels(instruction_set: str | None = None) -> Kernels:
    """Load the kernels of an instruction set: the best one of this machine, or one by name that it can run.

    Raises:
        UnavailableError: if there is no library, or it has no kernels of that name.
    """
    library = open_library(SOURCES, COMMAND)
    name = find_fast_kernels(library, _PREFIX, instruction_set)
    function = library[f"{_PREFIX}_{name}"]
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    function.restype = ctypes.c_int
    return Kernels(function, find_team(library))


@cache
def explain_unavailable() -> str | None:
    """Return why the kernels cannot be used, if so."""
    return native.explain_unavailable(load_kernels)


def describe() -> str:
    """Return a line about what computes the parts of layers between products on this machine, and why."""
    return native.describe_kernels(explain_unavailable())


def computes(steps: Tensor) -> bool:
    """Return whether the kernels can compute with steps of this kind, in the present mode of torch."""
    return (
        not torch.compiler.is_compiling()
        and steps.device.type == "cpu"
        and steps.dtype is torch.float32
        and steps.ndim == 2
        and not torch.is_autocast_enabled("cpu")
        and not is_switched_off()
        and explain_unavailable() is None
        and not name_transform()
    )


def run(
    task: Literal["activate", "activate_back", "normalize", "normalize_back"],
    like: Tensor,
    *,
    activation: KernelActivation = "gelu",
    dropout: float = 0.0,
    eps: float = 0.0,
    **tensors: Tensor | None,
) -> None:
    """Do a task; its results are written into the tensors.

    Args:
        task: the task.
        like: a tensor with the shape of the steps.
        activation: of `activate`.
        dropout: the probability of a dropped number.
        eps: the number that is added to a variance.
        tensors: contiguous tensors by the names of the fields of a job.

    Raises:
        MemoryError: if there is no memory for sums.
    """
    job = _Job()
    job.rows, job.columns = like.shape
    job.activation = _ACTIVATIONS.index(activation)
    job.least_dropped, job.scale, job.eps = find_last_kept(dropout) + 1, 1 / (1 - dropout), eps
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(job, name, tensor.data_ptr())
    threads = torch.get_num_threads() if like.numel() >= _MIN_NUMBERS_FOR_THREADS else 1
    kernels = load_kernels()
    # ctypes releases the interpreter lock meanwhile.
    if kernels.function(ctypes.addressof(job), _TASKS.index(task), threads, kernels.team):
        msg = f"no memory for the sums of {job.rows} rows"
        raise MemoryError(msg)
