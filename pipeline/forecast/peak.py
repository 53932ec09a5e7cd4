"""How much memory something takes on a CPU at its peak."""

from collections.abc import Callable
from itertools import accumulate
from operator import methodcaller
from typing import Final

from torch.autograd.profiler import profile

_bytes: Final[Callable[[object], int]] = methodcaller("nbytes")  # torch's types leave it out

_EVENT: Final = "[memory]"
"""What the profiler calls the taking or giving back of memory."""


def peak_bytes(run: Callable[[], object]) -> int:
    """How many bytes of tensors there are at once while something runs, beside those that were there before.

    Every allocation and release of torch's own allocator is counted, so the figure is exact and the same at every
    run, where the size of the process depends on what ran before. What a library takes past torch (oneDNN and MKL for
    some scratch space) is not in it.

    Example:
        >>> import torch
        >>> peak_bytes(lambda: torch.zeros(256) + torch.ones(256))
        3072
    """
    profiled = profile(profile_memory=True)
    with profiled:
        run()
    results = profiled.kineto_results
    assert results is not None
    # Of the profiler's own records: its tables tell what an operation took, not what there was at once.
    events = sorted((event.start_ns(), _bytes(event)) for event in results.events() if event.name() == _EVENT)
    return max(accumulate(size for _, size in events), default=0)
