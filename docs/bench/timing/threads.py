"""Torch on some threads, for a while."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Final, Literal, TypeAlias

import torch

Threads: TypeAlias = Literal["one", "all"]
"""One, or as many as torch begins with: a core each, or what `OMP_NUM_THREADS` says."""

EVERY: Final = torch.get_num_threads()


@contextmanager
def on_threads(threads: Threads) -> Generator[int]:
    """Say how many threads torch works with, and give back what it had."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if threads == "one" else EVERY)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
