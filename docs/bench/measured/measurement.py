"""What a measurement is."""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import attrs

from bench.record.finding import Finding
from bench.record.sheet import Sheet

Extent: TypeAlias = Literal["quick", "named", "full"]
"""How much is measured: a few points within two minutes, the named ones, or the whole grid."""


@attrs.frozen
class Measurement:
    """Something to measure.

    Attributes:
        name: what it is asked for by.
        find: measures, point by point.
        sheet: the table of what was found.
        quick: whether it has a part in a quick run.
    """

    name: str
    find: Callable[[Extent], Iterator[Finding]]
    sheet: Callable[[Sequence[Finding]], Sheet]
    quick: bool = False
