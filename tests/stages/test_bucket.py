"""Bucket and Pad: no row lost or doubled, budgets kept, targets moved with their rows, bad input refused."""

import itertools
import random
from collections.abc import Iterator
from typing import cast

import attrs
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from pipeline import Bucket, FromFeatures, FromIds, Ids, Labels, Pad, Report, Row, Target, Vectors
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes, StreamCursor
from pipeline.data.metadata import IGNORED
from pipeline.errors import (
    EmptyBatchError,
    LabelError,
    LengthError,
    OptionError,
    PipelineError,
    ShapeError,
    TargetError,
)
from pipeline.loading import PlannedBatches
from support.strategies import lengths
from support.untyped import listed, loosely


def rows_of(counts: list[int]) -> list[Row[Ids]]:
    """Rows of so many steps, each step holding its row's place."""
    return list(FromIds().map([[place] * count for place, count in enumerate(counts)]))


def listed_rows(batch: npt.NDArray[np.signedinteger]) -> list[int]:
    """A plan's batch as numbers."""
    return [int(row) for row in batch]


def drawn(rows: int, longest: int) -> list[int]:
    """Lengths at random, the same at every call."""
    generator = random.Random(1)
    return [generator.randint(0, longest) for _ in range(rows)]


@given(
    counts=st.lists(st.integers(0, 9), max_size=40),
    max_padded_steps=st.one_of(st.none(), st.integers(9, 40)),
    limit=st.integers(1, 7),
    buffer_size=st.integers(1, 50),
    seed=st.one_of(st.none(), st.integers(0, 5)),
)
def test_every_row_once_and_never_over_budget(
    counts: list[int], max_padded_steps: int | None, limit: int, buffer_size: int, seed: int | None
) -> None:
    """Whatever the lengths and the options: in an epoch, in a serving, and as a sampler."""
    rows = rows_of(counts)
    bucket = Bucket(max_padded_steps=max_padded_steps, rows=limit, buffer_size=buffer_size, seed=seed)
    sampled = [[rows[index] for index in batch] for batch in PlannedBatches(counts, bucket.policy, seed=seed)]
    for batches in (list(bucket(rows)), list(bucket.predict_batches(rows)), sampled):
        assert sorted(row.row_id for batch in batches for row in batch) == list(range(len(rows)))
        for batch in batches:
            assert 1 <= len(batch) <= limit
            assert max_padded_steps is None or len(batch) * max(map(len, batch)) <= max_padded_steps


def test_rows_of_like_length_meet() -> None:
    """Bucketing wastes far less padding than drawing the same batches at random."""
    counts = drawn(2000, 60)
    rows = rows_of(counts)
    bucketed = [Pad()(batch).report() for batch in Bucket(rows=32)(rows)]
    at_random = [Pad()(rows[start : start + 32]).report() for start in range(0, 2000, 32)]
    assert sum(bucketed, Report()).wasted < 0.05 * sum(at_random, Report()).wasted


def test_an_epoch_has_an_order_of_its_own() -> None:
    """Fixed by the seed, moved on by each call, and untouched by the global generators."""
    rows = rows_of([place % 7 for place in range(200)])

    def orders(seed: int) -> list[list[int]]:
        bucket = Bucket(rows=8, seed=seed)
        return [[row.row_id for batch in bucket(rows) for row in batch] for _ in range(3)]

    random.seed(1)
    first = orders(0)
    random.seed(2)
    assert orders(0) == first
    assert len({tuple(order) for order in [*first, *orders(1)]}) == 6


def test_batches_are_not_trained_in_order_of_length() -> None:
    """The lengths of neighbouring batches do not correlate."""
    rows = rows_of(drawn(4000, 60))
    means = torch.tensor([sum(map(len, batch)) / len(batch) for batch in Bucket(rows=16)(rows)])
    correlation = torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]
    assert abs(correlation) < 2 / len(means) ** 0.5


def test_mates_change_from_epoch_to_epoch() -> None:
    """Rows of one length are not always together."""
    bucket, rows = Bucket(rows=4), rows_of([5] * 40)
    first, second = ({frozenset(row.row_id for row in batch) for batch in bucket(rows)} for _ in range(2))
    assert len(first & second) < 3


