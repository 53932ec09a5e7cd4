"""`PlannedBatches`: every row once per epoch over all ranks, and exact resumption from any state."""

import json
import random
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from pipeline import FromIds, Pad
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes
from pipeline.errors import OptionError
from pipeline.loading import PlannedBatches, RowDataset
from support.untyped import to_list

POLICIES: list[Policy] = [
    Rows(3),
    Budget(24, batches_per_sort=2),
    Boundaries((4, 8), rows=4),
    Shapes([(2, 12), (6, 4)]),
    Budget(7, too_long="split"),
]


def draw_lengths(rows: int, longest: int = 12) -> list[int]:
    """Draw lengths at random, the same at every call."""
    generator = random.Random(rows)
    return [generator.randint(0, longest) for _ in range(rows)]


def make_sampler(counts: list[int], policy: Policy, rank: int = 0, world_size: int = 1) -> PlannedBatches:
    """Make the sampler of a rank."""
    return PlannedBatches(counts, policy, seed=5, rank=rank, world_size=world_size)


def copy_as_json(state: dict[str, object]) -> dict[str, object]:
    """Write a state as JSON and read it."""
    return dict(json.loads(json.dumps(state)))


def take(batches: PlannedBatches, count: int | None = None) -> list[list[int]]:
    """Return the next `count` batches, or all that are left."""
    return list(islice(iter(batches), count))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [0, 1, 4, 7, 60])
def test_ranks_share_the_rows_in_equal_numbers_of_batches(policy: Policy, world_size: int, rows: int) -> None:
    """Every row is in one batch, except those that the plan repeats because there are too few rows."""
    counts = draw_lengths(rows)
    ranks = [make_sampler(counts, policy, rank, world_size) for rank in range(world_size)]
    for _ in range(2):
        plan = ranks[0].plan
        given = [take(batches) for batches in ranks]
        assert {len(batches) for batches in given} == {len(plan)}
        repeated: list[int] = plan.repeated.tolist()
        wanted = Counter([*range(len(plan.splits)), *repeated])
        assert Counter(number for batches in given for batch in batches for number in batch) == wanted
        assert all(batch for batches in given for batch in batches)


def test_a_loop_that_counts_batches_ends_the_epoch() -> None:
    """It takes `len(batches)` batches and does not ask for one more."""
    batches = make_sampler(draw_lengths(50), Rows(4))
    wanted = take(make_sampler(draw_lengths(50), Rows(4)))
    assert take(batches, len(batches)) == wanted
    batches.set_epoch(0)
    assert take(batches, len(batches)) == wanted
    following = take(batches, 3)
    assert batches.epoch == 1
    assert following != wanted[:3]
    resumed = make_sampler(draw_lengths(50), Rows(4))
    first = make_sampler(draw_lengths(50), Rows(4))
    take(first, 3)
    resumed.load_state_dict(first.state_dict())
    assert take(resumed, len(resumed) - 3) == wanted[3:]
    resumed.set_epoch(1)
    assert take(resumed, 3) == following


def test_the_batches_are_those_of_the_plan() -> None:
    """A sampler adds nothing: epoch after epoch, and rank by rank."""
    counts, policy = draw_lengths(50), Budget(24, batches_per_sort=2)
    batches = make_sampler(counts, policy, 1, 2)
    for epoch in range(3):
        plan = Plan.of(counts, policy, seed=5, epoch=epoch, world_size=2).rank(1)
        assert batches.epoch == epoch
        assert len(batches) == len(plan)
        assert take(batches) == [batch.tolist() for batch in plan]


def test_epochs_follow_each_other_or_are_set() -> None:
    """An epoch that was left early is followed by the next one, and starts again if it is set."""
    batches = make_sampler(draw_lengths(50), Rows(4))
    first = take(batches)
    second = take(batches)
    assert first != second
    batches.set_epoch(0)
    assert take(batches, 3) == first[:3]
    assert take(batches, 3) == second[:3]
    batches.set_epoch(0)
    assert take(batches, 3) == first[:3]
    batches.set_epoch(0)
    assert take(batches) == first
    batches.set_epoch(0)
    batches.set_epoch(1)
    batches.set_epoch(1)
    assert batches.sampler.epoch == 1
    assert take(batches) == second


