"""Tests of `Bucket`: each row in one batch, within the limits."""

import itertools
import random
from collections.abc import Iterator
from typing import Any, cast

import attrs
import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from pipeline import Bucket, Embed, Encode, FromIds, Ids, Pad, Report, Row, Tag
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes, StreamCursor
from pipeline.errors import (
    LengthError,
    OptionError,
    TargetError,
)
from pipeline.loading import PlannedBatches
from support.untyped import to_list, untyped


def rows_of(counts: list[int]) -> list[Row[Ids]]:
    """Return rows of these lengths; every id is the row id."""
    return list(FromIds().map([[row] * count for row, count in enumerate(counts)]))


def list_rows(batch: npt.NDArray[np.signedinteger]) -> list[int]:
    """Return a batch of a plan as a list."""
    return [int(row) for row in batch]


def draw_lengths(rows: int, longest: int) -> list[int]:
    """Return random lengths, the same at every call."""
    generator = random.Random(1)
    return [generator.randint(0, longest) for _ in range(rows)]


@given(
    counts=st.lists(st.integers(0, 9), max_size=40),
    max_padded_steps=st.one_of(st.none(), st.integers(9, 40)),
    limit=st.integers(1, 7),
    buffer_size=st.integers(1, 50),
    seed=st.one_of(st.none(), st.integers(0, 5)),
)
def test_every_row_is_in_one_batch_within_the_limits(
    counts: list[int], max_padded_steps: int | None, limit: int, buffer_size: int, seed: int | None
) -> None:
    """For all lengths and options: in training, in prediction, and as a sampler."""
    rows = rows_of(counts)
    bucket = Bucket(max_padded_steps=max_padded_steps, rows=limit, buffer_size=buffer_size, seed=seed)
    sampled = [[rows[index] for index in batch] for batch in PlannedBatches(counts, bucket.policy, seed=seed)]
    for batches in (list(bucket(rows)), list(bucket.predict_batches(rows)), sampled):
        assert sorted(row.row_id for batch in batches for row in batch) == list(range(len(rows)))
        for batch in batches:
            assert 1 <= len(batch) <= limit
            assert max_padded_steps is None or len(batch) * max(map(len, batch)) <= max_padded_steps


def test_batches_have_rows_of_similar_length() -> None:
    """There is far less padding than in random batches of the same size."""
    counts = draw_lengths(2000, 60)
    rows = rows_of(counts)
    bucketed = [Pad()(batch).report() for batch in Bucket(rows=32)(rows)]
    random_batches = [Pad()(rows[start : start + 32]).report() for start in range(0, 2000, 32)]
    assert sum(bucketed, Report()).wasted < 0.05 * sum(random_batches, Report()).wasted


def test_an_epoch_has_an_order_of_its_own() -> None:
    """It is determined by the seed and the number of calls, not by global generators."""
    rows = rows_of([row % 7 for row in range(200)])

    def orders(seed: int) -> list[list[int]]:
        bucket = Bucket(rows=8, seed=seed)
        return [[row.row_id for batch in bucket(rows) for row in batch] for _ in range(3)]

    random.seed(1)
    first = orders(0)
    random.seed(2)
    assert orders(0) == first
    assert len({tuple(order) for order in [*first, *orders(1)]}) == 6


def test_batches_are_not_in_order_of_length() -> None:
    """The mean lengths of neighboring batches do not correlate."""
    rows = rows_of(draw_lengths(4000, 60))
    means = torch.tensor([sum(map(len, batch)) / len(batch) for batch in Bucket(rows=16)(rows)])
    correlation = torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]
    assert abs(correlation) < 2 / len(means) ** 0.5


def test_batchmates_change_from_epoch_to_epoch() -> None:
    """Rows of one length are not always in the same batch."""
    bucket, rows = Bucket(rows=4), rows_of([5] * 40)
    first, second = ({frozenset(row.row_id for row in batch) for batch in bucket(rows)} for _ in range(2))
    assert len(first & second) < 3


