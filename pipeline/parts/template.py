"""Templates: the special tokens around a text and around a pair of texts."""

from collections.abc import Sequence
from typing import Final, final

import attrs


@final
@attrs.frozen
class Part:
    """Special tokens of a template.

    Attributes:
        ids: their ids.
        segments: their segments (type ids), such as 0 for the first text of a pair and what belongs to it.
    """

    ids: Sequence[int] = ()
    segments: Sequence[int] = ()


@final
@attrs.frozen
class Template:
    """Special tokens around the texts of a row.

    Attributes:
        parts: the special tokens before the first text, after each of the texts but the last, and after the last.
        segments: the segment (type id) of each text.

    Example:
        >>> pair = Template([Part([2], [0]), Part([3], [0]), Part([3], [1])], [0, 1])
        >>> pair.count(), pair.fill([[7, 8], [9]])
        (3, ([2, 7, 8, 3, 9, 3], [0, 0, 0, 0, 1, 1]))
    """

    parts: Sequence[Part]
    segments: Sequence[int]

    def count(self) -> int:
        """Return the number of special tokens."""
        return sum(len(part.ids) for part in self.parts)

    def fill(self, texts: Sequence[Sequence[int]]) -> tuple[list[int], list[int]]:
        """Return the ids of texts with the special tokens, and the segment of each."""
        ids, segments = list(self.parts[0].ids), list(self.parts[0].segments)
        for text, segment, part in zip(texts, self.segments, self.parts[1:], strict=True):
            ids += [*text, *part.ids]
            segments += [*[segment] * len(text), *part.segments]
        return ids, segments


NO_TEMPLATE: Final = Template([Part(), Part()], [0])
"""A text by itself."""

NO_PAIR_TEMPLATE: Final = Template([Part(), Part(), Part()], [0, 1])
"""Two texts, one after the other."""
