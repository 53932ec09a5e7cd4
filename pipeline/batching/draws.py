"""Random numbers that a seed fixes: in every process, on every machine, under every numpy."""

from typing import final

import numpy as np
import numpy.typing as npt


@final
class Draws:
    """Bits out of PCG64. numpy keeps its bits as they are for ever; what its `Generator` makes of them may change.

    Source: O'Neill 2014, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random
    Number Generation", HMC-CS-2014-0905; numpy's NEP 19 on what stays.

    Args:
        seed: what the numbers start from.
        path: what tells these numbers from others of that seed, such as an epoch.

    Example:
        >>> Draws(0, (1,)).permutation(5).tolist() == Draws(0, (1,)).permutation(5).tolist()
        True
    """

    def __init__(self, seed: int, path: tuple[int, ...]) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy=seed, spawn_key=path))

    def words(self, count: int) -> npt.NDArray[np.uint32]:
        """So many numbers of 32 random bits."""
        return self._bits.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]

    def halves(self, count: int) -> npt.NDArray[np.uint16]:
        """So many numbers of 16 random bits."""
        return self._bits.random_raw((count + 3) // 4).astype("<u8", copy=False).view("<u2")[:count]

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """The numbers below `count`, in random order."""
        bits = max(1, (count - 1).bit_length())
        keys = self._bits.random_raw(count)
        keys = keys >> np.uint64(bits) << np.uint64(bits) | np.arange(count, dtype=np.uint64)
        keys.sort()
        return (keys & np.uint64((1 << bits) - 1)).astype(np.int64)