def test_prediction_reads_one_pool_ahead() -> None:
    """An endless input is read one pool ahead, and the pools are in order."""
    taken: list[int] = []

    def endless() -> Iterator[Row[Ids]]:
        for row in itertools.count():
            taken.append(row)
            yield Row(Ids(torch.zeros(row % 5, dtype=torch.int64)), row_id=row)

    batches = Bucket(rows=4, buffer_size=20).predict_batches(endless())
    for turn in range(10):
        pool = range(turn * 4 // 20 * 20, (turn * 4 // 20 + 1) * 20)
        assert all(row.row_id in pool for row in next(batches))
        assert taken[-1] in pool


def test_a_long_row_raises_or_is_alone() -> None:
    """The error names the row."""
    rows = rows_of([3, 12, 4])
    with pytest.raises(
        LengthError,
        match=r"row 1 has 12 steps, but Budget\(max_padded_steps=10\) allows at most 10 per row; cut it in its",
    ) as info:
        list(Bucket(max_padded_steps=10)(rows))
    assert info.value.details == {"row": 1, "length": 12, "limit": 10}
    alone = list(Bucket(max_padded_steps=10, too_long="alone")(rows))
    assert sorted([row.row_id for row in batch] for batch in alone) == [[1], [2, 0]]


def make_tagged_row(length: int, row_id: int) -> Row[Ids]:
    """Return a row whose ids, targets and offsets are its step numbers; predictions are wanted for even steps."""
    steps = torch.arange(length)
    offsets = torch.stack([steps, steps + 1], dim=1)
    return Row(Ids(steps, offsets), to_list(steps), row_id, [step % 2 == 0 for step in range(length)])


def test_a_long_row_is_truncated_with_its_targets() -> None:
    """Steps, offsets, step targets and the answer mask are cut."""
    (batch,) = Bucket(max_padded_steps=4, too_long="truncate")([make_tagged_row(6, 3)])
    (row,) = batch
    assert to_list(row.sequence.values) == row.target == [0, 1, 2, 3]
    assert row.sequence.offsets is not None
    assert to_list(row.sequence.offsets[:, 0]) == [0, 1, 2, 3]
    assert (row.answer_mask, row.row_id, row.start_step) == ([True, False, True, False], 3, 0)


@given(counts=st.lists(st.integers(0, 20), min_size=1, max_size=20), limit=st.integers(1, 6), look=st.integers(1, 9))
def test_a_long_row_is_split_without_loss(counts: list[int], limit: int, look: int) -> None:
    """Parts have the row id and their start step, and together are the row; no batch is over the budget."""
    rows = [make_tagged_row(count, row) for row, count in enumerate(counts)]
    batches = list(Bucket(max_padded_steps=limit, too_long="split", buffer_size=look)(rows))
    assert all(len(batch) * max(map(len, batch)) <= limit for batch in batches)
    parts = sorted((row for batch in batches for row in batch), key=lambda row: (row.row_id, row.start_step))
    for row in rows:
        of_row = [part for part in parts if part.row_id == row.row_id]
        assert [part.start_step for part in of_row] == list(range(0, max(len(row), 1), limit))
        assert [step for part in of_row for step in to_list(part.sequence.values)] == to_list(row.sequence.values)
        assert [step for part in of_row for step in cast("list[int]", part.target)] == row.target
        assert [step for part in of_row for step in part.answer_mask or []] == row.answer_mask


def test_rows_that_cannot_be_split_raise() -> None:
    """Targets per step must be one per step."""
    bucket = Bucket(max_padded_steps=4, too_long="split")
    short = Row(Ids(torch.arange(6)), [1, 2, 3], 3)
    with pytest.raises(TargetError, match="target of row 3 must have one entry per step, got 3 for 6 steps"):
        list(bucket([short]))


@attrs.frozen
class Halves(Policy):
    """A policy of a user's own: two rows of up to two steps."""

    @override
    def max_rows(self, longest: int) -> int:
        return 2

    @override
    def max_length(self) -> int:
        return 2


LONG: list[Policy] = [
    Rows(2, longest=2),
    Rows(2, longest=2, too_long="split"),
    Budget(4),
    Budget(4, too_long="split"),
    Budget(4, too_long="alone"),
    Boundaries((1,), max_padded_steps=4),
    Shapes([(2, 2)]),
    Halves(),
]


@pytest.mark.parametrize("policy", LONG, ids=str)
def test_a_long_row_does_not_stop_a_prediction(policy: Policy) -> None:
    """It is alone in its batch, and every row has one prediction, that of the row by itself."""
    pipe = Bucket(policy=policy) >> Pad(policy=policy) >> Embed(9, 4) >> Encode("gru", hidden_size=3) >> Tag(5)
    rows = [Row(Ids(torch.arange(count) % 9)) for count in (1, 7, 0, 2, 9, 2)]
    batches = list(pipe.predict_batches(rows))
    assert all(len(batch.metadata.row_ids) == 1 for batch in batches if int(batch.lengths.max()) > 4)
    assert list(pipe.predict(rows)) == [next(iter(pipe.predict([row]))) for row in rows]
    assert [len(steps) for steps in pipe.predict(rows)] == [1, 7, 0, 2, 9, 2]


def test_truncation_is_the_same_in_prediction() -> None:
    """The user asked for it."""
    (batch,) = Bucket(max_padded_steps=4, too_long="truncate").predict_batches([make_tagged_row(6, 3)])
    assert [len(row) for row in batch] == [4]


def test_every_part_has_the_class_of_its_row() -> None:
    """If the target is one for the whole row."""
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
def test_one_pool_has_the_batches_of_a_plan(
    counts: list[int], policy: Policy, seed: int | None, epoch: int, world_size: int
) -> None:
    """For every rank, in every epoch."""
    whole = attrs.evolve(policy, batches_per_sort=None)
    plan = Plan.of(counts, whole, seed=seed, epoch=epoch, world_size=world_size)
    bucket, rows = Bucket(policy=whole, seed=seed), rows_of(counts)
    for rank in range(world_size):
        streamed = [batch for batch, _ in bucket.resume(rows, StreamCursor(epoch), rank=rank, world_size=world_size)]
        assert [[row.row_id for row in batch] for batch in streamed] == [list_rows(batch) for batch in plan.rank(rank)]


def test_a_pool_has_the_batches_per_sort_of_its_policy() -> None:
    """Rows are read ahead for that number of batches, which bounds the memory."""
    taken: list[int] = []

    def endless() -> Iterator[Row[Ids]]:
        for row in itertools.count():
            taken.append(row)
            yield Row(Ids(torch.zeros(1 + row % 2 * 7, dtype=torch.int64)), row_id=row)

    batches = Bucket(policy=Budget(16, batches_per_sort=5))(endless())
    first = next(batches)
    # Two rows take 1/16 and 1/2 of a batch, so 18 rows take 5 batches.
    assert len(taken) == 18
    assert len(first) * max(map(len, first)) <= 16


def test_padding_on_a_stream_is_near_that_of_a_plan() -> None:
    """With the default policy, over many pools, since a generator has no length."""
    counts = [1 + count for count in draw_lengths(30_000, 40)]
    streamed = [(len(batch), max(map(len, batch))) for batch in Bucket(max_padded_steps=256)(iter(rows_of(counts)))]
    planned = Plan.of(counts, Budget(256)).report()
    wasted = 1 - sum(counts) / sum(rows * longest for rows, longest in streamed)
    assert wasted < planned.wasted + 0.01


@pytest.mark.parametrize("workers", [0, 2])
def test_policies_and_pad_work_in_a_stock_loader(workers: int) -> None:
    """The policy in the batch sampler, and `Pad` as the collate function, with and without workers."""
    counts = draw_lengths(60, 9)
    rows = rows_of(counts)
    sampler = PlannedBatches(counts, Budget(40))
    dataset = cast("Dataset[Row[Ids]]", rows)  # torch's type does not allow a plain sequence
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=Pad(), num_workers=workers)
    for _ in range(2):
        found = [row for batch in loader for row in to_list(batch.metadata.row_ids)]
        assert sorted(found) == list(range(60))
    assert len(loader) == len(sampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"too_long": "truncate"}, "too_long=.truncate. needs a limit"),
        ({"max_padded_steps": 0}, "max_padded_steps must be an integer of at least 1, got 0"),
        ({"rows": -1}, "rows must be an integer of at least 1, got -1"),
        ({"rows": 2, "buffer_size": 0}, "buffer_size must be an integer of at least 1, got 0"),
        ({"rows": 2, "seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"rows": 2, "uneven": "share"}, "uneven must be one of repeat, drop, raise, got 'share'"),
        ({"policy": Rows(2), "rows": 2}, "Bucket takes a policy or rows, got both; pass rows to the policy"),
        ({"policy": Rows(2), "too_long": "alone"}, "Bucket takes a policy or too_long, got both"),
    ],
)
def test_invalid_options_raise(options: dict[str, object], message: str) -> None:
    """With the rule and the value."""
    with pytest.raises(OptionError, match=message):
        untyped(Bucket)(**options)


