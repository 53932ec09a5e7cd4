"""Planned batches: every row once an epoch on all ranks together, and from any state the very same rest."""

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
from support.untyped import listed

POLICIES: list[Policy] = [
    Rows(3),
    Budget(24, batches_per_sort=2),
    Boundaries((4, 8), rows=4),
    Shapes([(2, 12), (6, 4)]),
    Budget(7, too_long="split"),
]


def drawn(rows: int, longest: int = 12) -> list[int]:
    """Lengths at random, the same at every call."""
    generator = random.Random(rows)
    return [generator.randint(0, longest) for _ in range(rows)]


def sampler(counts: list[int], policy: Policy, rank: int = 0, world_size: int = 1) -> PlannedBatches:
    """The batches of a rank."""
    return PlannedBatches(counts, policy, seed=5, rank=rank, world_size=world_size)


def through_json(state: dict[str, object]) -> dict[str, object]:
    """A state, written and read."""
    return dict(json.loads(json.dumps(state)))


def taken(batches: PlannedBatches, count: int | None = None) -> list[list[int]]:
    """So many of its batches, or all that are left; the iteration is left where it is."""
    return list(islice(iter(batches), count))


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [0, 1, 4, 7, 60])
def test_every_row_once_and_as_many_batches_for_each_rank(policy: Policy, world_size: int, rows: int) -> None:
    """Rows beyond once are those that the plan says it repeats, and there are none unless rows are too few."""
    counts = drawn(rows)
    ranks = [sampler(counts, policy, rank, world_size) for rank in range(world_size)]
    for _ in range(2):
        plan = ranks[0].plan
        given = [taken(batches) for batches in ranks]
        assert {len(batches) for batches in given} == {len(plan)}
        repeated: list[int] = plan.repeated.tolist()
        wanted = Counter([*range(len(plan.splits)), *repeated])
        assert Counter(number for batches in given for batch in batches for number in batch) == wanted
        assert all(batch for batches in given for batch in batches)


def test_a_loop_that_counts_ends_an_epoch_too() -> None:
    """It takes as many batches as there are, and does not ask for one more."""
    batches = sampler(drawn(50), Rows(4))
    wanted = taken(sampler(drawn(50), Rows(4)))
    assert taken(batches, len(batches)) == wanted
    batches.set_epoch(0)
    assert taken(batches, len(batches)) == wanted
    following = taken(batches, 3)
    assert batches.epoch == 1
    assert following != wanted[:3]
    resumed = sampler(drawn(50), Rows(4))
    first = sampler(drawn(50), Rows(4))
    taken(first, 3)
    resumed.load_state_dict(first.state_dict())
    assert taken(resumed, len(resumed) - 3) == wanted[3:]
    resumed.set_epoch(1)
    assert taken(resumed, 3) == following


def test_the_batches_are_those_of_the_plan() -> None:
    """A sampler adds nothing: epoch after epoch, and rank by rank."""
    counts, policy = drawn(50), Budget(24, batches_per_sort=2)
    batches = sampler(counts, policy, 1, 2)
    for epoch in range(3):
        plan = Plan.of(counts, policy, seed=5, epoch=epoch, world_size=2).rank(1)
        assert batches.epoch == epoch
        assert len(batches) == len(plan)
        assert taken(batches) == [batch.tolist() for batch in plan]


def test_epochs_are_said_or_follow_each_other() -> None:
    """An epoch that was left early begins again, and one that is said is kept."""
    batches = sampler(drawn(50), Rows(4))
    first = taken(batches)
    second = taken(batches)
    assert first != second
    batches.set_epoch(0)
    assert taken(batches, 3) == first[:3]
    assert taken(batches, 3) == first[:3]
    batches.set_epoch(0)
    batches.set_epoch(1)
    batches.set_epoch(1)
    assert batches.sampler.epoch == 1
    assert taken(batches) == second


