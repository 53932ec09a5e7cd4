"""The kernels of native/scans.c: linear recurrences over packed rows, in float32 and float64."""

import ctypes
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import accumulate, pairwise
from typing import Final, Literal, NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from pipeline.extend import PackingOrder, name_transform
from pipeline.native import find_kernels, find_team, is_switched_off
from pipeline_recurrent.native.library import explain_unavailable, open_library
from pipeline_recurrent.native.threads import share_out_columns

CACHE: Final = 512 * 1024
"""Bytes of the product of the steps that are computed together: a part of the second-level cache of a core."""

Recurrence: TypeAlias = Literal["linear", "min_gru", "min_lstm", "lru"]

# In the order of the enumeration in scans.c.
_RECURRENCES: Final[Mapping[Recurrence, int]] = {"linear": 0, "min_gru": 1, "min_lstm": 2, "lru": 3}
_DTYPES: Final[Mapping[torch.dtype, str]] = {torch.float32: "float", torch.float64: "double"}


@final
class _Job(ctypes.Structure):
    """The struct `Scan` of scans.c, where the fields are described."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("cell", "positive", "reverse", "features", "times")),
        *((name, ctypes.c_int64) for name in ("from_", "to", "d_stride", "first")),
        *((name, ctypes.c_void_p) for name in ("sizes", "product", "bias", "keep", "add", "factors", "scale", "start")),
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
    _Pass(job, add.shape[-1], keep=keep, add=add, states=states).run()
    return states


def differentiate_terms(job: ScanJob, keep: Tensor, states: Tensor, by_states: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of the factors and the terms."""
    by_keep, by_add = (torch.empty_like(states, memory_format=torch.contiguous_format) for _ in range(2))
    by_start = states.new_zeros(job.order.nonempty_count, states.shape[-1])
    tensors = {"keep": keep, "states": states, "d_states": by_states}
    _Pass(job, states.shape[-1], **tensors, d_keep=by_keep, d_add=by_add, d_start=by_start).run(backward=True)
    return by_keep, by_add


class Projection(NamedTuple):
    """A matrix product that a layer begins with, of the input and the weight's columns."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None


def scan_product(job: ScanJob, product: Tensor, start: Tensor, constants: Sequence[Tensor]) -> Tensor:
    """Return the states of a layer.

    Args:
        job: the recurrence.
        product: steps x (columns x features), from which the gates are computed.
        start: the initial states, rows x state.
        constants: of an LRU: the factors, 2 x features, and the scale.
    """
    states = product.new_empty(len(product), start.shape[-1])
    _prepare(job, product, start, constants, states, bias=_fill_bias(product)).run()
    return states


def differentiate_product(
    job: ScanJob, product: Tensor, start: Tensor, constants: Sequence[Tensor], states: Tensor, by_states: Tensor
) -> list[Tensor]:
    """Return the gradients of the product, the initial states and the constants."""
    by_product, gradients = product.new_empty(product.shape), _Gradients(start, constants)
    tensors = {"bias": _fill_bias(product), "d_states": by_states, "d_product": by_product, **gradients.tensors}
    _prepare(job, product, start, constants, states, **tensors).run(backward=True)
    return [by_product, *gradients.collect()]


def scan_projection(
    job: ScanJob, projection: Projection, start: Tensor, constants: Sequence[Tensor], *, keep: bool
) -> tuple[Tensor, Tensor]:
    """Return product and states of a layer.

    Some steps are computed after the others, so that their product is still in the cache when the kernel reads it.

    Args:
        job: the recurrence.
        projection: the product, to whose result the kernel adds the bias.
        start: the initial states, rows x state.
        constants: those of an LRU.
        keep: whether a backward pass will follow. Otherwise only a part of the product is returned.
    """
    x, weight, bias = projection
    parts, states = _cut(job, x, len(weight)), x.new_empty(len(x), start.shape[-1])
    product = x.new_empty(len(x) if keep else max(part.size for part in parts), len(weight))
    kernel = _prepare(job, product, start, constants, states, bias=_fill_bias(product, bias))
    for part in parts:
        own = product[part.steps] if keep else product[: part.size]
        torch.mm(x[part.steps], weight.t(), out=own)
        kernel.run(part, first=0 if keep else part.first)
    return product, states


def differentiate_projection(
    job: ScanJob,
    projection: Projection,
    start: Tensor,
    constants: Sequence[Tensor],
    product: Tensor,
    states: Tensor,
    by_states: Tensor,
    *,
    needs_x: bool,
) -> list[Tensor | None]:
    """Return the gradients of the weight, the bias, the input, the initial states and the constants.

    That of the product is never in memory as a whole.
    """
    x, weight, bias = projection
    gradients, parts = _Gradients(start, constants), _cut(job, x, len(weight))
    by_product = product.new_empty(max(part.size for part in parts), product.shape[1])
    by_weight, by_bias = torch.zeros_like(weight), None if bias is None else torch.zeros_like(bias)
    by_x = x.new_empty(x.shape) if needs_x else None
    tensors = {"bias": _fill_bias(product, bias), "d_states": by_states, "d_product": by_product, **gradients.tensors}
    kernel = _prepare(job, product, start, constants, states, **tensors)
    for part in reversed(parts):
        kernel.run(part, first=part.first, backward=True)
        own = by_product[: part.size]
        by_weight.addmm_(own.t(), x[part.steps])
        if by_bias is not None:
            by_bias.add_(own.sum(0))
        if by_x is not None:
            torch.mm(own, weight, out=by_x[part.steps])
    return [by_weight, by_bias, by_x, *gradients.collect()]


def _fill_bias(product: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return a bias, or zeros: the kernel adds it, so that the product need not be written twice."""
    return product.new_zeros(product.shape[1]) if bias is None else bias


