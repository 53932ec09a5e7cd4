"""Suggest the policies to compare under a budget, and write a policy in one line."""

from collections.abc import Mapping, Sequence
from typing import Final, cast

import attrs
import numpy as np
import numpy.typing as npt

from pipeline.batching.policies import Boundaries, Budget, Policy, Rows, Shapes, TooLong
from pipeline.forecast.histogram import Histogram

# The number of length groups in the suggested boundaries and shapes.
_GROUPS: Final = 8

# The number of candidate widths for shapes. The search takes time in its square: 256 take about a millisecond.
_CANDIDATES: Final = 256

# The number of entries of a tuple that are written before an ellipsis.
_SHOWN_ENTRIES: Final = 2


def suggest_policies(
    histogram: Histogram, max_padded_steps: int, *, rows: int | None = None, too_long: TooLong = "raise"
) -> Sequence[Policy]:
    """Suggest one policy of every kind, each within a budget of padded steps per batch.

    These are: the largest number of rows within the budget for the longest row; the budget, with all rows sorted
    together and in pools of a hundred batches; boundaries between eight groups of equally many rows; and eight fixed
    shapes whose widths give the least padding.

    Args:
        histogram: the rows' lengths.
        max_padded_steps: the budget.
        rows: the maximum number of rows per batch; None for no limit but the budget.
        too_long: what to do with rows longer than the budget.

    Example:
        >>> print(*map(format_policy, suggest_policies(Histogram.of(range(1, 65)), 256)), sep=chr(10))
        Rows(4)
        Budget(256, batches_per_sort=None)
        Budget(256)
        Boundaries((8, 16, ...), max_padded_steps=256)
        Shapes(((32, 8), (16, 16), ...))
    """
    # A row over the budget is shortened, or alone in its batch. So batches of several rows are at most this wide.
    longest = min(max(histogram.longest, 1), max_padded_steps)
    fixed_rows = max_padded_steps // longest if rows is None else min(rows, max_padded_steps // longest)
    limit = max_padded_steps if histogram.longest > max_padded_steps else None
    policies: list[Policy] = [Rows(fixed_rows, longest=limit, too_long=too_long)]
    policies += [Budget(max_padded_steps, rows=rows, too_long=too_long, batches_per_sort=each) for each in (None, 100)]
    if not histogram.rows:
        return policies
    # One length per group stands for all rows: quantiles of these quantiles are those of the rows.
    quantiles = histogram.quantiles(_GROUPS).clip(1, max_padded_steps)
    boundaries = Boundaries.quantiles(
        quantiles, _GROUPS, max_padded_steps=max_padded_steps, rows=rows, too_long=too_long
    )
    max_rows = {width: max_padded_steps // width for width in choose_widths(histogram, _GROUPS, longest)}
    shapes = [(most if rows is None else min(rows, most), width) for width, most in max_rows.items()]
    return [*policies, boundaries, Shapes(shapes, too_long=too_long)]


def choose_widths(histogram: Histogram, count: int, longest: int) -> Sequence[int]:
    """Choose the widths that give the least padding if each row is padded to the smallest width that holds it.

    Dynamic programming over candidate widths, which are quantiles of the lengths. `least[n][i]` is the least number of
    padding steps of all rows up to candidate i with n + 1 widths, the last of which is candidate i.

    Args:
        histogram: the rows' lengths.
        count: the maximum number of widths.
        longest: the last width.

    Example:
        >>> choose_widths(Histogram.of([3, 3, 4, 9, 9, 20]), 3, longest=20)
        [4, 9, 20]
    """
    candidates = np.unique(np.append(histogram.quantiles(_CANDIDATES).clip(1, longest), longest))
    up_to = np.searchsorted(histogram.lengths, candidates, side="right")
    rows = np.append(0, np.cumsum(histogram.counts))[up_to]
    steps = np.append(0, np.cumsum(histogram.counts * histogram.lengths))[up_to]
    # cost[i, j]: the padding of all rows between candidates j and i, padded to candidate i; only for j < i.
    before = np.tril(np.ones((len(candidates), len(candidates)), np.bool_), -1)
    cost = np.where(before, candidates[:, None] * (rows[:, None] - rows) - (steps[:, None] - steps), np.inf)
    least = [candidates * rows - steps.astype(np.float64)]
    previous: list[npt.NDArray[np.intp]] = []
    for _ in range(min(count, len(candidates)) - 1):
        # through[i, j]: the padding if j is the last width before i. The best j of each i is kept for the way back.
        through = cost + least[-1]
        previous.append(through.argmin(axis=1))
        least.append(np.minimum(least[-1], through.min(axis=1)))
    # Follow the best choices back from the last width. A width that did not reduce the padding is left out.
    last, widths = len(candidates) - 1, [longest]
    for step in range(len(previous) - 1, -1, -1):
        if least[step + 1][last] < least[step][last]:
            last = int(previous[step][last])
            widths.append(int(candidates[last]))
    return widths[::-1]


def format_policy(policy: Policy) -> str:
    """Write a policy as the call that makes it, without default values and with long tuples shortened.

    Example:
        >>> format_policy(Budget(4_096, rows=128)), format_policy(Boundaries((16, 32, 64), rows=8))
        ('Budget(4,096, rows=128)', 'Boundaries((16, 32, ...), rows=8)')
    """
    arguments: list[tuple[bool, str]] = []
    for field in attrs.fields(type(policy)):
        value: object = getattr(policy, field.name)
        if value != field.default:
            text = _format_value(value)
            arguments.append((field.kw_only, f"{field.alias}={text}" if field.kw_only else text))
    # Positional arguments come first; the sort is stable.
    ordered = sorted(arguments, key=lambda argument: argument[0])
    # A policy without fields of its own is shown by its name: its options are all inherited.
    own = {field.name for field in attrs.fields(type(policy)) if not field.inherited}
    return f"{type(policy).__name__}({', '.join(text for _, text in ordered)})" if own else type(policy).__name__


def _format_value(value: object) -> str:
    if isinstance(value, tuple):
        entries = cast("tuple[object, ...]", value)
        ellipsis = ["..."] if len(entries) > _SHOWN_ENTRIES else []
        shown = [*map(_format_value, entries[:_SHOWN_ENTRIES]), *ellipsis]
        return f"({', '.join(shown)}{',' if len(shown) == 1 else ''})"
    return f"{value:,}" if type(value) is int else repr(value)


def name_policies(policies: Policy | Sequence[Policy] | Mapping[str, Policy]) -> Mapping[str, Policy]:
    """Return policies by name: the given names, or each policy's call."""
    if isinstance(policies, Mapping):
        return policies
    return {format_policy(policy): policy for policy in ([policies] if isinstance(policies, Policy) else policies)}