def share_of_second_class(batches: Iterator[list[Row[Ids]]], rows: int) -> list[float]:
    """Return the share of the second half of the rows in each tenth of an epoch."""
    classes = [int(row.row_id >= rows // 2) for batch in batches for row in batch]
    return [sum(tenth) / len(tenth) for tenth in (classes[rows * i // 10 : rows * (i + 1) // 10] for i in range(10))]


@pytest.mark.parametrize("options", [{"max_padded_steps": 400}, {"rows": 16}, {"policy": Boundaries((20,), rows=16)}])
def test_rows_in_order_of_class_are_mixed(options: dict[str, Any]) -> None:
    """Each tenth of an epoch has both classes in equal parts, in a bucket by itself and in a chain."""
    counts = [10 + count for count in draw_lengths(6000, 30)]
    chain = FromIds() >> Bucket(**options)
    for batches in (Bucket(**options)(rows_of(counts)), chain([[row] * count for row, count in enumerate(counts)])):
        assert all(0.4 < share < 0.6 for share in share_of_second_class(batches, 6000))


def test_a_stream_is_mixed_within_its_buffer() -> None:
    """A generator has no length; a buffer size also limits the rows that are read of a list."""
    counts = [10 + count for count in draw_lengths(6000, 30)]
    bucket = Bucket(rows=4)
    taken: list[int] = []

    def generate() -> Iterator[Row[Ids]]:
        for row in rows_of(counts):
            taken.append(row.row_id)
            yield row

    batches = bucket(generate())
    next(batches)
    assert len(taken) == 400
    assert share_of_second_class(bucket(iter(rows_of(counts))), 6000)[0] == 0
    assert share_of_second_class(Bucket(rows=4, buffer_size=300)(rows_of(counts)), 6000)[0] == 0


@given(
    counts=st.lists(st.integers(0, 8), max_size=40),
    policy=st.sampled_from([attrs.evolve(policy, batches_per_sort=2) for policy in POLICIES]),
    seed=st.one_of(st.none(), st.integers(0, 3)),
    epoch=st.integers(0, 2),
    world_size=st.integers(1, 3),
)
def test_an_input_with_a_length_has_the_batches_of_a_plan(
    counts: list[int], policy: Policy, seed: int | None, epoch: int, world_size: int
) -> None:
    """With as many pools as the policy says, for every rank, and from every cursor."""
    plan = Plan.of(counts, policy, seed=seed, epoch=epoch, world_size=world_size)
    bucket, rows = Bucket(policy=policy, seed=seed), rows_of(counts)
    for rank in range(world_size):
        streamed = list(bucket.resume(rows, StreamCursor(epoch), rank=rank, world_size=world_size))
        wanted = [list_rows(batch) for batch in plan.rank(rank)]
        assert [[row.row_id for row in batch] for batch, _ in streamed] == wanted
        for done, (_, at) in enumerate(streamed, start=1):
            rest = bucket.resume(rows[at.rows :], at, rank=rank, world_size=world_size)
            assert [[row.row_id for row in batch] for batch, _ in rest] == wanted[done:]


def test_a_length_that_is_wrong_raises() -> None:
    """An endless input with a length would be read forever; a cursor belongs to its number of rows."""

    class Wrong:
        def __len__(self) -> int:
            return 3

        def __iter__(self) -> Iterator[Row[Ids]]:
            return iter(rows_of([1] * 5))

    with pytest.raises(OptionError, match="the input has a length of 3, but yields more rows; fix its __len__"):
        next(Bucket(rows=2)(Wrong()))
    assert len(list(Bucket(rows=2, buffer_size=4)(Wrong()))) == 3
    bucket = Bucket(rows=2)
    (_, after), *_ = bucket.resume(rows_of([1] * 5), StreamCursor())
    with pytest.raises(OptionError, match="the cursor is within 5 rows, but the source has 4; resume with the same"):
        next(bucket.resume(rows_of([1] * 4), after))


def test_prediction_of_a_list_is_lazy_and_in_order() -> None:
    """A length changes nothing: one pool is read ahead, and not mixed."""
    bucket = Bucket(rows=4, buffer_size=20)
    batches = list(bucket.predict_batches(rows_of(draw_lengths(100, 9))))
    pools = [{row.row_id // 20 for row in batch} for batch in batches]
    assert pools == sorted(pools, key=min)
    assert all(len(pool) == 1 for pool in pools)
    assert bucket.epoch == 0
