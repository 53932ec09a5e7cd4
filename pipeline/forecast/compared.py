"""Which policies a budget is compared by, and how a policy is written in a line."""

from collections.abc import Mapping, Sequence
from typing import Final, cast

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.policies.boundaries import Boundaries
from pipeline.batching.policies.budget import Budget
from pipeline.batching.policies.rows import Rows
from pipeline.batching.policies.shapes import Shapes
from pipeline.batching.policy import LongRows, Policy
from pipeline.forecast.histogram import Histogram

_GROUPS: Final = 8
"""How many groups of lengths the boundaries and the shapes make."""

_CANDIDATES: Final = 256
"""Among how many widths those of the shapes are chosen."""

_SHOWN: Final = 2
"""How many entries of a tuple are written out."""


def compared(
    histogram: Histogram, max_padded_steps: int, *, rows: int | None = None, too_long: LongRows = "raise"
) -> Sequence[Policy]:
    """Every kind of policy, none with more padded steps a batch than the budget.

    A number of rows that keeps to it however long they are; the budget with all rows sorted together, and in pools;
    boundaries between eight groups of as many rows each; and eight fixed shapes, as wide as makes the least padding.

    Args:
        histogram: the rows' lengths.
        max_padded_steps: the budget.
        rows: how many rows a batch may have; None for as many as the budget allows.
        too_long: what becomes of rows longer than the budget.

    Example:
        >>> print(*map(spelt, compared(Histogram.of(range(1, 65)), 256)), sep=chr(10))
        Rows(4)
        Budget(256, batches_per_sort=None)
        Budget(256)
        Boundaries((8, 16, ...), max_padded_steps=256)
        Shapes(((32, 8), (16, 16), ...))
    """
    longest = min(max(histogram.longest, 1), max_padded_steps)
    few = max_padded_steps // longest if rows is None else min(rows, max_padded_steps // longest)
    over = max_padded_steps if histogram.longest > max_padded_steps else None
    made: list[Policy] = [Rows(few, longest=over, too_long=too_long)]
    made += [Budget(max_padded_steps, rows=rows, too_long=too_long, batches_per_sort=pool) for pool in (None, 100)]
    if not histogram.rows:
        return made
    # As many rows stand for each group: the edges are those of all rows.
    standing = histogram.quantiles(_GROUPS).clip(1, max_padded_steps)
    boundaries = Boundaries.quantiles(
        standing, _GROUPS, max_padded_steps=max_padded_steps, rows=rows, too_long=too_long
    )
    rooms = {width: max_padded_steps // width for width in widths(histogram, _GROUPS, longest)}
    shapes = [(room if rows is None else min(rows, room), width) for width, room in rooms.items()]
    return [*made, boundaries, Shapes(shapes, too_long=too_long)]


def widths(histogram: Histogram, count: int, longest: int) -> Sequence[int]:
    """So many widths, such that rows that are padded each to the least that holds it are padded least.

    Found by dynamic programming, among 256 widths that as many rows each lie between.

    Args:
        histogram: the rows' lengths.
        count: how many widths there may be.
        longest: the last of them.

    Example:
        >>> widths(Histogram.of([3, 3, 4, 9, 9, 20]), 3, longest=20)
        [4, 9, 20]
    """
    candidates = np.unique(np.append(histogram.quantiles(_CANDIDATES).clip(1, longest), longest))
    up_to = np.searchsorted(histogram.lengths, candidates, side="right")
    rows = np.append(0, np.cumsum(histogram.counts))[up_to]
    steps = np.append(0, np.cumsum(histogram.counts * histogram.lengths))[up_to]
    # What it costs to pad to one width all rows above another one; beyond the diagonal, nothing is meant.
    before = np.tril(np.ones((len(candidates), len(candidates)), np.bool_), -1)
    cost = np.where(before, candidates[:, None] * (rows[:, None] - rows) - (steps[:, None] - steps), np.inf)
    least = [candidates * rows - steps.astype(np.float64)]
    chosen: list[npt.NDArray[np.intp]] = []
    for _ in range(min(count, len(candidates)) - 1):
        through = cost + least[-1]
        chosen.append(through.argmin(axis=1))
        least.append(np.minimum(least[-1], through.min(axis=1)))
    place, found = len(candidates) - 1, [longest]
    for step in range(len(chosen) - 1, -1, -1):
        if least[step + 1][place] < least[step][place]:
            place = int(chosen[step][place])
            found.append(int(candidates[place]))
    return found[::-1]


def spelt(policy: Policy) -> str:
    """A policy as it is written in a call, without what is left at its default, long tuples cut.

    Example:
        >>> spelt(Budget(4_096, rows=128)), spelt(Boundaries((16, 32, 64), rows=8, batches_per_sort=None))
        ('Budget(4,096, rows=128)', 'Boundaries((16, 32, ...), batches_per_sort=None, rows=8)')
    """
    said: list[tuple[bool, str]] = []
    for field in attrs.fields(type(policy)):
        value: object = getattr(policy, field.name)
        if value != field.default:
            # In a call, what has no name comes first.
            said.append((field.kw_only, f"{field.alias}={_value(value)}" if field.kw_only else _value(value)))
    ordered = sorted(said, key=lambda argument: argument[0])
    own = {field.name for field in attrs.fields(type(policy)) if not field.inherited}
    return f"{type(policy).__name__}({', '.join(text for _, text in ordered)})" if own else type(policy).__name__


def _value(value: object) -> str:
    if isinstance(value, tuple):
        entries = cast("tuple[object, ...]", value)
        cut = [*map(_value, entries[:_SHOWN]), *(["..."] if len(entries) > _SHOWN else [])]
        return f"({', '.join(cut)}{',' if len(cut) == 1 else ''})"
    return f"{value:,}" if type(value) is int else repr(value)


def named(policies: Policy | Sequence[Policy] | Mapping[str, Policy]) -> Mapping[str, Policy]:
    """Policies by what they are called: as they are, or by how they are written."""
    if isinstance(policies, Mapping):
        return policies
    return {spelt(policy): policy for policy in ([policies] if isinstance(policies, Policy) else policies)}