@given(
    rows=st.integers(1, 40),
    policy=st.sampled_from(POLICIES),
    cuts=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    world_size=st.integers(1, 3),
)
def test_a_state_at_any_batch_brings_the_very_same_rest(
    rows: int, policy: Policy, cuts: list[int], world_size: int
) -> None:
    """Resumed one to four times, each time by a new sampler; of this epoch, and of the next."""
    counts = drawn(rows)
    for rank in range(world_size):
        whole = sampler(counts, policy, rank, world_size)
        wanted, following = taken(whole), taken(whole)
        found: list[list[int]] = []
        resumed = sampler(counts, policy, rank, world_size)
        for cut in cuts:
            iteration = iter(resumed)
            steps = min(cut, len(wanted) - len(found))
            found += [next(iteration) for _ in range(steps)]
            state = through_json(resumed.state_dict())
            resumed = sampler(counts, policy, rank, world_size)
            resumed.load_state_dict(state)
            assert len(resumed) == len(wanted)
        assert found + taken(resumed) == wanted
        assert resumed.epoch == 1
        assert taken(resumed) == following


def test_a_state_at_every_batch() -> None:
    """The first, the last, and none."""
    counts = drawn(60)
    wanted = taken(sampler(counts, Budget(24)))
    for cut in range(len(wanted) + 1):
        first = sampler(counts, Budget(24))
        before = taken(first, cut)
        resumed = sampler(counts, Budget(24))
        resumed.load_state_dict(through_json(first.state_dict()))
        assert before + taken(resumed) == wanted


@given(
    rows=st.integers(0, 60),
    worlds=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    policy=st.sampled_from(POLICIES),
)
def test_on_other_ranks_each_row_that_is_left_comes_once(rows: int, worlds: list[int], policy: Policy) -> None:
    """Whatever numbers of ranks follow each other, two steps on each."""
    counts = drawn(rows)
    found: Counter[int] = Counter()
    allowed = Counter(range(len(sampler(counts, policy).splits)))
    state: dict[str, object] | None = None
    for turn, world_size in enumerate(worlds):
        ranks = [sampler(counts, policy, rank, world_size) for rank in range(world_size)]
        for batches in ranks:
            if state is not None:
                batches.load_state_dict(state)
        allowed += Counter(ranks[0].plan.repeated.tolist())
        steps = min(2, len(ranks[0].plan))
        given = [taken(batches, None if turn == len(worlds) - 1 else steps) for batches in ranks]
        assert len({len(batches) for batches in given}) == 1
        found += Counter(number for batches in given for batch in batches for number in batch)
        states = [through_json(batches.state_dict()) for batches in ranks]
        assert all(one == states[0] for one in states)
        state = states[0]
    assert set(found) == set(allowed)
    assert found <= allowed


def test_what_deals_out_batches_itself_gets_all_of_them() -> None:
    """Those of a step one after the other, so that every n-th is a rank's own; a state may stand between them."""
    counts = drawn(50)
    every = PlannedBatches(counts, Rows(4), seed=5, rank=1, world_size=3, split_by_rank=False)
    given = taken(every)
    assert len(given) == len(PlannedBatches(counts, Rows(4), rank=1, world_size=3, split_by_rank=False))
    for rank in range(3):
        assert given[rank::3] == taken(sampler(counts, Rows(4), rank, 3))
    for cut in range(len(given) + 1):
        first = PlannedBatches(counts, Rows(4), seed=5, rank=1, world_size=3, split_by_rank=False)
        before = taken(first, cut)
        resumed = PlannedBatches(counts, Rows(4), seed=5, rank=0, world_size=3, split_by_rank=False)
        resumed.load_state_dict(through_json(first.state_dict()))
        assert before + taken(resumed) == given
        assert len(resumed) == len(given)
        assert taken(resumed, 1) == [taken(every, 1)[0]]
    assert every.drop_last is False


def test_a_rank_s_own_batches_are_not_dealt_out_again() -> None:
    """What deals out batches asks for drop_last first; no batch size is said, since there is none."""
    with pytest.raises(OptionError, match=r"the batches of one rank of 2 already, but what reads drop_last deals them"):
        _ = sampler([1, 2], Rows(1), 0, 2).drop_last
    assert sampler([1, 2], Rows(1)).drop_last is False
    assert not hasattr(sampler([1, 2], Rows(1)), "batch_size")


