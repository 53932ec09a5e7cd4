"""How the kernels share out their work among threads."""

from typing import Final

import torch

# One thread is used for products of fewer floating-point operations than this. They take about 0.06 ms on one core of
# the machine in docs/bench.md; waking a second thread and sharing out the rows costs as much as it saves.
MIN_OPERATIONS_FOR_THREADS: Final = 4_000_000


def share_out(operations: int, *, rows: int, directions: int) -> tuple[int, int]:
    """Return the number of chunks of rows in each direction, and of threads: at most torch's.

    Directions run side by side, and the rows of each are shared out in chunks. A chunk has two rows at least: each one
    reads all recurrent weights at every step, and a lone row would only wait for memory.

    Args:
        operations: floating-point operations of the products.
        rows: number of rows that have steps.
        directions: 1 or 2.

    Example:
        >>> share_out(1_000, rows=64, directions=2)
        (1, 1)
    """
    threads = torch.get_num_threads() if operations >= MIN_OPERATIONS_FOR_THREADS else 1
    chunks = max(1, min(-(-threads // directions), rows // 2))
    return chunks, min(threads, chunks * directions)


# A scan of fewer numbers runs on one thread: it takes about 0.1 ms.
MIN_NUMBERS_FOR_THREADS: Final = 100_000
# Features of a thread, so that it reads whole cache lines.
_MIN_FEATURES: Final = 32


def share_out_columns(numbers: int, features: int) -> int:
    """Return the number of threads that share the features of a scan: at most torch's.

    Args:
        numbers: steps x features.
        features: features of a step.

    Example:
        >>> share_out_columns(1_000, features=100)
        1
    """
    return max(1, min(torch.get_num_threads() if numbers >= MIN_NUMBERS_FOR_THREADS else 1, features // _MIN_FEATURES))
