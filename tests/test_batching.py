"""Bucket and Pad: no row lost or doubled, budgets kept, targets moved with their rows, bad input refused."""

import itertools
import random
from collections.abc import Iterator
from typing import cast

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from pipeline import Bucket, Frames, Ids, Labels, Numbers, Pad, Report, Row, Target, Vectors
from pipeline.errors import (
    EmptyBatchError,
    LabelError,
    LengthError,
    OptionError,
    PipelineError,
    ShapeError,
    TargetError,
)
from pipeline.sequences.riders import IGNORED
from strategies import lengths
from untyped import listed, loosely


def rows_of(counts: list[int]) -> list[Row[Ids]]:
    """Rows of so many steps, each step holding its row's place."""
    return list(Numbers().over([[place] * count for place, count in enumerate(counts)]))


def drawn(rows: int, longest: int) -> list[int]:
    """Lengths at random, the same at every call."""
    generator = random.Random(1)
    return [generator.randint(0, longest) for _ in range(rows)]


@given(
    counts=st.lists(st.integers(0, 9), max_size=40),
    max_steps=st.one_of(st.none(), st.integers(9, 40)),
    limit=st.integers(1, 7),
    look_ahead=st.integers(1, 50),
    seed=st.one_of(st.none(), st.integers(0, 5)),
)
def test_every_row_once_and_never_over_budget(
    counts: list[int], max_steps: int | None, limit: int, look_ahead: int, seed: int | None
) -> None:
    """Whatever the lengths and the options: in an epoch, in a serving, and as a sampler."""
    rows = rows_of(counts)
    bucket = Bucket(max_steps=max_steps, rows=limit, look_ahead=look_ahead, seed=seed)
    sampled = [[rows[index] for index in batch] for batch in bucket.sampler(counts)]
    for batches in (list(bucket(rows)), list(bucket.serve(rows)), sampled):
        assert sorted(row.place for batch in batches for row in batch) == list(range(len(rows)))
        for batch in batches:
            assert 1 <= len(batch) <= limit
            assert max_steps is None or len(batch) * max(map(len, batch)) <= max_steps


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
        return [[row.place for batch in bucket(rows) for row in batch] for _ in range(3)]

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
    first, second = ({frozenset(row.place for row in batch) for batch in bucket(rows)} for _ in range(2))
    assert len(first & second) < 3


def test_serving_holds_back_no_more_than_a_pool() -> None:
    """An endless input is read a pool ahead and no further, and no batch goes backwards past a pool."""
    taken: list[int] = []

    def endless() -> Iterator[Row[Ids]]:
        for place in itertools.count():
            taken.append(place)
            yield Row(Ids(torch.zeros(place % 5, dtype=torch.int64)), place=place)

    batches = Bucket(rows=4, look_ahead=20).serve(endless())
    for turn in range(10):
        pool = range(turn * 4 // 20 * 20, (turn * 4 // 20 + 1) * 20)
        assert all(row.place in pool for row in next(batches))
        assert taken[-1] in pool


def test_a_long_row_is_refused_or_stands_alone() -> None:
    """As stated; the row is named."""
    rows = rows_of([3, 12, 4])
    with pytest.raises(
        LengthError, match="row 1 has 12 steps, but a batch may have max_steps=10; truncate it at"
    ) as info:
        list(Bucket(max_steps=10)(rows))
    assert info.value.details == {"row": 1, "length": 12, "max_steps": 10}
    alone = list(Bucket(max_steps=10, long_rows="alone")(rows))
    assert sorted([row.place for row in batch] for batch in alone) == [[1], [2, 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_bucket_and_pad_work_in_a_stock_loader(workers: int) -> None:
    """`Bucket` as the batch sampler and `Pad` as the collate function, in this process and in workers."""
    counts = drawn(60, 9)
    rows = rows_of(counts)
    sampler = Bucket(max_steps=40).sampler(counts)
    dataset = cast("Dataset[Row[Ids]]", rows)  # torch takes any sequence, but its types do not say so
    loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=Pad(), num_workers=workers)
    for _ in range(2):
        places = [place for batch in loader for place in listed(batch.riders.places)]
        assert sorted(places) == list(range(60))
    assert len(loader) == len(sampler)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Bucket needs max_steps, rows or both, but neither arrived"),
        ({"max_steps": 0}, "max_steps must be 1 or more, but 0 arrived"),
        ({"rows": -1}, "rows must be 1 or more, but -1 arrived"),
        ({"rows": 2, "look_ahead": 0}, "look_ahead must be 1 or more, but 0 arrived"),
    ],
)
def test_bad_bucket_options_are_refused(options: dict[str, int], message: str) -> None:
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
    rows = [Row(Ids(torch.arange(4)), target=[1, None, 2, 3], place=8, asked=[True, False, True, True])]
    with pytest.raises(LengthError, match="row 8 has 4 steps, but max_length is 3; raise it, or let Pad cut"):
        Pad(max_length=3)(rows)
    batch = Pad(max_length=3, too_long="truncate")(rows)
    assert listed(batch.values) == [[0, 1, 2]]
    assert batch.riders.targets is not None
    assert batch.riders.asked is not None
    assert listed(batch.riders.targets) == [[1, IGNORED, 2]]
    assert listed(batch.riders.asked) == [[True, False, True]]


def test_targets_become_numbers() -> None:
    """Names by the labels; a row of no steps weighs nothing; step targets are padded with what weighs nothing."""
    labels = Labels(["ham", "spam"])
    rows = [Row(Ids(torch.arange(n)), target=name) for n, name in ((2, "spam"), (0, "ham"), (1, "ham"))]
    batch = Pad(labels=labels)(rows)
    assert batch.riders.targets is not None
    assert listed(batch.riders.targets) == [1, IGNORED, 0]
    assert batch.riders.weight == 2
    steps = Pad(labels=labels)(
        [Row(Ids(torch.arange(2)), target=["ham", None]), Row(Ids(torch.arange(1)), target=["spam"])]
    )
    assert steps.riders.targets is not None
    assert listed(steps.riders.targets) == [[0, IGNORED], [1, IGNORED]]


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
    narrow, wide = Row(Vectors(torch.zeros(2, 3))), Row(Vectors(torch.zeros(1, 4)), place=1)
    with pytest.raises(
        ShapeError,
        match=r"row 1 is float32 of shape \(1, 4\), but every row must be floating-point vectors of time x feature, and ",
    ):
        Pad(Vectors)([narrow, wide])
    with pytest.raises(ShapeError, match=r"row 1 is float64 of shape \(2, 3\)"):
        Pad(Vectors)([narrow, Row(Vectors(torch.zeros(2, 3).double()), place=1)])
    with pytest.raises(ShapeError, match=r"row 0 holds Vectors, but Pad was made for Ids; make it Pad\(Vectors\)"):
        Pad()(cast("list[Row[Ids]]", list(Frames().over([torch.zeros(2, 3)]))))
    with pytest.raises(EmptyBatchError, match="rows is empty: a batch holds at least one row"):
        Pad()([])


def test_bad_pad_options_are_refused() -> None:
    """With the rule and what arrived."""
    with pytest.raises(OptionError, match="multiple_of must be 1 or more, but 0 arrived"):
        Pad(multiple_of=0)
    with pytest.raises(OptionError, match="max_length must be 1 or more, but 0 arrived"):
        Pad(max_length=0)
