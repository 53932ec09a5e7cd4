"""Attention within rows of one length, by the compiled kernels of native/attention.c."""

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, NamedTuple, final

import torch
from torch import Tensor

from pipeline.extend import draw_bits, find_last_kept
from pipeline.native import find_kernels, find_team, open_library
from pipeline_transformer import native_layers
from pipeline_transformer.blocks import Block
from pipeline_transformer.spec import AttentionForm

_PREFIX: Final = "pipeline_attend"

LONGEST: Final = 256
"""The longest row: all its queries are in one block, and torch's kernels for long rows are as fast."""

_MIN_OPERATIONS_FOR_THREADS: Final = 4_000_000
"""One thread is used for fewer operations of products: 0.1 ms, about what waking a second thread costs."""


@final
class _Job(ctypes.Structure):
    """The struct `Job` of native/attention.c, where the fields are described."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "length", "heads", "kv_heads", "size", "causal")),
        ("least_dropped", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("scale", "kept_scale")),
        *((name, ctypes.c_void_p) for name in ("projected", "bits", "contexts", "sums", "d_contexts", "d_projected")),
    )


class Kernels(NamedTuple):
    """The kernels of one instruction set.

    Attributes:
        function: the C function.
        lanes: floats per vector.
        team: address of a function that calls another one on several threads.
    """

    function: Callable[[object, int, int, int | None], int]
    lanes: int
    team: int | None


@cache
def load_kernels(instruction_set: str | None = None) -> Kernels:
    """Load the kernels of an instruction set: the best one of this machine, or one by name that it can run.

    Raises:
        UnavailableError: if there is no library, or it has no kernels of that name.
    """
    library = open_library(native_layers.SOURCES, native_layers.COMMAND)
    name = find_kernels(library, _PREFIX, instruction_set)
    lanes = library[f"{_PREFIX}_lanes_{name}"]
    lanes.restype = ctypes.c_int64
    function = library[f"{_PREFIX}_{name}"]
    function.argtypes = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
    function.restype = ctypes.c_int
    return Kernels(function, lanes(), find_team(library))


def computes(projected: Tensor, form: AttentionForm, longest: int) -> bool:
    """Return whether the kernels can compute an attention without biases, of rows up to some length."""
    return (
        native_layers.computes(projected)
        and form.window is None
        and 0 < longest <= LONGEST
        and form.size % load_kernels().lanes == 0
    )


def attend(
    projected: Tensor, blocks: Sequence[Block], form: AttentionForm, dropout: float, contexts: Tensor
) -> list[Tensor]:
    """Write the contexts of whole rows; return what the gradients need: sums of each block, then bits of each."""
    sums = [projected.new_empty(block.rows, form.heads, block.group.length) for block in blocks]
    bits = [draw_bits(block.shape_scores(form)) for block in blocks] if dropout else []
    for block, own, drawn in zip(blocks, sums, _pad_with_none(bits, blocks), strict=True):
        _run(block, form, dropout, back=False, projected=projected, contexts=contexts, sums=own, bits=drawn)
    return sums + bits


def differentiate(
    projected: Tensor,
    blocks: Sequence[Block],
    form: AttentionForm,
    dropout: float,
    saved: Sequence[Tensor],
    gradient: Tensor,
) -> Tensor:
    """Return the gradients of all queries, keys and values.

    Args:
        projected: queries, keys and values.
        blocks: the blocks of `attend`.
        form: the form of the attention.
        dropout: the probability of a dropped weight.
        saved: what `attend` returned.
        gradient: the contiguous gradient of all contexts.
    """
    of_projected = torch.empty_like(projected)
    sums, bits = saved[: len(blocks)], saved[len(blocks) :]
    for block, own, drawn in zip(blocks, sums, _pad_with_none(bits, blocks), strict=True):
        tensors = {"projected": projected, "sums": own, "bits": drawn}
        _run(block, form, dropout, back=True, d_contexts=gradient, d_projected=of_projected, **tensors)
    return of_projected


def _pad_with_none(bits: Sequence[Tensor], blocks: Sequence[Block]) -> Sequence[Tensor | None]:
    return bits or [None] * len(blocks)


_OF_STEPS: Final = frozenset({"projected", "contexts", "d_contexts", "d_projected"})
"""The fields that have a row per step of the batch; the others are of the block."""


def _run(block: Block, form: AttentionForm, dropout: float, *, back: bool, **tensors: Tensor | None) -> None:
    """Compute a block; results are written into the tensors.

    Raises:
        MemoryError: if there is no memory for scores.
    """
    job = _Job()
    length = block.group.length
    job.rows, job.length, job.causal = block.rows, length, form.causal
    job.heads, job.kv_heads, job.size = form.heads, form.kv_heads, form.size
    job.least_dropped = find_last_kept(dropout) + 1
    job.scale, job.kept_scale = form.scale, 1 / (1 - dropout)
    start = block.group.start + block.first * length
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(job, name, tensor[start:].data_ptr() if name in _OF_STEPS else tensor.data_ptr())
    kernels = load_kernels()
    operations = (10 if back else 4) * block.count_scores(form) * form.size
    threads = torch.get_num_threads() if operations >= _MIN_OPERATIONS_FOR_THREADS else 1
    # ctypes releases the interpreter lock meanwhile.
    if kernels.function(ctypes.addressof(job), back, min(threads, block.rows * form.kv_heads), kernels.team):
        msg = f"no memory for the scores of rows of {length} steps"
        raise MemoryError(msg)
