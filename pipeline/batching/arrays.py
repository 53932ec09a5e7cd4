"""Integer arrays, and reproducible random numbers for them."""

from collections.abc import Iterable
from typing import Final, TypeAlias, final

import numpy as np
import numpy.typing as npt

IntArray: TypeAlias = npt.NDArray[np.signedinteger]
"""Integers: int32 where they fit, else int64."""

# Rows processed at once. As int64 they take 256 KiB, which stays in the L2 cache of one core.
BLOCK: Final = 1 << 15


def iterate_blocks(count: int) -> Iterable[tuple[int, int]]:
    """Return where each block of `count` rows starts and stops.

    Example:
        >>> list(iterate_blocks(40_000))
        [(0, 32768), (32768, 40000)]
    """
    return zip(range(0, count, BLOCK), [*range(BLOCK, count, BLOCK), count], strict=False)


def narrow_dtype(largest: int) -> "np.dtype[np.signedinteger]":
    """Return int32 if it can hold the number, else int64: a plan then takes 4 bytes per row up to 2 billion rows."""
    return np.dtype(np.int32) if largest <= np.iinfo(np.int32).max else np.dtype(np.int64)


@final
class SeededRandom:
    """Random numbers determined by a seed: the same in every process, on every machine, with every version of numpy.

    The raw bits of PCG64 are used directly, because numpy guarantees that they never change. The methods of
    `numpy.random.Generator` have no such guarantee.

    Source: O'Neill 2014, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random
    Number Generation", HMC-CS-2014-0905; numpy's NEP 19, "Random Number Generator Policy".

    Args:
        seed: the seed.
        path: numbers that select one of many independent streams of that seed, for example the epoch.

    Example:
        >>> SeededRandom(0, (1,)).permutation(5).tolist() == SeededRandom(0, (1,)).permutation(5).tolist()
        True
    """

    def __init__(self, seed: int, path: tuple[int, ...]) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(entropy=seed, spawn_key=path))

    def uint32(self, count: int) -> npt.NDArray[np.uint32]:
        """Draw `count` integers of 32 random bits."""
        return self._bits.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]

    def uint16(self, count: int) -> npt.NDArray[np.uint16]:
        """Draw `count` integers of 16 random bits."""
        return self._bits.random_raw((count + 3) // 4).astype("<u8", copy=False).view("<u2")[:count]

    def permutation(self, count: int) -> npt.NDArray[np.int64]:
        """Draw a random order of the integers below `count`."""
        # The low bits of each random number are replaced by its index. One sort in place then gives the order, which
        # is faster than an argsort. The upper bits are random: for a million indices 44 bits, so ties are rare.
        bits = max(1, (count - 1).bit_length())
        keys = self._bits.random_raw(count)
        keys = keys >> np.uint64(bits) << np.uint64(bits) | np.arange(count, dtype=np.uint64)
        keys.sort()
        return (keys & np.uint64((1 << bits) - 1)).astype(np.int64)
