"""Plans: every row once, budgets kept, equal counts for ranks, the same in every process."""

import os
import random
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batching import Budget, Coverage, Piece, Plan, Policy, Rows, Shapes
from pipeline.errors import LengthError, OptionError, ShapeError
from support.batching_oracle import LONGEST, POLICIES, check, descending, same


def drawn(rows: int, seed: int = 0, longest: int = LONGEST) -> list[int]:
    """Lengths at random, the same at every call."""
    generator = random.Random(f"{rows}/{seed}")
    return [generator.randint(0, longest) for _ in range(rows)]


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_every_world_and_number_of_rows(policy: Policy) -> None:
    """As many batches for each rank, none without any, each row once but for those that are said to be repeated."""
    counts = [*range(9), 15, 16, 17, 33, 70, 200]
    for world_size in range(1, 17):
        for rows in counts:
            lengths = drawn(rows, world_size)
            plan = Plan.of(lengths, policy, world_size=world_size, seed=rows, worst_first=rows % 2 == 1)
            check(plan, lengths, policy)
            ranks = [plan.rank(rank) for rank in range(world_size)]
            assert len({len(rank) for rank in ranks}) == 1
            assert bool(len(ranks[0])) == bool(rows)
            assert len(plan.repeated) < world_size
            assert not len(plan.repeated) or len(plan.pieces) < len(plan)


@given(
    lengths=st.lists(st.integers(0, LONGEST), max_size=200),
    policy=st.sampled_from(POLICIES),
    seed=st.one_of(st.none(), st.integers(0, 2**70)),
    epoch=st.integers(0, 9),
    world_size=st.integers(1, 5),
)
def test_whatever_the_rows(lengths: list[int], policy: Policy, seed: int | None, epoch: int, world_size: int) -> None:
    """The plan is what its policy says, and says of itself what is so."""
    plan = Plan.of(lengths, policy, seed=seed, epoch=epoch, world_size=world_size)
    check(plan, lengths, policy)
    report = plan.report()
    assert (report.batches, report.padded) == (len(plan), sum(rows * steps for rows, steps in plan.shapes.tolist()))
    assert same(plan, Plan.of(np.array(lengths, np.uint8), policy, seed=seed, epoch=epoch, world_size=world_size))


def test_ranks_have_batches_of_like_size() -> None:
    """At one step, no rank's batch is much longer than another's; over the epoch they differ widely."""
    plan = Plan.of(drawn(5_000), Rows(8), world_size=4)
    widths = plan.longest.reshape(-1, 4)
    assert (widths.max(axis=1) - widths.min(axis=1)).max() <= 2
    assert np.ptp(widths) > 30
    # And no rank has the longer ones always.
    assert np.ptp(widths.mean(axis=0)) < 0.2


def test_the_worst_step_comes_first() -> None:
    """The costliest batch of all is one of the first step's, and nothing else is changed."""
    lengths = [*drawn(500), 200]
    for policy in (Budget(1_000), Budget(3_000, quadratic=30), Rows(4)):
        plain, worst = (Plan.of(lengths, policy, world_size=3, worst_first=first) for first in (False, True))
        cost = policy.work(worst.shapes)
        assert cost[:3].max() == cost.max()
        assert sorted(map(tuple, plain)) == sorted(map(tuple, worst))
        assert plain.recipe != worst.recipe


def test_rows_that_do_not_go_round() -> None:
    """Five rows for four ranks: three are repeated, or one is dropped, or all is refused."""
    lengths = [3, 1, 4, 1, 5]
    repeated = Plan.of(lengths, Rows(1), world_size=4)
    assert (len(repeated), len(repeated.repeated), len(repeated.dropped)) == (8, 3, 0)
    dropped = Plan.of(lengths, Rows(1), world_size=4, uneven="drop")
    assert (len(dropped), len(dropped.repeated), len(dropped.dropped)) == (4, 0, 1)
    check(dropped, lengths, Rows(1))
    assert Coverage.of(dropped).missing.tolist() == dropped.dropped.tolist()
    with pytest.raises(OptionError, match=r"^5 rows do not make the same number of batches for 4 ranks; .*repeat"):
        Plan.of(lengths, Rows(1), world_size=4, uneven="raise")
    with pytest.raises(OptionError, match="3 rows .* for 4 ranks, and dropping them would leave none"):
        Plan.of(lengths[:3], Rows(1), world_size=4, uneven="drop")


