"""How much neighbours resemble each other."""

import math

import numpy as np
import numpy.typing as npt


def adjacent_correlation(means: npt.NDArray[np.float64]) -> float:
    """Pearson's correlation of each number with the next; 0 for fewer than three, or where all are alike.

    Example:
        >>> round(adjacent_correlation(np.array([1.0, 2.0, 3.0, 4.0])), 6)
        1.0
    """
    if len(means) < 3 or not np.ptp(means[:-1]) or not np.ptp(means[1:]):
        return 0.0
    return float(np.corrcoef(means[:-1], means[1:])[0, 1])


def chance_bound(count: int) -> float:
    """What the correlation of so many numbers in random order stays within, in 19 of 20 orders; 0.05 at least."""
    return max(0.05, 2 / math.sqrt(max(count, 1)))
