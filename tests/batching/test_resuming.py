"""Cursors: what is left is the very rest, or is planned anew for other ranks, each row still once; and kept files."""

import json
import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Budget, Coverage, Cursor, Plan, Policy
from pipeline.errors import OptionError, PlanError
from support.batching_oracle import LONGEST, POLICIES, check, same

LENGTHS = [random.Random(0).randint(0, LONGEST) for _ in range(120)]
BUDGET = Budget(100, batches_per_sort=3)


def steps_of(plan: Plan) -> int:
    """How many steps a plan has."""
    return len(plan) // plan.world_size


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_cut_at_every_step(world_size: int) -> None:
    """On as many ranks, the rest is what it would have been; on others, each row is still served once."""
    whole = Plan.of(LENGTHS, BUDGET, seed=4, epoch=2, world_size=world_size, worst_first=True)
    for steps in range(steps_of(whole) + 1):
        cursor = Cursor.from_dict(json.loads(json.dumps(whole.cursor(steps).to_dict())))
        rest = Plan.of(LENGTHS, BUDGET, seed=4, world_size=world_size, worst_first=True, after=cursor)
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole][steps * world_size :]
        assert same(rest, whole.left(cursor))
        for rank in range(world_size):
            assert same(rest.rank(rank), whole.rank(rank).left(cursor))
        head = list(whole)[: steps * world_size]
        other = Plan.of(LENGTHS, BUDGET, seed=4, world_size=world_size + 1, worst_first=True, after=cursor)
        check(other, LENGTHS, BUDGET, once=False)
        rows = [row for batch in [*head, *other] for row in batch.tolist()]
        assert sorted(rows) == sorted([*range(len(LENGTHS)), *other.repeated.tolist()])


@given(
    rows=st.integers(0, 120),
    policy=st.sampled_from(POLICIES),
    worlds=st.lists(st.integers(1, 5), min_size=2, max_size=5),
    shares=st.lists(st.floats(0, 1), min_size=5, max_size=5),
    seed=st.one_of(st.none(), st.integers(0, 9)),
)
def test_resumed_one_to_four_times(
    rows: int, policy: Policy, worlds: list[int], shares: list[float], seed: int | None
) -> None:
    """On changing numbers of ranks: what all stretches serve is every row, once but for the stated repeats."""
    lengths = LENGTHS[:rows]
    cursor = Cursor(epoch=1)
    rank_steps: list[int] = []
    seen: list[int] = []
    allowed: list[int] = []
    for stretch, (world_size, share) in enumerate(zip(worlds, shares, strict=False)):
        plan = Plan.of(lengths, policy, seed=seed, world_size=world_size, after=cursor)
        check(plan, lengths, policy, once=False)
        last = stretch == len(worlds) - 1
        steps = steps_of(plan) if last else int(share * steps_of(plan))
        seen += [row for batch in [*plan][: steps * world_size] for row in batch.tolist()]
        allowed += plan.repeated.tolist()
        rank_steps.append(steps)
        cursor = plan.cursor(steps)
    rest = Plan.of(lengths, policy, seed=seed, world_size=worlds[-1], after=cursor)
    assert not len(rest)
    assert set(seen) == set(range(len(rest.pieces)))
    twice = sorted(seen)
    assert {left for left, right in pairwise(twice) if left == right} <= set(allowed)
    assert sum(steps for _, steps in cursor.batches_done) == sum(rank_steps)


def test_a_stretch_that_made_no_step_never_was() -> None:
    """A run that died before its first step leaves no trace in the order."""
    fresh = Plan.of(LENGTHS, BUDGET, world_size=2)
    assert same(fresh, Plan.of(LENGTHS, BUDGET, world_size=2, after=Plan.of(LENGTHS, BUDGET, world_size=3).cursor(0)))


def test_a_cursor_of_another_plan() -> None:
    """Refused: of other lengths, policy, seed or options, of another epoch, or behind the end."""
    cursor = Plan.of(LENGTHS, BUDGET).cursor(3)
    for lengths, policy, seed, worst in (
        (LENGTHS[1:], BUDGET, 0, False),
        (LENGTHS, Budget(100), 0, False),
        (LENGTHS, BUDGET, 1, False),
        (LENGTHS, BUDGET, 0, True),
    ):
        with pytest.raises(OptionError, match="^the cursor belongs to other lengths, another policy"):
            Plan.of(lengths, policy, seed=seed, worst_first=worst, after=cursor)
    with pytest.raises(OptionError, match="^the cursor stands in epoch 0, but epoch=1 arrived too"):
        Plan.of(LENGTHS, BUDGET, epoch=1, after=cursor)
    for behind in (Cursor(0, ((1, 10_000),)), Cursor(0, ((2, 10_000), (1, 1)))):
        with pytest.raises(OptionError, match="^the cursor stands behind 10000 steps, but there are"):
            Plan.of(LENGTHS, BUDGET, after=behind)
    with pytest.raises(OptionError, match="^the cursor stands in epoch 3 .* plan anew"):
        Plan.of(LENGTHS, BUDGET).left(Cursor(3))
    with pytest.raises(OptionError, match="^the cursor stands in epoch 0 after .* plan anew"):
        Plan.of(LENGTHS, BUDGET, after=cursor).left(Cursor(0, ((1, 2),)))
    with pytest.raises(OptionError, match="^the cursor stands behind 10000 steps"):
        Plan.of(LENGTHS, BUDGET).cursor(10_000)


