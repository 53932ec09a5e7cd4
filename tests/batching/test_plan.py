"""Plans: every row once, within the policy, equal on ranks, the same in every process, and kept in files."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.array_file import read_arrays, write_arrays
from pipeline.batching import Budget, Plan, Policy, Rows
from pipeline.errors import OptionError, PlanError, SourceError
from support.batching_oracle import LONGEST, POLICIES, check, draw_lengths, same

LENGTHS = draw_lengths(120)
BUDGET = Budget(100, batches_per_sort=3)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_ranks_have_equal_numbers_of_batches(policy: Policy) -> None:
    """For any number of ranks and rows: equal numbers of batches, none empty, each row once except stated repeats."""
    counts = [*range(9), 15, 16, 17, 33, 70, 200]
    for world_size in range(1, 17):
        for rows in counts:
            lengths = draw_lengths(rows, world_size)
            plan = Plan.of(lengths, policy, world_size=world_size, seed=rows, worst_first=rows % 2 == 1)
            check(plan, lengths, policy)
            ranks = [plan.rank(rank) for rank in range(world_size)]
            assert len({len(rank) for rank in ranks}) == 1
            assert bool(len(ranks[0])) == bool(rows)
            assert len(plan.repeated) < world_size
            assert not len(plan.repeated) or len(plan.splits) < len(plan)


@given(
    lengths=st.lists(st.integers(0, LONGEST), max_size=200),
    policy=st.sampled_from(POLICIES),
    seed=st.one_of(st.none(), st.integers(0, 2**70)),
    epoch=st.integers(0, 9),
    world_size=st.integers(1, 5),
)
def test_plan_keeps_to_its_policy(
    lengths: list[int], policy: Policy, seed: int | None, epoch: int, world_size: int
) -> None:
    """For any rows, the plan respects its policy, its figures are true, and the integer type does not matter."""
    plan = Plan.of(lengths, policy, seed=seed, epoch=epoch, world_size=world_size)
    check(plan, lengths, policy)
    report = plan.report()
    assert (report.batches, report.padded) == (len(plan), sum(rows * steps for rows, steps in plan.shapes.tolist()))
    assert same(plan, Plan.of(np.array(lengths, np.uint8), policy, seed=seed, epoch=epoch, world_size=world_size))


def test_another_process_builds_the_same_plan() -> None:
    """A plan depends on lengths, policy, seed, epoch and ranks only, not on the hash seed of the process."""
    lengths = np.arange(50_000) * 7919 % 300
    here = Plan.of(lengths, Budget(4_096), seed=5, epoch=2, world_size=3)
    program = (
        "import numpy as np\n"
        "from pipeline.batching import Budget, Plan\n"
        "plan = Plan.of(np.arange(50_000) * 7919 % 300, Budget(4_096), seed=5, epoch=2, world_size=3)\n"
        "print(plan.digest, [batch.tolist() for batch in plan])"
    )
    there = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONHASHSEED": "4321"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert there.stdout == f"{here.digest} {[batch.tolist() for batch in here]}\n"


def test_the_order_never_changes() -> None:
    """A pinned plan: another order or digest would break the cursors in checkpoints; see `_VERSION` in builder.py."""
    plan = Plan.of([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], Budget(12), seed=1, epoch=2, world_size=2)
    assert [batch.tolist() for batch in plan] == [[7, 10], [5], [9], [6, 3, 1], [8, 4], [2, 0]]
    assert plan.digest == "7012a354026ec1c9fe68b4fa1cf67ba2"


def test_each_epoch_and_seed_has_its_own_order() -> None:
    """Four seeds and four epochs give 16 different plans, but only four recipes."""
    lengths = draw_lengths(300)
    plans = [Plan.of(lengths, Rows(8), seed=seed, epoch=epoch) for seed in range(4) for epoch in range(4)]
    assert len({str([batch.tolist() for batch in plan]) for plan in plans}) == 16
    assert len({plan.digest for plan in plans}) == 16
    assert len({plan.recipe for plan in plans}) == 4


def test_global_random_state_is_not_used() -> None:
    """A plan neither draws from numpy's global generator nor depends on its state."""
    lengths = draw_lengths(300)
    np.random.seed(1)  # noqa: NPY002 - the global generator, on purpose
    first = Plan.of(lengths, Rows(8))
    drawn_after = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.random.random() == drawn_after  # noqa: NPY002
    assert same(first, Plan.of(lengths, Rows(8)))


