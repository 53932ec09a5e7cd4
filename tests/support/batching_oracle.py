"""The properties of a plan, checked batch by batch and row by row in Python integers."""

import random
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes

LONGEST = 40
"""The longest row in these tests."""

POLICIES: tuple[Policy, ...] = (
    Rows(7),
    Rows(3, batches_per_sort=2),
    Rows(5, longest=30, too_long="split"),
    Budget(120),
    Budget(120, rows=5, batches_per_sort=3),
    Budget(40, batches_per_sort=None),
    Budget(400, quadratic=20),
    Budget(30, too_long="alone"),
    Budget(30, too_long="truncate", batches_per_sort=4),
    Budget(30, too_long="split"),
    Budget(60, quadratic=9, too_long="split", batches_per_sort=2),
    Boundaries((5, 11, 20), max_padded_steps=100, batches_per_sort=3),
    Boundaries((5, 11, 20), rows=4),
    Shapes([(10, 8), (4, 20), (2, 40)]),
    Shapes([(10, 8), (4, 20)], too_long="split", batches_per_sort=2),
)
"""At least one policy of each kind, and each way to handle long rows."""


def draw_lengths(rows: int, seed: int = 0, longest: int = LONGEST) -> list[int]:
    """Return random lengths, the same at every call."""
    generator = random.Random(f"{rows}/{seed}")
    return [generator.randint(0, longest) for _ in range(rows)]


def cost(policy: Budget, steps: int) -> float:
    """Return what a row of that many padded steps counts."""
    return steps + (steps * steps / policy.quadratic if policy.quadratic else 0)


def split_length(policy: Policy, length: int) -> list[int]:
    """Return the lengths of the slices that a policy makes of one row."""
    limit = policy.limit()
    if limit is None or length <= limit or policy.too_long in {"raise", "alone"}:
        return [length]
    if policy.too_long == "truncate":
        return [limit]
    return [min(limit, length - start) for start in range(0, length, limit)]


def check(plan: Plan, lengths: Sequence[int], policy: Policy, *, once: bool = True) -> None:
    """Check that every row occurs once, every batch respects its policy, and every figure of the plan is true.

    Args:
        plan: the plan of all ranks.
        lengths: the length of each row.
        policy: the policy of the plan.
        once: whether the plan has all rows.
    """
    slices = {number: plan.splits[number] for batch in plan for number in batch.tolist()}
    known = {
        number: min(length, lengths[part.row]) - part.start
        for number, part in slices.items()
        for length in [lengths[part.row] if part.stop is None else part.stop]
    }
    if once:
        counts = Counter(number for batch in plan for number in batch.tolist())
        assert counts == Counter(range(len(plan.splits))) + Counter(plan.repeated.tolist()) - Counter(
            plan.dropped.tolist()
        )
        if not len(plan.dropped):
            parts = Counter((part.row, known[number]) for number, part in slices.items())
            assert parts == Counter(
                (row, part) for row, length in enumerate(lengths) for part in split_length(policy, length)
            )
    assert len(plan) % plan.world_size == 0
    for batch, (rows, width), steps in zip(plan, plan.shapes.tolist(), plan.steps.tolist(), strict=True):
        in_batch = [known[number] for number in batch.tolist()]
        assert 1 <= len(in_batch) <= rows
        assert max(in_batch) <= width
        assert sum(in_batch) == steps
        check_fits(policy, in_batch, rows, width)


def check_fits(policy: Policy, lengths: list[int], rows: int, width: int) -> None:
    """Check that a batch of these lengths, padded to a shape, respects its policy."""
    limit = policy.limit()
    if limit is not None and max(lengths) > limit:
        assert policy.too_long == "alone"
        assert len(lengths) == 1
        return
    match policy:
        case Rows():
            assert (rows, width) == (len(lengths), max(lengths))
            assert rows <= policy.rows
        case Budget():
            assert (rows, width) == (len(lengths), max(lengths))
            # An empty row counts as one step.
            assert rows * cost(policy, max(width, 1)) <= policy.max_padded_steps
            assert policy.rows is None or rows <= policy.rows
        case Boundaries():
            assert not any(min(lengths) <= edge < max(lengths) for edge in policy.edges())
            assert policy.rows is None or rows <= policy.rows
            assert policy.max_padded_steps is None or rows * max(width, 1) <= policy.max_padded_steps
        case Shapes():
            assert (rows, width) in policy.allowed
        case _:
            raise AssertionError(policy)


def same(left: Plan, right: Plan) -> bool:
    """Return whether two plans have the same batches of the same rows in the same order."""
    return [batch.tolist() for batch in left] == [batch.tolist() for batch in right]


def is_descending(plan: Plan, lengths: Sequence[int]) -> bool:
    """Return whether the rows of each batch are sorted by length, longest first."""
    batches: list[list[int]] = [batch.tolist() for batch in plan]
    return all(lengths[this] >= lengths[following] for batch in batches for this, following in pairwise(batch))
