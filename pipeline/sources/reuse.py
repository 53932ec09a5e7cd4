"""What was tokenized once is not tokenized again: inputs are known by a digest of their content."""

import hashlib
import json
from collections.abc import Iterable
from typing import TypeAlias, final

import numpy as np
from numpy.typing import NDArray

Digests: TypeAlias = NDArray[np.uint64]
"""Two numbers an input: 128 bits of a BLAKE2b hash."""


def digests_of(inputs: Iterable[object]) -> Digests:
    """The digests of texts, or of rows of words.

    Example:
        >>> found = digests_of(["to be", "to be", ["to", "be"]])
        >>> found.shape, bool((found[0] == found[1]).all()), bool((found[0] == found[2]).any())
        ((3, 2), True, False)
    """
    return np.frombuffer(b"".join(map(_digest, inputs)), np.uint64).reshape(-1, 2)


def _digest(value: object) -> bytes:
    person = b"text" if isinstance(value, str) else b"words"
    content = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16, person=person).digest()


@final
class Known:
    """Inputs that were tokenized before, by their digests."""

    def __init__(self, digests: Digests) -> None:
        self._order = np.argsort(digests[:, 0], kind="stable")
        self._first = digests[self._order, 0]
        self._second = digests[:, 1]

    def rows(self, digests: Digests) -> NDArray[np.int64]:
        """Which row each input had before; -1 for one that is new.

        Example:
            >>> Known(digests_of(["a", "b", "c"])).rows(digests_of(["c", "d", "a"])).tolist()
            [2, -1, 0]
        """
        if len(self._order) == 0:
            return np.full(len(digests), -1, np.int64)
        places = np.minimum(np.searchsorted(self._first, digests[:, 0]), len(self._order) - 1)
        found = self._order[places]
        # Two different inputs with equal first halves are new each time: that is slower, and never wrong.
        is_same = (self._first[places] == digests[:, 0]) & (self._second[found] == digests[:, 1])
        return np.where(is_same, found, -1)