def test_invalid_options_are_rejected() -> None:
    """The error names the option and its rule."""
    with pytest.raises(OptionError, match="^world_size must be an integer of at least 1, got 0"):
        Plan.of([1], Rows(1), world_size=0)
    with pytest.raises(OptionError, match="^seed must be an integer of at least 0, got -1"):
        Plan.of([1], Rows(1), seed=-1)
    with pytest.raises(OptionError, match="^epoch must be an integer of at least 0, got -1"):
        Plan.of([1], Rows(1), epoch=-1)
    with pytest.raises(OptionError, match="^rank must be below world_size=2, got 2"):
        Plan.of([1], Rows(1), world_size=2).rank(2)
    with pytest.raises(OptionError, match="^rank must be selected in a plan of all ranks, got 1 in the plan of rank 0"):
        Plan.of([1], Rows(1), world_size=2).rank(0).rank(1)


def test_a_plan_is_read_back_from_the_cache(tmp_path: Path) -> None:
    """The plan in the file equals the one that was built, with all its attributes."""
    policy = Budget(30, too_long="split")
    built = Plan.of(LENGTHS, policy, world_size=3, cache=tmp_path / "plans")
    (path,) = (tmp_path / "plans").iterdir()
    assert path.name == f"{built.digest}.plan"
    for read in (Plan.of(LENGTHS, policy, world_size=3, cache=tmp_path / "plans"), Plan.read(path)):
        assert isinstance(read.order.base, np.memmap)
        assert same(built, read)
        assert (built.digest, built.recipe, built.start) == (read.digest, read.recipe, read.start)
        assert list(built.splits) == list(read.splits)
        assert built.report() == read.report()
        check(read, LENGTHS, policy)
        assert same(built.resume(built.cursor(5)), read.resume(built.cursor(5)))
    resumed = Plan.of(LENGTHS, policy, world_size=3, after=built.cursor(5), cache=tmp_path / "plans")
    assert same(resumed, built.resume(built.cursor(5)))
    assert list((tmp_path / "plans").iterdir()) == [path]
    rank = built.rank(1)
    assert same(Plan.read(rank.save(tmp_path)), rank)
    empty = Plan.of([], policy)
    assert len(Plan.read(empty.save(tmp_path))) == 0


def test_a_damaged_plan_is_rejected(tmp_path: Path) -> None:
    """A file that is truncated, longer, of another kind or renamed raises an error, and never gives a wrong plan."""
    path = Plan.of(LENGTHS, BUDGET, cache=tmp_path).save(tmp_path)
    whole = path.read_bytes()
    for size in (0, 5, 20, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PlanError, match="cannot be read as a plan"):
            Plan.of(LENGTHS, BUDGET, cache=tmp_path)
    path.write_bytes(whole)
    saved = read_arrays(path)
    arrays, metadata = {name: array.copy() for name, array in saved.arrays.items()}, dict(saved.metadata)
    others = [whole + b"x", b"\x93NUMPY" + whole, whole.replace(b'"order": ', b'"ordre": ', 1)]
    for wrong in ({}, {**metadata, "kind": "tokens"}, {**metadata, "world_size": "3"}, {**metadata, "start": 3}):
        write_arrays(path, arrays, wrong)
        others.append(path.read_bytes())
    write_arrays(path, {**arrays, "steps": np.ones(3)}, metadata)
    others.append(path.read_bytes())
    for other in others:
        path.write_bytes(other)
        with pytest.raises(PlanError, match=f"^{path} cannot be read as a plan: .*; delete it, so that it is written"):
            Plan.read(path)
    path.write_bytes(whole)
    path.rename(path.with_stem(Plan.of(LENGTHS, BUDGET, seed=1).digest))
    with pytest.raises(PlanError, match="it has another plan than its name says"):
        Plan.of(LENGTHS, BUDGET, seed=1, cache=tmp_path)


def test_an_error_while_writing_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk leaves no file, so that no other process takes half a plan for a whole one."""

    def fail(*_: object, **__: object) -> None:
        msg = "no space left on device"
        raise OSError(msg)

    monkeypatch.setattr("pipeline.array_file.os.fsync", fail)
    with pytest.raises(SourceError, match="the cache cannot be written to .*: no space left on device; free some"):
        Plan.of(LENGTHS, BUDGET, cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_ranks_that_start_together_share_one_plan(tmp_path: Path) -> None:
    """Threads that build and cache the same plan at once leave one file, and have the same plan."""

    def build(_: int) -> Plan:
        return Plan.of(range(3_000), Budget(9_000), world_size=2, cache=tmp_path)

    with ThreadPoolExecutor(8) as ranks:
        plans = list(ranks.map(build, range(16)))
    assert all(same(plans[0], plan) for plan in plans)
    assert [path.stem for path in tmp_path.iterdir()] == [plans[0].digest]