def test_serving_holds_back_no_more_than_a_pool() -> None:
    """An endless input is read a pool ahead and no further, and no batch goes backwards past a pool."""
    taken: list[int] = []

    def endless() -> Iterator[Row[Ids]]:
        for place in itertools.count():
            taken.append(place)
            yield Row(Ids(torch.zeros(place % 5, dtype=torch.int64)), row_id=place)

    batches = Bucket(rows=4, buffer_size=20).predict_batches(endless())
    for turn in range(10):
        pool = range(turn * 4 // 20 * 20, (turn * 4 // 20 + 1) * 20)
        assert all(row.row_id in pool for row in next(batches))
        assert taken[-1] in pool


def test_a_long_row_is_refused_or_stands_alone() -> None:
    """As stated; the row is named."""
    rows = rows_of([3, 12, 4])
    with pytest.raises(
        LengthError,
        match=r"row 1 has 12 steps, but Budget\(.*max_padded_steps=10.*\) has room for 10; truncate it at its door",
    ) as info:
        list(Bucket(max_padded_steps=10)(rows))
    assert info.value.details == {"row": 1, "length": 12, "limit": 10}
    alone = list(Bucket(max_padded_steps=10, too_long="alone")(rows))
    assert sorted([row.row_id for row in batch] for batch in alone) == [[1], [2, 0]]


def tagged(length: int, place: int) -> Row[Ids]:
    """A row whose steps, targets, offsets and asked steps can be told apart."""
    steps = torch.arange(length)
    offsets = torch.stack([steps, steps + 1], dim=1)
    return Row(Ids(steps, offsets), listed(steps), place, [step % 2 == 0 for step in range(length)])


def test_a_long_row_is_truncated_with_its_targets() -> None:
    """Steps, offsets, step targets and what is asked are cut alike."""
    (batch,) = Bucket(max_padded_steps=4, too_long="truncate")([tagged(6, 3)])
    (row,) = batch
    assert listed(row.sequence.values) == row.target == [0, 1, 2, 3]
    assert row.sequence.offsets is not None
    assert listed(row.sequence.offsets[:, 0]) == [0, 1, 2, 3]
    assert (row.answer_mask, row.row_id, row.start_step) == ([True, False, True, False], 3, 0)


@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=20), limit=st.integers(1, 6), look=st.integers(1, 9))
def test_a_long_row_is_split_and_nothing_of_it_lost(counts: list[int], limit: int, look: int) -> None:
    """Parts keep their row's place, say where they begin, and give the row back; no batch is over the budget."""
    rows = [tagged(count, place) for place, count in enumerate(counts)]
    batches = list(Bucket(max_padded_steps=limit, too_long="split", buffer_size=look)(rows))
    assert all(len(batch) * max(map(len, batch)) <= limit for batch in batches)
    parts = sorted((row for batch in batches for row in batch), key=lambda row: (row.row_id, row.start_step))
    for row in rows:
        mine = [part for part in parts if part.row_id == row.row_id]
        assert [part.start_step for part in mine] == list(range(0, max(len(row), 1), limit))
        assert [step for part in mine for step in listed(part.sequence.values)] == listed(row.sequence.values)
        assert [step for part in mine for step in cast("list[int]", part.target)] == row.target
        assert [step for part in mine for step in part.answer_mask or []] == row.answer_mask


def test_what_cannot_be_cut_is_refused() -> None:
    """A prediction has one answer a row; step targets must be one a step."""
    bucket = Bucket(max_padded_steps=4, too_long="split")
    with pytest.raises(LengthError, match="row 3 has 6 steps, but in a prediction it has one answer, and would have"):
        list(bucket.predict_batches([tagged(6, 3)]))
    short = Row(Ids(torch.arange(6)), [1, 2, 3], 3)
    with pytest.raises(TargetError, match="row 3 has 6 steps but 3 targets; give each step a target"):
        list(bucket([short]))


def test_a_class_goes_with_every_part() -> None:
    """A target of the whole row is that of its parts."""
    split = Bucket(max_padded_steps=2, too_long="split")([Row(Ids(torch.arange(3)), target=7)])
    assert [row.target for batch in split for row in batch] == [7, 7]


POLICIES: list[Policy] = [
    Rows(3),
    Budget(12, rows=4),
    Budget(24, quadratic=8),
    Budget(24, multiple_of=4),
    Boundaries((2, 5), max_padded_steps=12),
    Shapes([(2, 9), (4, 4)]),
]


