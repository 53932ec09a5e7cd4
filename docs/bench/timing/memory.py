"""How much memory a step takes at its peak."""

from collections.abc import Callable
from operator import attrgetter, methodcaller

from torch.profiler import ProfilerActivity, profile

_allocations: Callable[[object], list[object]] = methodcaller("events")
_kind: Callable[[object], str] = methodcaller("name")
_bytes: Callable[[object], int] = methodcaller("nbytes")


def peak_bytes(run: Callable[[], object]) -> int:
    """How many bytes of tensors there are at once while something runs, beside those that were there before.

    Every allocation and release of torch's own allocator is counted, so the figure is exact and the same at every
    run, where the size of the process depends on what ran before. The native engine's buffers are tensors too; what
    a library takes past torch (oneDNN and MKL for some scratch space) is not in it.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    held = most = 0
    # Of the profiler's own records: its tables tell what an operation took, not what there was at once.
    for event in _allocations(attrgetter("profiler.kineto_results")(profiled)):
        if _kind(event) == "[memory]":
            held += _bytes(event)
            most = max(most, held)
    return most