def test_cursors() -> None:
    """Stretches on as many ranks are one, and what is no cursor's state is refused."""
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
    with pytest.raises(OptionError, match="^world_size must be a whole number, 1 or more"):
        Cursor(0, ((0, 3),))
    with pytest.raises(OptionError, match="^steps must be a whole number, 0 or more"):
        Cursor(0, ((1, -3),))


def test_a_plan_kept_as_a_file(tmp_path: Path) -> None:
    """Made once, then read where it lies: the same plan, with all that it says of itself."""
    policy = Budget(30, too_long="split")
    made = Plan.of(LENGTHS, policy, world_size=3, cache=tmp_path / "plans")
    (path,) = (tmp_path / "plans").iterdir()
    assert path.name == f"{made.digest}.plan"
    for read in (Plan.of(LENGTHS, policy, world_size=3, cache=tmp_path / "plans"), Plan.read(path)):
        assert isinstance(read.order, np.memmap)
        assert same(made, read)
        assert (made.digest, made.recipe, made.begins) == (read.digest, read.recipe, read.begins)
        assert list(made.pieces) == list(read.pieces)
        assert made.report() == read.report()
        check(read, LENGTHS, policy)
        assert same(made.left(made.cursor(5)), read.left(made.cursor(5)))
    resumed = Plan.of(LENGTHS, policy, world_size=3, after=made.cursor(5), cache=tmp_path / "plans")
    assert same(resumed, made.left(made.cursor(5)))
    assert list((tmp_path / "plans").iterdir()) == [path]
    rank = made.rank(1)
    assert same(Plan.read(rank.save(tmp_path)), rank)
    empty = Plan.of([], policy)
    assert len(Plan.read(empty.save(tmp_path))) == 0


def test_a_kept_file_that_is_damaged(tmp_path: Path) -> None:
    """Cut short anywhere, grown, of another kind or of another name: refused, never a wrong plan."""
    path = Plan.of(LENGTHS, BUDGET, cache=tmp_path).save(tmp_path)
    whole = path.read_bytes()
    for size in (0, 5, 20, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PlanError, match="cannot be read as a plan"):
            Plan.of(LENGTHS, BUDGET, cache=tmp_path)
    for other in (whole + b"x", b"\x93NUMPY" + whole, whole.replace(b'"world_size"', b'"worle"')):
        path.write_bytes(other)
        with pytest.raises(PlanError, match=f"^{path} cannot be read as a plan: .* delete it, and it is made anew"):
            Plan.read(path)
    path.write_bytes(whole)
    path.rename(path.with_stem(Plan.of(LENGTHS, BUDGET, seed=1).digest))
    with pytest.raises(PlanError, match="holds another plan than its name says"):
        Plan.of(LENGTHS, BUDGET, seed=1, cache=tmp_path)


def test_a_kept_file_runs_no_code(tmp_path: Path) -> None:
    """An array of objects is refused before anything is unpickled."""
    path = Plan.of(LENGTHS, BUDGET).save(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"'descr': '<i4'", b"'descr': '|O' ", 1))
    with pytest.raises(PlanError, match="damaged"):
        Plan.read(path)


def test_nothing_half_written_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full leaves no file, and no name that another process could take for a plan."""

    def full(*_: object, **__: object) -> None:
        msg = "no space left on device"
        raise OSError(msg)

    monkeypatch.setattr("pipeline.batching.file.npy.write_array", full)
    with pytest.raises(OSError, match="no space left"):
        Plan.of(LENGTHS, BUDGET, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_many_at_once_keep_one_plan(tmp_path: Path) -> None:
    """Ranks that start together write one file, each of them all of it, and have the same plan."""

    def kept(_: int) -> Plan:
        return Plan.of(range(3_000), Budget(9_000), world_size=2, cache=tmp_path)

    with ThreadPoolExecutor(8) as ranks:
        plans = list(ranks.map(kept, range(16)))
    assert all(same(plans[0], plan) for plan in plans)
    assert [path.stem for path in tmp_path.iterdir()] == [plans[0].digest]


def test_what_is_covered_over_stretches() -> None:
    """The coverage of an epoch in two stretches, on two numbers of ranks."""
    first = Plan.of(LENGTHS, BUDGET, world_size=2)
    cursor = first.cursor(4)
    done = first.left(Cursor(0))
    assert Coverage.of(done).complete
    rest = Plan.of(LENGTHS, BUDGET, world_size=1, after=cursor)
    assert len(Coverage.of(rest).missing) == sum(map(len, [*first][:8]))
    assert Coverage.of(rest, rest).doubled.tolist() == sorted(row for batch in rest for row in batch.tolist())
    with pytest.raises(OptionError, match="^the coverage of one plan"):
        Coverage.of()