@given(
    rows=st.integers(1, 40),
    policy=st.sampled_from(POLICIES),
    cuts=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    world_size=st.integers(1, 3),
)
def test_a_state_at_any_batch_resumes_exactly(rows: int, policy: Policy, cuts: list[int], world_size: int) -> None:
    """One to four times, each time with a new sampler: the rest of the epoch, and the next epoch."""
    counts = draw_lengths(rows)
    for rank in range(world_size):
        whole = make_sampler(counts, policy, rank, world_size)
        wanted, following = take(whole), take(whole)
        found: list[list[int]] = []
        resumed = make_sampler(counts, policy, rank, world_size)
        for cut in cuts:
            iteration = iter(resumed)
            steps = min(cut, len(wanted) - len(found))
            found += [next(iteration) for _ in range(steps)]
            state = copy_as_json(resumed.state_dict())
            resumed = make_sampler(counts, policy, rank, world_size)
            resumed.load_state_dict(state)
            assert len(resumed) == len(wanted)
        assert found + take(resumed) == wanted
        assert resumed.epoch == 1
        assert take(resumed) == following


def test_a_state_at_every_batch_resumes_exactly() -> None:
    """From before the first batch to after the last."""
    counts = draw_lengths(60)
    wanted = take(make_sampler(counts, Budget(24)))
    for cut in range(len(wanted) + 1):
        first = make_sampler(counts, Budget(24))
        before = take(first, cut)
        resumed = make_sampler(counts, Budget(24))
        resumed.load_state_dict(copy_as_json(first.state_dict()))
        assert before + take(resumed) == wanted


@given(
    rows=st.integers(0, 60),
    worlds=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    policy=st.sampled_from(POLICIES),
)
def test_each_remaining_row_is_served_once_on_other_numbers_of_ranks(
    rows: int, worlds: list[int], policy: Policy
) -> None:
    """For any sequence of numbers of ranks, with two steps on each."""
    counts = draw_lengths(rows)
    found: Counter[int] = Counter()
    allowed = Counter(range(len(make_sampler(counts, policy).splits)))
    state: dict[str, object] | None = None
    for turn, world_size in enumerate(worlds):
        ranks = [make_sampler(counts, policy, rank, world_size) for rank in range(world_size)]
        for batches in ranks:
            if state is not None:
                batches.load_state_dict(state)
        allowed += Counter(ranks[0].plan.repeated.tolist())
        steps = min(2, len(ranks[0].plan))
        given = [take(batches, None if turn == len(worlds) - 1 else steps) for batches in ranks]
        assert len({len(batches) for batches in given}) == 1
        found += Counter(number for batches in given for batch in batches for number in batch)
        states = [copy_as_json(batches.state_dict()) for batches in ranks]
        assert all(one == states[0] for one in states)
        state = states[0]
    assert set(found) == set(allowed)
    assert found <= allowed


def test_without_split_by_rank_the_batches_of_all_ranks_are_yielded() -> None:
    """Those of one step one after the other, so that every n-th is a rank's; a state may be between them."""
    counts = draw_lengths(50)
    every = PlannedBatches(counts, Rows(4), seed=5, rank=1, world_size=3, split_by_rank=False)
    given, following = take(every), take(every)
    assert len(given) == len(PlannedBatches(counts, Rows(4), rank=1, world_size=3, split_by_rank=False))
    for rank in range(3):
        assert given[rank::3] == take(make_sampler(counts, Rows(4), rank, 3))
    for cut in range(len(given) + 1):
        first = PlannedBatches(counts, Rows(4), seed=5, rank=1, world_size=3, split_by_rank=False)
        before = take(first, cut)
        resumed = PlannedBatches(counts, Rows(4), seed=5, rank=0, world_size=3, split_by_rank=False)
        resumed.load_state_dict(copy_as_json(first.state_dict()))
        assert before + take(resumed) == given
        assert len(resumed) == len(given)
        assert take(resumed) == following
    assert every.drop_last is False


def test_the_batches_of_a_rank_are_not_split_again() -> None:
    """Libraries read `drop_last` before they split batches; there is no batch size to read."""
    with pytest.raises(OptionError, match="already belong to one rank of 2; splitting them again would drop most rows"):
        _ = make_sampler([1, 2], Rows(1), 0, 2).drop_last
    assert make_sampler([1, 2], Rows(1)).drop_last is False
    assert not hasattr(make_sampler([1, 2], Rows(1)), "batch_size")