@given(
    counts=st.lists(st.integers(0, 8), max_size=40),
    policy=st.sampled_from(POLICIES),
    seed=st.one_of(st.none(), st.integers(0, 3)),
    epoch=st.integers(0, 2),
    world_size=st.integers(1, 3),
)
def test_a_stream_has_the_batches_of_a_plan(
    counts: list[int], policy: Policy, seed: int | None, epoch: int, world_size: int
) -> None:
    """What makes one pool is cut as a list of the same lengths, for every rank, in every epoch."""
    whole = attrs.evolve(policy, batches_per_sort=None)
    plan = Plan.of(counts, whole, seed=seed, epoch=epoch, world_size=world_size)
    bucket, rows = Bucket(policy=whole, seed=seed), rows_of(counts)
    for rank in range(world_size):
        streamed = [batch for batch, _ in bucket.resume(rows, StreamCursor(epoch), rank=rank, world_size=world_size)]
        assert [[row.row_id for row in batch] for batch in streamed] == [
            listed_rows(batch) for batch in plan.rank(rank)
        ]


def test_a_pool_holds_as_many_batches_as_the_policy_says() -> None:
    """Memory is bounded by it: rows are read ahead for so many batches, and no further."""
    taken: list[int] = []

    def endless() -> Iterator[Row[Ids]]:
        for place in itertools.count():
            taken.append(place)
            yield Row(Ids(torch.zeros(1 + place % 2 * 7, dtype=torch.int64)), row_id=place)

    batches = Bucket(policy=Budget(16, batches_per_sort=5))(endless())
    first = next(batches)
    # Each two rows take 1/16 and 1/2 of a batch.
    assert len(taken) == 18
    assert len(first) * max(map(len, first)) <= 16


def test_padding_on_a_stream_is_near_that_of_a_plan() -> None:
    """By the default policy, over many pools."""
    counts = [1 + count for count in drawn(30_000, 40)]
    streamed = [(len(batch), max(map(len, batch))) for batch in Bucket(max_padded_steps=256)(rows_of(counts))]
    planned = Plan.of(counts, Budget(256)).report()
    wasted = 1 - sum(counts) / sum(rows * longest for rows, longest in streamed)
    assert wasted < planned.wasted + 0.01