def test_a_stock_loader_takes_them() -> None:
    """As its batch sampler, with `Pad` to collate."""
    counts = drawn(40)
    rows = RowDataset([[7] * count for count in counts], FromIds())
    loader = DataLoader(rows, batch_sampler=sampler(counts, Budget(24)), collate_fn=Pad())
    wanted = taken(sampler(counts, Budget(24)))
    assert [listed(batch.metadata.places) for batch in loader] == wanted
    assert len(loader) == len(wanted)


def test_lengths_may_be_arrays_tensors_and_pairs() -> None:
    """As a plan takes them."""
    given = [
        taken(PlannedBatches(lengths, Rows(2))) for lengths in ([3, 1, 2], np.array([3, 1, 2]), torch.tensor([3, 1, 2]))
    ]
    assert given[0] == given[1] == given[2]
    assert sorted(number for batch in taken(PlannedBatches([(3, 4), (1, 9)], Rows(1))) for number in batch) == [0, 1]


def test_plans_are_kept(tmp_path: Path) -> None:
    """In the folder that is said, and read from there."""
    wanted = taken(PlannedBatches(drawn(30), Rows(4), cache=tmp_path))
    (kept,) = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    assert taken(PlannedBatches(drawn(30), Rows(4), cache=tmp_path)) == wanted
    assert kept.stat().st_mtime_ns == written


REFUSED: list[tuple[Callable[[], object], str]] = [
    (
        lambda: PlannedBatches([1], Rows(1), rank=0),
        "rank and world_size are given together or not at all, but rank=0 and wor",
    ),
    (
        lambda: PlannedBatches([1], Rows(1), rank=2, world_size=2),
        "rank must be below world_size, but rank=2 arrived with world_size=2",
    ),
    (
        lambda: PlannedBatches([1], Rows(1), rank=-1, world_size=2),
        "rank must be a whole number, 0 or more, but -1 arrived",
    ),
    (
        lambda: sampler([1], Rows(1)).load_state_dict({"epoch": 3}),
        "a state of batches has cursor, within and world_size, but",
    ),
    (
        lambda: sampler([1], Rows(2)).load_state_dict(sampler([1], Rows(1)).state_dict()),
        "the cursor belongs to other lengths, another policy",
    ),
    (lambda: sampler([1], Rows(1)).set_epoch(-1), "epoch must be a whole number, 0 or more, but -1 arrived"),
]


@pytest.mark.parametrize(("wrong", "message"), REFUSED)
def test_bad_options_and_states_are_refused(wrong: Callable[[], object], message: str) -> None:
    """With the rule, what arrived, and what to do."""
    with pytest.raises(OptionError, match=message):
        wrong()


def test_the_rest_of_an_epoch_is_not_lost_in_silence() -> None:
    """A loop that counts epochs from 0 again after a state of epoch 1 was loaded."""
    first = sampler(drawn(20), Rows(4))
    first.set_epoch(1)
    taken(first, 2)
    resumed = sampler(drawn(20), Rows(4))
    resumed.load_state_dict(first.state_dict())
    with pytest.raises(OptionError, match=r"stands within epoch 1, but set_epoch\(0\) arrived, and the rest of that"):
        resumed.set_epoch(0)
    resumed.set_epoch(1)
    taken(resumed)
    resumed.set_epoch(0)
    assert resumed.epoch == 0


def test_a_step_that_is_half_dealt_out_needs_as_many_ranks() -> None:
    """Else some of its batches were lost, or came twice."""
    first = PlannedBatches(drawn(20), Rows(2), rank=0, world_size=2, split_by_rank=False)
    taken(first, 3)
    resumed = PlannedBatches(drawn(20), Rows(2), rank=0, world_size=3, split_by_rank=False)
    with pytest.raises(OptionError, match="the state stands behind 1 of the 2 batches of one step, but there are 3"):
        resumed.load_state_dict(first.state_dict())


def test_launched_but_not_joined_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When batches are asked for, and not before: a script makes its loaders before it joins."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    batches = PlannedBatches([1, 2], Rows(1))
    with pytest.raises(OptionError, match="WORLD_SIZE is 2, but torch.distributed is not initialised"):
        len(batches)
    assert len(sampler([1, 2], Rows(1))) == 2