def test_long_rows() -> None:
    """Refused by name, alone, truncated or split; a split row's pieces are all its steps in order."""
    lengths = [2, 9, 3, 7]
    with pytest.raises(
        LengthError,
        match="^row 1 has 9 steps .of 2 rows that are too long the first., but Budget.* has room for rows of up to 4;",
    ) as caught:
        Plan.of(lengths, Budget(4))
    assert caught.value.details == {"row": 1, "length": 9, "limit": 4}
    alone = Plan.of(lengths, Budget(4, too_long="alone"))
    assert {tuple(batch.tolist()) for batch in alone} == {(1,), (3,), (2,), (0,)}
    assert len(Plan.of(lengths, Budget(4, too_long="truncate")).pieces) == 4
    split = Plan.of(lengths, Budget(4, too_long="split"))
    assert sorted(split.pieces, key=lambda piece: (piece.row, piece.begin)) == [
        Piece(0, 0, 4),
        *(Piece(1, begin, begin + 4) for begin in (0, 4, 8)),
        Piece(2, 0, 4),
        *(Piece(3, begin, begin + 4) for begin in (0, 4)),
    ]
    assert split.pieces.rows_of(np.arange(7)).tolist() == [0, 1, 2, 3, 1, 1, 3]
    with pytest.raises(OptionError, match='too_long="alone"'):
        Plan.of([(9, 9)], Budget(4, too_long="split"))


def test_without_a_seed_nothing_is_shuffled() -> None:
    """Pools of neighbours one behind the other, the longest batch first, rows of one length as they stand."""
    lengths = [length % 10 for length in range(1_000)]
    plan = Plan.of(lengths, Rows(4, batches_per_sort=50), seed=None)
    rows: list[int] = [row for batch in plan for row in batch.tolist()]
    pools = [rows[begin : begin + 200] for begin in range(0, 1_000, 200)]
    assert [sorted(pool) for pool in pools] == [list(range(begin, begin + 200)) for begin in range(0, 1_000, 200)]
    assert all(pool == sorted(pool, key=lambda row: -lengths[row]) for pool in pools)


def test_pools_and_bins_of_any_size() -> None:
    """One pool larger than a bin, and many pools, are sorted alike: the longest first, each row once."""
    generator = np.random.default_rng(0)
    for longest in (3, 300, 100_000, 2**33):
        lengths: list[int] = generator.integers(0, longest, 150_000).tolist()
        for pool in (None, 7, 100):
            plan = Plan.of(lengths, Rows(64, batches_per_sort=pool), seed=1)
            assert Coverage.of(plan).complete
            assert descending(plan, lengths)
            if pool is None:
                # Of one pool, batches laid end to end by their lengths overlap nowhere.
                spans = sorted((lengths[int(batch[-1])], lengths[int(batch[0])]) for batch in plan)
                assert all(top <= low for (_, top), (low, _) in pairwise(spans))


def test_two_lengths() -> None:
    """Batches are padded to the longest of both sides, and their sum is within the budget."""
    generator = np.random.default_rng(0)
    source = generator.integers(0, 30, 3_000)
    lengths = np.stack([source, source + generator.integers(0, 9, 3_000)], axis=1)
    budget = Budget(600, batches_per_sort=None)
    plan = Plan.of(lengths, budget, world_size=2)
    assert Coverage.of(plan).complete
    assert plan.longest.shape == (len(plan), 2)
    for batch, (rows, first, second) in zip(plan, plan.shapes.tolist(), strict=True):
        assert [first, second] == lengths[batch].max(axis=0).tolist()
        assert rows * max(first + second, 1) <= 600
    by_sum = Plan.of(lengths.sum(axis=1), budget, world_size=2)
    padded = sum(len(batch) * lengths[batch].max(axis=0).sum() for batch in by_sum)
    assert plan.report().padded < padded
    with pytest.raises(OptionError, match="^Shapes needs one length a row, but two arrived"):
        Plan.of(lengths, Shapes([(4, 100)]))


def test_the_same_in_another_process() -> None:
    """Whatever the hash seed: only lengths, policy, seed, epoch and ranks decide."""
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