class _Part(NamedTuple):
    """Some times, counted in reading order, and their packed steps."""

    times: tuple[int, int]
    first: int
    size: int

    @property
    def steps(self) -> slice:
        """Their steps."""
        return slice(self.first, self.first + self.size)


def _cut(job: ScanJob, x: Tensor, columns: int) -> list[_Part]:
    """Divide the times so that the product of a part fits into the cache; in reading order."""
    steps, most = job.order.steps, max(1, CACHE // (columns * x.element_size()))
    sizes = job.order.batch_size_list
    ends = [0, *accumulate(reversed(sizes) if job.reverse else sizes)]
    times = sorted({0, *(bisect_left(ends, target) for target in range(most, steps, most)), len(sizes)})
    return [
        _Part((one, two), steps - ends[two] if job.reverse else ends[one], ends[two] - ends[one])
        for one, two in pairwise(times)
    ]


class _Gradients:
    """Buffers for the gradients of initial states and constants."""

    def __init__(self, start: Tensor, constants: Sequence[Tensor]) -> None:
        self.by_start, self.constants = start.new_zeros(start.shape), constants
        self.tensors: dict[str, Tensor] = {"d_start": self.by_start}
        if constants:
            sums = torch.zeros(3, constants[0].shape[-1], dtype=start.dtype)
            self.tensors |= {"sums": sums, "d_constants": torch.zeros_like(sums, dtype=torch.float64)}

    def collect(self) -> list[Tensor]:
        """Return the gradients."""
        if not self.constants:
            return [self.by_start]
        totals = self.tensors["d_constants"].to(self.by_start.dtype)
        return [self.by_start, totals[:2], totals[2]]


def _prepare(
    job: ScanJob, product: Tensor, start: Tensor, constants: Sequence[Tensor], states: Tensor, **others: Tensor
) -> "_Pass":
    """Return a pass of a layer."""
    named = dict(zip(("factors", "scale"), constants, strict=False))
    features = start.shape[-1] // (2 if constants else 1)
    return _Pass(job, features, product=product, start=start, states=states, **named, **others)


class _Pass:
    """A pass of a kernel; its results are written into the tensors, those that have no gaps between their numbers."""

    def __init__(self, job: ScanJob, features: int, **tensors: Tensor) -> None:
        self.features, self.dtype = features, tensors["states"].dtype
        # Copies must outlive the call.
        self.sizes, self.tensors = job.order.batch_sizes.contiguous(), dict[str, Tensor]()
        self.steps = job.order.steps
        self.struct = _Job(_RECURRENCES[job.recurrence], job.positive, job.reverse, features)
        self.struct.times, self.struct.sizes = len(self.sizes), self.sizes.data_ptr()
        for name, tensor in tensors.items():
            # Gradients may lie in the columns of a wider tensor.
            is_sliced = name == "d_states" and tensor.stride(-1) == 1
            own = tensor.resolve_neg() if is_sliced else tensor.resolve_neg().contiguous()
            self.tensors[name] = own
            setattr(self.struct, name, own.data_ptr())
            if name == "d_states":
                self.struct.d_stride = own.stride(0)

    def run(self, part: _Part | None = None, *, first: int = 0, backward: bool = False) -> None:
        """Compute some times, or all of them.

        Args:
            part: the times.
            first: the step at which the product begins; backward, the step at which its gradient begins.
            backward: which pass.
        """
        part = part or _Part((0, len(self.sizes)), 0, self.steps)
        (self.struct.from_, self.struct.to), self.struct.first = part.times, first
        kernels, chunks = load_scan_kernels(), share_out_columns(part.size * self.features, self.features)
        # ctypes releases the interpreter lock meanwhile.
        function = kernels.functions[self.dtype]
        function(ctypes.addressof(self.struct), int(backward), chunks, chunks, kernels.team)