def test_a_stock_loader_takes_planned_batches() -> None:
    """As its batch sampler, with `Pad` as its collate function."""
    counts = draw_lengths(40)
    rows = RowDataset([[7] * count for count in counts], FromIds())
    loader = DataLoader(rows, batch_sampler=make_sampler(counts, Budget(24)), collate_fn=Pad())
    wanted = take(make_sampler(counts, Budget(24)))
    assert [to_list(batch.metadata.row_ids) for batch in loader] == wanted
    assert len(loader) == len(wanted)


def test_lengths_may_be_lists_arrays_tensors_and_pairs() -> None:
    """As for `Plan.of`."""
    given = [
        take(PlannedBatches(lengths, Rows(2))) for lengths in ([3, 1, 2], np.array([3, 1, 2]), torch.tensor([3, 1, 2]))
    ]
    assert given[0] == given[1] == given[2]
    assert sorted(number for batch in take(PlannedBatches([(3, 4), (1, 9)], Rows(1))) for number in batch) == [0, 1]


def test_plans_are_cached(tmp_path: Path) -> None:
    """They are written to the given folder and read from it."""
    wanted = take(PlannedBatches(draw_lengths(30), Rows(4), cache=tmp_path))
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert take(PlannedBatches(draw_lengths(30), Rows(4), cache=tmp_path)) == wanted
    assert file.stat().st_mtime_ns == written


REJECTED: list[tuple[Callable[[], object], str]] = [
    (
        lambda: PlannedBatches([1], Rows(1), rank=0),
        "rank and world_size must be given together, got rank=0 and world_size=None",
    ),
    (
        lambda: PlannedBatches([1], Rows(1), rank=2, world_size=2),
        "rank must be below world_size, got rank=2 and world_size=2",
    ),
    (
        lambda: PlannedBatches([1], Rows(1), rank=-1, world_size=2),
        "rank must be .*-1",
    ),
    (
        lambda: make_sampler([1], Rows(1)).load_state_dict({"epoch": 3}),
        "state must have cursor, within_step and world_size, got {'epoch': 3}",
    ),
    (
        lambda: make_sampler([1], Rows(2)).load_state_dict(make_sampler([1], Rows(1)).state_dict()),
        "cursor must belong to the same lengths, policy, seed",
    ),
    (lambda: make_sampler([1], Rows(1)).set_epoch(-1), "epoch must be .*-1"),
]


@pytest.mark.parametrize(("wrong", "message"), REJECTED)
def test_bad_options_and_states_are_rejected(wrong: Callable[[], object], message: str) -> None:
    """The message has the rule and the value."""
    with pytest.raises(OptionError, match=message):
        wrong()


def test_the_rest_of_an_epoch_is_not_lost_silently() -> None:
    """A loop counts epochs from 0 again after a state of epoch 1 was loaded."""
    first = make_sampler(draw_lengths(20), Rows(4))
    first.set_epoch(1)
    take(first, 2)
    resumed = make_sampler(draw_lengths(20), Rows(4))
    resumed.load_state_dict(first.state_dict())
    with pytest.raises(
        OptionError, match=r"epoch must be 1, because the loaded state is within that epoch.*got set_epoch\(0\)"
    ):
        resumed.set_epoch(0)
    resumed.set_epoch(1)
    take(resumed)
    resumed.set_epoch(0)
    assert resumed.epoch == 0


def test_a_state_within_a_step_needs_the_same_number_of_ranks() -> None:
    """Otherwise some batches of that step would be lost or repeated."""
    first = PlannedBatches(draw_lengths(20), Rows(2), rank=0, world_size=2, split_by_rank=False)
    take(first, 3)
    resumed = PlannedBatches(draw_lengths(20), Rows(2), rank=0, world_size=3, split_by_rank=False)
    with pytest.raises(OptionError, match="saved after 1 of the 2 batches of one training step, but there are 3 ranks"):
        resumed.load_state_dict(first.state_dict())


def test_launched_but_not_joined_processes_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """When batches are requested, not before: a script may make its loaders before it joins the others."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    batches = PlannedBatches([1, 2], Rows(1))
    with pytest.raises(OptionError, match="WORLD_SIZE is 2, but torch.distributed is not initialized"):
        len(batches)
    assert len(make_sampler([1, 2], Rows(1))) == 2