@pytest.mark.parametrize("workers", [0, 2])
def test_policies_and_pad_work_in_a_stock_loader(workers: int) -> None:
    """A bucket's policy in the batch sampler and `Pad` as the collate function, in this process and in workers."""
    counts = drawn(60, 9)
    rows = rows_of(counts)
    sampler = PlannedBatches(counts, Budget(40))
    dataset = cast("Dataset[Row[Ids]]", rows)  # torch takes any sequence, but its types do not say so
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=Pad(), num_workers=workers)
    for _ in range(2):
        places = [place for batch in loader for place in listed(batch.metadata.places)]
        assert sorted(places) == list(range(60))
    assert len(loader) == len(sampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Bucket needs a policy, max_padded_steps or rows, but none arrived"),
        ({"max_padded_steps": 0}, "max_padded_steps must be an integer of at least 1, got 0"),
        ({"rows": -1}, "rows must be an integer of at least 1, got -1"),
        ({"rows": 2, "buffer_size": 0}, "buffer_size must be an integer of at least 1, got 0"),
        ({"rows": 2, "seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"rows": 2, "uneven": "share"}, "uneven must be one of repeat, drop, raise, got 'share'"),
        ({"policy": Rows(2), "rows": 2}, "Bucket has a policy, and rows beside it; say it in the policy alone"),
        ({"policy": Rows(2), "too_long": "alone"}, "Bucket has a policy, and too_long beside it"),
    ],
)
def test_bad_bucket_options_are_refused(options: dict[str, object], message: str) -> None:
    """With the rule and what arrived."""
    with pytest.raises(OptionError, match=message):
        loosely(Bucket)(**options)


@given(counts=lengths(), multiple=st.integers(1, 4))
def test_padding_keeps_every_step(counts: list[int], multiple: int) -> None:
    """Real steps first, the padding value behind them, the width rounded up."""
    batch = Pad(value=-7, multiple_of=multiple)(rows_of(counts))
    assert batch.width % multiple == 0
    assert max(counts) <= batch.width < max(counts) + multiple
    wanted = [[place] * count + [-7] * (batch.width - count) for place, count in enumerate(counts)]
    assert listed(batch.values) == wanted
    assert listed(batch.lengths) == counts


def test_long_rows_are_refused_or_truncated_with_their_targets() -> None:
    """As stated; a row's step targets and what is asked of it move with its steps."""
    rows = [Row(Ids(torch.arange(4)), target=[1, None, 2, 3], row_id=8, answer_mask=[True, False, True, True])]
    with pytest.raises(LengthError, match="row 8 has 4 steps, but max_length is 3; raise it, or let Pad cut"):
        Pad(max_length=3)(rows)
    batch = Pad(max_length=3, too_long="truncate")(rows)
    assert listed(batch.values) == [[0, 1, 2]]
    assert batch.metadata.targets is not None
    assert batch.metadata.answer_mask is not None
    assert listed(batch.metadata.targets) == [[1, IGNORED, 2]]
    assert listed(batch.metadata.answer_mask) == [[True, False, True]]


def test_targets_become_numbers() -> None:
    """Names by the labels; a row of no steps weighs nothing; step targets are padded with what weighs nothing."""
    labels = Labels(["ham", "spam"])
    rows = [Row(Ids(torch.arange(n)), target=name) for n, name in ((2, "spam"), (0, "ham"), (1, "ham"))]
    batch = Pad(labels=labels)(rows)
    assert batch.metadata.targets is not None
    assert listed(batch.metadata.targets) == [1, IGNORED, 0]
    assert batch.metadata.weight == 2
    steps = Pad(labels=labels)(
        [Row(Ids(torch.arange(2)), target=["ham", None]), Row(Ids(torch.arange(1)), target=["spam"])]
    )
    assert steps.metadata.targets is not None
    assert listed(steps.metadata.targets) == [[0, IGNORED], [1, IGNORED]]


def ids(target: object = None) -> Row[Ids]:
    """A row of two steps at place 5, with a target of any sort."""
    return Row(Ids(torch.zeros(2, dtype=torch.int64)), cast("Target", target), 5)


TARGETS: list[tuple[type[PipelineError], str, list[Row[Ids]]]] = [
    (
        TargetError,
        "row 5 has no target, but other rows of its batch have one; give every example a target",
        [ids(1), ids()],
    ),
    (TargetError, "row 5 has 2 steps but 3 targets, in a batch of a target a step", [ids([1, 2, 3])]),
    (TargetError, "row 5 has 2 steps but one, in a batch of a target a step", [ids([1, 2]), ids(1)]),
    (TargetError, "row 5 has target 'ham', a name, but Pad knows no labels", [ids("ham")]),
    (TargetError, "row 5 has target -1, but classes count from 0", [ids(-1)]),
    (TargetError, "row 5 has target 1.5, but a target is a class number or a class name", [ids(1.5)]),
]


@pytest.mark.parametrize(("error", "message", "rows"), TARGETS)
def test_bad_targets_are_refused(error: type[PipelineError], message: str, rows: list[Row[Ids]]) -> None:
    """With the row at fault and what to do."""
    with pytest.raises(error, match=message):
        Pad()(rows)


def test_unknown_labels_are_refused() -> None:
    """With the labels that there are."""
    with pytest.raises(LabelError, match="target 'eggs' of row 5 is none of the 2 labels; they are: ham, spam"):
        Pad(labels=Labels(["ham", "spam"]))([ids("eggs")])
    with pytest.raises(LabelError, match="target 2 of row 5 is none of the 2 labels"):
        Pad(labels=Labels(["ham", "spam"]))([ids(2)])


def test_rows_that_do_not_fit_each_other_are_refused() -> None:
    """Mixed widths, dtypes and kinds, which torch's `pad_sequence` takes or does not explain."""
    narrow, wide = Row(Vectors(torch.zeros(2, 3))), Row(Vectors(torch.zeros(1, 4)), row_id=1)
    with pytest.raises(
        ShapeError,
        match=r"row 1 is float32 of shape \(1, 4\), but every row must be floating-point vectors of time x feature, and ",
    ):
        Pad(Vectors)([narrow, wide])
    with pytest.raises(ShapeError, match=r"row 1 is float64 of shape \(2, 3\)"):
        Pad(Vectors)([narrow, Row(Vectors(torch.zeros(2, 3).double()), row_id=1)])
    with pytest.raises(ShapeError, match=r"row 0 holds Vectors, but Pad was made for Ids; make it Pad\(Vectors\)"):
        Pad()(cast("list[Row[Ids]]", list(FromFeatures().map([torch.zeros(2, 3)]))))
    with pytest.raises(EmptyBatchError, match="rows is empty: a batch holds at least one row"):
        Pad()([])


def test_bad_pad_options_are_refused() -> None:
    """With the rule and what arrived."""
    with pytest.raises(OptionError, match="multiple_of must be 1 or more, but 0 arrived"):
        Pad(multiple_of=0)
    with pytest.raises(OptionError, match="max_length must be 1 or more, but 0 arrived"):
        Pad(max_length=0)
