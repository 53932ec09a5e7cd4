"""The kernels of native/scans.c: linear recurrences over packed rows, in float32 and float64."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Final, Literal, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from pipeline.extend import PackingOrder, name_transform
from pipeline.native import find_kernels, find_team, is_switched_off
from pipeline_recurrent.native.library import explain_unavailable, open_library
from pipeline_recurrent.native.threads import share_out_columns

Recurrence: TypeAlias = Literal["linear", "min_gru", "min_lstm", "lru"]

# In the order of the enumeration in scans.c.
_RECURRENCES: Final[Mapping[Recurrence, int]] = {"linear": 0, "min_gru": 1, "min_lstm": 2, "lru": 3}
_DTYPES: Final[Mapping[torch.dtype, str]] = {torch.float32: "float", torch.float64: "double"}


@final
class _Job(ctypes.Structure):
    """The struct `Scan` of scans.c, where the fields are described."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("cell", "positive", "reverse", "features", "times", "rows", "d_stride")),
        *((name, ctypes.c_void_p) for name in ("sizes", "product", "keep", "add", "factors", "scale", "start")),
        *((name, ctypes.c_void_p) for name in ("states", "d_states", "d_product", "d_keep", "d_add", "d_start")),
        *((name, ctypes.c_void_p) for name in ("sums", "d_constants")),
    )


class ScanKernels(NamedTuple):
    """The kernels of one instruction set.

    Attributes:
        functions: the C function for each dtype.
        team: address of a function that calls another one on several threads.
    """

    functions: Mapping[torch.dtype, Callable[[object, int, int, int, int | None], None]]
    team: int | None


@cache
def load_scan_kernels(instruction_set: str | None = None) -> ScanKernels:
    """Load the kernels of an instruction set: the best one of this machine, or one by name that it can run.

    Raises:
        UnavailableError: if there is no library, or it has no kernels of that name.
    """
    library = open_library()
    functions: dict[torch.dtype, Callable[[object, int, int, int, int | None], None]] = {}
    for dtype, number in _DTYPES.items():
        prefix = f"pipeline_scan_{number}"
        function = library[f"{prefix}_{find_kernels(library, prefix, instruction_set)}"]
        function.argtypes = [ctypes.c_void_p, *[ctypes.c_int64] * 3, ctypes.c_void_p]
        function.restype = None
        functions[dtype] = function
    return ScanKernels(functions, find_team(library))


def computes(*tensors: Tensor) -> bool:
    """Return whether the kernels can compute with tensors."""
    first = tensors[0]
    return (
        not torch.compiler.is_compiling()
        and first.dtype in _DTYPES
        and all(each.device.type == "cpu" and each.dtype is first.dtype for each in tensors)
        and not is_switched_off()
        and explain_unavailable() is None
        and not name_transform()
    )


class ScanJob(NamedTuple):
    """A recurrence over packed rows.

    Attributes:
        recurrence: see `scans.c`.
        order: the packed order.
        reverse: whether each row is read from its last step to its first.
        positive: whether the candidate of a minGRU or minLSTM is made positive.
    """

    recurrence: Recurrence
    order: PackingOrder
    reverse: bool
    positive: bool = False


def scan_terms(job: ScanJob, keep: Tensor, add: Tensor) -> Tensor:
    """Return the states, for given factors and terms."""
    states = torch.empty_like(add, memory_format=torch.contiguous_format)
    _run(job, backward=False, features=add.shape[-1], keep=keep, add=add, states=states)
    return states


def differentiate_terms(job: ScanJob, keep: Tensor, states: Tensor, by_states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the factors and the terms."""
    by_keep, by_add = (torch.empty_like(states, memory_format=torch.contiguous_format) for _ in range(2))
    _run(
        job,
        backward=True,
        features=states.shape[-1],
        keep=keep,
        states=states,
        d_states=by_states,
        d_keep=by_keep,
        d_add=by_add,
        d_start=states.new_zeros(job.order.nonempty_count, states.shape[-1]),
    )
    return by_keep, by_add


def scan_product(job: ScanJob, product: Tensor, start: Tensor, constants: Sequence[Tensor]) -> Tensor:
    """Return the states of a layer.

    Args:
        job: the recurrence.
        product: steps x (columns x features), from which the gates are computed.
        start: the initial states, rows x state.
        constants: of an LRU: the factors, 2 x features, and the scale.
    """
    states, features = product.new_empty(len(product), start.shape[-1]), _count_features(job, start)
    named = dict(zip(("factors", "scale"), constants, strict=False))
    _run(job, backward=False, features=features, product=product, start=start, states=states, **named)
    return states


def differentiate_product(
    job: ScanJob, product: Tensor, start: Tensor, constants: Sequence[Tensor], states: Tensor, by_states: Tensor
) -> list[Tensor]:
    """Return the gradients of the product, the initial states and the constants."""
    features = _count_features(job, start)
    by_product, by_start = torch.empty_like(product), torch.zeros_like(start)
    tensors = {"product": product, "start": start, "states": states, "d_states": by_states}
    totals = torch.zeros(3, features, dtype=torch.float64)
    if job.recurrence == "lru":
        sums = product.new_zeros(3, features)
        tensors |= {"factors": constants[0], "scale": constants[1], "sums": sums, "d_constants": totals}
    _run(job, backward=True, features=features, d_product=by_product, d_start=by_start, **tensors)
    return [by_product, by_start, totals[:2].to(product.dtype), totals[2].to(product.dtype)][: 2 + len(constants)]


def _count_features(job: ScanJob, start: Tensor) -> int:
    return start.shape[-1] // (2 if job.recurrence == "lru" else 1)


def _run(job: ScanJob, *, backward: bool, features: int, **tensors: Tensor) -> None:
    """Run a kernel; its results are written into the tensors, those that have no gaps between their numbers."""
    sizes, read = job.order.batch_sizes.contiguous(), dict[str, Tensor]()
    struct = _Job(_RECURRENCES[job.recurrence], job.positive, job.reverse, features)
    struct.times, struct.rows, struct.sizes = len(sizes), job.order.nonempty_count, sizes.data_ptr()
    for name, tensor in tensors.items():
        # A copy must outlive the call. Gradients may lie in the columns of a wider tensor.
        is_sliced = name == "d_states" and tensor.stride(-1) == 1
        read[name] = tensor.resolve_neg() if is_sliced else tensor.resolve_neg().contiguous()
        setattr(struct, name, read[name].data_ptr())
    if backward:
        struct.d_stride = read["d_states"].stride(0)
    numbers = job.order.steps * features
    chunks = share_out_columns(numbers, features)
    kernels = load_scan_kernels()
    dtype = next(iter(tensors.values())).dtype
    # ctypes releases the interpreter lock meanwhile.
    kernels.functions[dtype](ctypes.addressof(struct), int(backward), chunks, chunks, kernels.team)