def test_an_order_that_must_never_change() -> None:
    """Runs go on with the order that they began with: pinned, since whoever changes it changes it for them."""
    plan = Plan.of([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5], Budget(12), seed=1, epoch=2, world_size=2)
    assert [batch.tolist() for batch in plan] == [[7, 10], [5], [9], [6, 3, 1], [8, 4], [2, 0]]
    assert plan.digest == "9ade291fd342fe6f5762e2d623487fda"


def test_every_epoch_and_seed_has_an_order_of_its_own() -> None:
    """And an epoch that is made again has the same."""
    lengths = drawn(300)
    plans = [Plan.of(lengths, Rows(8), seed=seed, epoch=epoch) for seed in range(4) for epoch in range(4)]
    assert len({str([batch.tolist() for batch in plan]) for plan in plans}) == 16
    assert len({plan.digest for plan in plans}) == 16
    assert len({plan.recipe for plan in plans}) == 4


def test_global_generators_are_left_alone() -> None:
    """Nothing is drawn from them, and what they hold changes nothing."""
    lengths = drawn(300)
    np.random.seed(1)  # noqa: NPY002 - the old one, on purpose
    first = Plan.of(lengths, Rows(8))
    drawn_after = np.random.random()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert np.random.random() == drawn_after  # noqa: NPY002
    assert same(first, Plan.of(lengths, Rows(8)))


def test_lengths_of_every_kind() -> None:
    """Lists, tensors, arrays of any whole numbers, and columns: one plan."""
    lengths = drawn(50)
    tensor = torch.tensor(lengths)
    kinds: list[Plan] = [
        Plan.of(given, Budget(90))
        for given in (lengths, tuple(lengths), np.array(lengths, np.uint16), np.array(lengths)[:, None])
    ]
    kinds.append(Plan.of(tensor.numpy(), Budget(90)))
    kinds.append(Plan.of(tensor, Budget(90)))
    assert all(same(kinds[0], plan) for plan in kinds)
    assert len({plan.digest for plan in kinds}) == 1
    assert len(Plan.of([], Budget(90), world_size=4)) == 0


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (
            [1.5, 2.0],
            ShapeError,
            "lengths must be whole numbers, but float64 arrived; lengths.astype(int) makes them so.",
        ),
        (np.array([], np.float32), ShapeError, "lengths must be whole numbers, but float32 arrived"),
        ([True, False], ShapeError, "lengths must be whole numbers, but bool arrived"),
        (["3"], ShapeError, "lengths must be whole numbers, but <U1 arrived"),
        ([[1, 2, 3]], ShapeError, "lengths must have the shape (rows,) or (rows, 2), but (1, 3) arrived."),
        (5, ShapeError, "lengths must have the shape (rows,) or (rows, 2), but () arrived."),
        ([[1], [1, 2]], ShapeError, "lengths must be whole numbers, one or two a row, but list arrived"),
        ([3, -2], LengthError, "lengths[1] is -2, but a length is 0 or more."),
        ([[3, 4], [1, -2]], LengthError, "lengths[1][1] is -2, but a length is 0 or more."),
        ([3, 2**41], LengthError, "lengths[1] is 2199023255552, but no row has more than 1,099,511,627,776 steps."),
    ],
)
def test_lengths_that_are_none(given: list[int], error: type[Exception], says: str) -> None:
    """Each with its place and its rule."""
    with pytest.raises(error) as caught:
        Plan.of(given, Rows(2))
    assert str(caught.value).startswith(says)


def test_options_that_are_none() -> None:
    """Each named."""
    with pytest.raises(OptionError, match="^world_size must be a whole number, 1 or more, but 0 arrived"):
        Plan.of([1], Rows(1), world_size=0)
    with pytest.raises(OptionError, match="^seed must be a whole number, 0 or more, but -1 arrived"):
        Plan.of([1], Rows(1), seed=-1)
    with pytest.raises(OptionError, match="^epoch must be a whole number, 0 or more, but -1 arrived"):
        Plan.of([1], Rows(1), epoch=-1)
    with pytest.raises(OptionError, match="^rank 2 has no part in this plan: there are 2 ranks"):
        Plan.of([1], Rows(1), world_size=2).rank(2)
    with pytest.raises(OptionError, match="it is rank 0's already"):
        Plan.of([1], Rows(1), world_size=2).rank(0).rank(1)
