"""What a plan must be, said plainly: batch by batch, row by row, in Python's own numbers."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes

LONGEST = 40
"""The longest row that the tests draw."""

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
"""At least one of each kind, with long rows handled in each of the ways."""


def cost(policy: Budget, steps: int) -> float:
    """What a row of so many padded steps counts."""
    return steps + (steps * steps / policy.quadratic if policy.quadratic else 0)


def pieces_of(policy: Policy, length: int) -> list[int]:
    """The lengths that a row is cut into."""
    limit = policy.limit()
    if limit is None or length <= limit or policy.too_long in {"raise", "alone"}:
        return [length]
    if policy.too_long == "truncate":
        return [limit]
    return [min(limit, length - begin) for begin in range(0, length, limit)]


def check(plan: Plan, lengths: Sequence[int], policy: Policy, *, once: bool = True) -> None:
    """Every row once, every batch within its policy, every figure of the plan true.

    Args:
        plan: the plan of all ranks.
        lengths: each row's length.
        policy: what it was made by.
        once: whether the plan is of all rows.
    """
    found = {number: plan.pieces[number] for batch in plan for number in batch.tolist()}
    known = {
        number: min(length, lengths[piece.row]) - piece.begin
        for number, piece in found.items()
        for length in [lengths[piece.row] if piece.end is None else piece.end]
    }
    if once:
        served = Counter(number for batch in plan for number in batch.tolist())
        assert served == Counter(range(len(plan.pieces))) + Counter(plan.repeated.tolist()) - Counter(
            plan.dropped.tolist()
        )
        if not len(plan.dropped):
            cut = Counter((piece.row, known[number]) for number, piece in found.items())
            assert cut == Counter(
                (row, part) for row, length in enumerate(lengths) for part in pieces_of(policy, length)
            )
    assert len(plan) % plan.world_size == 0
    for batch, (rows, width), steps in zip(plan, plan.shapes.tolist(), plan.steps.tolist(), strict=True):
        parts = [known[number] for number in batch.tolist()]
        assert 1 <= len(parts) <= rows
        assert max(parts) <= width
        assert sum(parts) == steps
        check_fits(policy, parts, rows, width)


def check_fits(policy: Policy, parts: list[int], rows: int, width: int) -> None:
    """A batch of rows of such lengths, padded to a shape, is within its policy."""
    limit = policy.limit()
    if limit is not None and max(parts) > limit:
        assert policy.too_long == "alone"
        assert len(parts) == 1
        return
    match policy:
        case Rows():
            assert (rows, width) == (len(parts), max(parts))
            assert rows <= policy.rows
        case Budget():
            assert (rows, width) == (len(parts), max(parts))
            # A row of no steps counts as one.
            assert rows * cost(policy, max(width, 1)) <= policy.max_padded_steps
            assert policy.rows is None or rows <= policy.rows
        case Boundaries():
            assert not any(min(parts) <= edge < max(parts) for edge in policy.edges())
            assert policy.rows is None or rows <= policy.rows
            assert policy.max_padded_steps is None or rows * max(width, 1) <= policy.max_padded_steps
        case Shapes():
            assert (rows, width) in policy.allowed
        case _:
            raise AssertionError(policy)


def same(left: Plan, right: Plan) -> bool:
    """Whether two plans have the same rows in the same batches in the same order."""
    return [batch.tolist() for batch in left] == [batch.tolist() for batch in right]


def descending(plan: Plan, lengths: Sequence[int]) -> bool:
    """Whether each batch begins with its longest row and never rises."""
    batches: list[list[int]] = [batch.tolist() for batch in plan]
    return all(lengths[this] >= lengths[following] for batch in batches for this, following in pairwise(batch))
