"""Cursors: a resumed run uses each row once, on any number of ranks."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Budget, Cursor, Plan, Policy, StreamCursor
from pipeline.errors import OptionError
from support.batching_oracle import POLICIES, check, draw_lengths, same

LENGTHS = draw_lengths(120)
BUDGET = Budget(100, batches_per_sort=3)


def count_steps(plan: Plan) -> int:
    """Return the number of batches per rank."""
    return len(plan) // plan.world_size


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_resume_at_every_step(world_size: int) -> None:
    """On the same number of ranks the rest is identical; on another number each row is still used once."""
    whole = Plan.of(LENGTHS, BUDGET, seed=4, epoch=2, world_size=world_size, worst_first=True)
    for steps in range(count_steps(whole) + 1):
        cursor = Cursor.from_dict(json.loads(json.dumps(whole.cursor(steps).to_dict())))
        rest = Plan.of(LENGTHS, BUDGET, seed=4, world_size=world_size, worst_first=True, after=cursor)
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole][steps * world_size :]
        assert same(rest, whole.resume(cursor))
        for rank in range(world_size):
            assert same(rest.rank(rank), whole.rank(rank).resume(cursor))
        head = list(whole)[: steps * world_size]
        other = Plan.of(LENGTHS, BUDGET, seed=4, world_size=world_size + 1, worst_first=True, after=cursor)
        check(other, LENGTHS, BUDGET, once=False)
        rows = [row for batch in [*head, *other] for row in batch.tolist()]
        assert sorted(rows) == sorted([*range(len(LENGTHS)), *other.repeated.tolist()])


@given(
    rows=st.integers(0, 120),
    policy=st.sampled_from(POLICIES),
    worlds=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    parts=st.lists(st.floats(0, 1), min_size=5, max_size=5),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
def test_resume_up_to_four_times(
    rows: int, policy: Policy, worlds: list[int], parts: list[float], seed: int | None
) -> None:
    """On changing numbers of ranks, all parts together have every row once, except the stated repeats."""
    lengths = LENGTHS[:rows]
    cursor = Cursor(epoch=1)
    rank_steps: list[int] = []
    seen: list[int] = []
    allowed: list[int] = []
    for part, (world_size, fraction) in enumerate(zip(worlds, parts, strict=False)):
        plan = Plan.of(lengths, policy, seed=seed, world_size=world_size, after=cursor)
        check(plan, lengths, policy, once=False)
        last = part == len(worlds) - 1
        steps = count_steps(plan) if last else int(fraction * count_steps(plan))
        seen += [row for batch in [*plan][: steps * world_size] for row in batch.tolist()]
        allowed += plan.repeated.tolist()
        rank_steps.append(steps)
        cursor = plan.cursor(steps)
    rest = Plan.of(lengths, policy, seed=seed, world_size=worlds[-1], after=cursor)
    assert not len(rest)
    assert set(seen) == set(range(len(rest.splits)))
    twice = sorted(seen)
    assert {left for left, right in pairwise(twice) if left == right} <= set(allowed)
    assert sum(steps for _, steps in cursor.batches_done) == sum(rank_steps)


def test_a_run_without_a_step_changes_nothing() -> None:
    """A run that stopped before its first step does not affect the order."""
    fresh = Plan.of(LENGTHS, BUDGET, world_size=2)
    assert same(fresh, Plan.of(LENGTHS, BUDGET, world_size=2, after=Plan.of(LENGTHS, BUDGET, world_size=3).cursor(0)))


def test_a_cursor_of_another_plan_is_rejected() -> None:
    """Other lengths, policy, seed, options or epoch, and a position past the end raise an error."""
    cursor = Plan.of(LENGTHS, BUDGET).cursor(3)
    for lengths, policy, seed, worst_first in (
        (LENGTHS[1:], BUDGET, 0, False),
        (LENGTHS, Budget(100), 0, False),
        (LENGTHS, BUDGET, 1, False),
        (LENGTHS, BUDGET, 0, True),
    ):
        with pytest.raises(OptionError, match="^cursor must belong to the same lengths, policy, seed and options"):
            Plan.of(lengths, policy, seed=seed, worst_first=worst_first, after=cursor)
    with pytest.raises(OptionError, match="^epoch must be that of the cursor, 0, got 1"):
        Plan.of(LENGTHS, BUDGET, epoch=1, after=cursor)
    for past_end in (Cursor(0, ((1, 10_000),)), Cursor(0, ((2, 10_000), (1, 1)))):
        with pytest.raises(
            OptionError, match="^cursor must be within its plan of [0-9]+ batches per rank, got 10000 batches done"
        ):
            Plan.of(LENGTHS, BUDGET, after=past_end)
    with pytest.raises(
        OptionError, match="^cursor must be reachable in this plan, .* got epoch 3 after .*after=cursor"
    ):
        Plan.of(LENGTHS, BUDGET).resume(Cursor(3))
    with pytest.raises(
        OptionError, match=r"^cursor must be reachable in this plan, .* got epoch 0 after \(\(1, 2\),\)"
    ):
        Plan.of(LENGTHS, BUDGET, after=cursor).resume(Cursor(0, ((1, 2),)))
    with pytest.raises(OptionError, match="^cursor must be within its plan"):
        Plan.of(LENGTHS, BUDGET).cursor(10_000)


def test_cursors_merge_and_check_their_state() -> None:
    """Neighboring parts on equal ranks are merged, and an invalid state raises an error."""
    assert Cursor(1, ((2, 3), (2, 4), (1, 0), (2, 1), (3, 2))).batches_done == ((2, 8), (3, 2))
    assert Cursor(1, ((2, 3),), "x").next_epoch() == Cursor(2, (), "x")
    states: list[dict[str, object]] = [
        {},
        {"epoch": 0, "batches_done": []},
        {"epoch": True, "batches_done": [], "recipe": None},
        {"epoch": 0, "batches_done": [[1, 2, 3]], "recipe": None},
        {"epoch": 0, "batches_done": "none", "recipe": None},
        {"epoch": 0, "batches_done": [], "recipe": 3},
        {"epoch": 0, "batches_done": [], "recipe": None, "more": 1},
    ]
    for state in states:
        with pytest.raises(OptionError, match="cursor"):
            Cursor.from_dict(state)
    with pytest.raises(OptionError, match="^world_size must be an integer of at least 1, got 0"):
        Cursor(0, ((0, 3),))
    with pytest.raises(OptionError, match="^batches_done must be an integer of at least 0, got -3"):
        Cursor(0, ((1, -3),))


def test_stream_cursors_check_their_state() -> None:
    """An invalid state of a stream raises an error, and the numbers of a cursor are checked."""
    state: dict[str, object] = {"epoch": 1, "rows": 2, "position": [3, 4], "recipe": None}
    assert StreamCursor.from_dict(state) == StreamCursor(1, 2, (3, 4))
    for wrong in ({"rows": "2"}, {"position": 3}, {"position": [-3]}, {"recipe": 3}, {"more": 1}, {"epoch": -1}):
        with pytest.raises(OptionError, match="^(state of a stream|position|epoch) must"):
            StreamCursor.from_dict({**state, **wrong})
