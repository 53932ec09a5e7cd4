"""Batches of a few fixed shapes: padded to one of them exactly, in rows too, and never more graphs than shapes."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pipeline import (
    Bucket,
    Classify,
    Embed,
    Encode,
    Example,
    FromIds,
    Ids,
    Labels,
    Pack,
    Pad,
    Padded,
    Pool,
    Report,
    Row,
    Tag,
)
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes
from pipeline.data.metadata import IGNORED
from pipeline.data.rows import FILLER
from pipeline.errors import LengthError, OptionError
from pipeline_recurrent import LSTM
from support.untyped import graphed, listed, seed

SHAPES = Shapes([(2, 9), (5, 4), (3, 4), (8, 2)])


def rows_of(counts: list[int]) -> list[Row[Ids]]:
    """Rows of so many steps, with a class each."""
    return list(FromIds().map(Example([place % 7] * count, target=place % 3) for place, count in enumerate(counts)))


COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=40)


@given(counts=COUNTS, seeded=st.booleans())
def test_every_batch_has_one_of_the_shapes(counts: list[int], *, seeded: bool) -> None:
    """Each row is in it once; what fills it up has no steps, no target and no place."""
    rows, pad = rows_of(counts), Pad(policy=SHAPES, value=-1)
    batches = [pad(batch) for batch in Bucket(policy=SHAPES, seed=0 if seeded else None)(rows)]
    assert {tuple(batch.values.shape) for batch in batches} <= set(SHAPES.allowed)
    places: list[int] = []
    for batch in batches:
        assert batch.metadata.targets is not None
        for place, length, target, values in zip(
            *map(listed, (batch.metadata.row_ids, batch.lengths, batch.metadata.targets, batch.values)), strict=True
        ):
            if place == FILLER:
                assert (length, target) == (0, IGNORED)
                assert set(values) == {-1}
            else:
                places.append(place)
                assert (length, values[:length]) == (counts[place], [place % 7] * length)
    assert sorted(places) == list(range(len(counts)))
    total = sum((batch.report() for batch in batches), start=Report())
    assert (total.rows, total.steps) == (len(counts), sum(counts))
    assert total.padded == sum(batch.values.numel() for batch in batches)


@given(counts=COUNTS)
def test_a_plan_reports_what_pad_makes(counts: list[int]) -> None:
    """Rows, real and padded steps, for every policy that says what batches are padded to."""
    policies: list[Policy] = [SHAPES, Budget(40, multiple_of=4), Rows(3), Boundaries((2, 5), max_padded_steps=20)]
    for policy in policies:
        plan, rows = Plan.of(counts, policy), rows_of(counts)
        batches = [Pad(policy=policy)([rows[int(row)] for row in batch]) for batch in plan]
        assert sum((batch.report() for batch in batches), start=Report()) == plan.report()


@pytest.mark.parametrize("head", [Classify, Tag])
def test_what_fills_a_batch_up_has_no_answer(head: type[Classify[str] | Tag[str]]) -> None:
    """Predictions are those without it, one a row; so is the loss."""
    seed(0)
    labels = Labels(["a", "b", "c"])
    states = Pack() >> Embed(7, 4) >> Encode(LSTM(4, 5))
    model = states >> Pool("final") >> Classify(labels) if head is Classify else states >> Tag(labels)
    inputs = [[place % 7] * (place * 4 % 10) for place in range(23)]
    filled = FromIds() >> Bucket(policy=SHAPES) >> Pad(policy=SHAPES) >> model
    plain = FromIds() >> Bucket(rows=1) >> Pad() >> model
    assert list(filled.predict(inputs)) == list(plain.predict(inputs))


def test_the_loss_is_that_of_the_rows() -> None:
    """What fills up weighs nothing, with a class a row and with one a step."""
    seed(0)
    states = Embed(7, 4) >> Encode(LSTM(4, 5))
    classify, tag = states >> Pool("max") >> Classify(3), states >> Tag(3)
    rows, shapes = rows_of([4, 2, 3]), Pad(policy=Shapes([(6, 5)]))
    torch.testing.assert_close(classify(shapes(rows)).loss(), classify(Pad()(rows)).loss())
    steps = [Row(row.sequence, [1] * len(row), row.row_id) for row in rows]
    torch.testing.assert_close(tag(shapes(steps)).loss(), tag(Pad()(steps)).loss())
    assert shapes(rows).metadata.weight == 3


def lengths_at_random() -> Iterator[int]:
    """Lengths at random, the same at every call."""
    generator = torch.Generator().manual_seed(3)
    return iter(listed(torch.randint(0, 10, (300,), generator=generator)))


def test_as_many_graphs_as_shapes() -> None:
    """A compiler that makes a graph for each shape makes no more than there are."""
    graphs: list[object] = []

    def counting(graph: object, _: object) -> object:
        graphs.append(graph)
        return graph

    torch.compiler.reset()
    embedding = nn.Embedding(7, 4)

    def mean(ids: Tensor, lengths: Tensor) -> Tensor:
        batch = Padded(Ids, ids, lengths)
        mask = batch.order.mask(batch.width).unsqueeze(-1)
        total: Tensor = embedding(ids).masked_fill(~mask, 0).sum(1)
        return total / lengths.clamp(min=1).unsqueeze(-1)

    compiled = graphed(mean, fullgraph=True, backend=counting, dynamic=False)
    pad = Pad(policy=SHAPES)
    batches = [pad(batch) for batch in Bucket(policy=SHAPES)(rows_of(list(lengths_at_random())))]
    assert len(batches) > 40
    for batch in batches:
        torch.testing.assert_close(compiled(batch.values, batch.lengths), mean(batch.values, batch.lengths))
    assert len(graphs) == len({tuple(batch.values.shape) for batch in batches}) <= len(SHAPES.allowed)


def test_a_long_row_stands_alone_in_its_own_shape() -> None:
    """The one exception, as stated."""
    shapes = Shapes([(4, 4)], too_long="alone")
    batches = [Pad(policy=shapes)(batch) for batch in Bucket(policy=shapes)(rows_of([2, 9, 3]))]
    assert sorted(tuple(batch.values.shape) for batch in batches) == [(1, 9), (4, 4)]


def test_batches_that_are_not_the_policys_are_refused() -> None:
    """Too many rows for the longest of them; and two that say what is padded to."""
    with pytest.raises(LengthError, match=r"a batch of 3 rows of up to 5 steps is more than Shapes\(.*\) has room for"):
        Pad(policy=SHAPES)(rows_of([5, 1, 2]))
    with pytest.raises(OptionError, match="Pad has a policy, and multiple_of=8 beside it; say it in the policy alone"):
        Pad(policy=SHAPES, multiple_of=8)


@given(counts=st.lists(st.integers(0, 24), max_size=40), multiple=st.integers(1, 9))
def test_a_budget_counts_rounded_steps(counts: list[int], multiple: int) -> None:
    """No rectangle is over the budget, and every width is a multiple."""
    policy = Budget(30, multiple_of=multiple, too_long="split")
    for batch in Bucket(policy=policy)(rows_of(counts)):
        padded = Pad(policy=policy)(batch)
        assert padded.values.numel() <= 30
        assert padded.width % multiple == 0


def test_multiples_that_cannot_be_kept_are_refused() -> None:
    """Of more steps than the budget; and of two lengths a row."""
    with pytest.raises(
        OptionError, match="multiple_of=16 leaves no room for a row within max_padded_steps=10; lower it"
    ):
        Budget(10, multiple_of=16)
    with pytest.raises(OptionError, match="multiple_of=4 needs one length a row, but two arrived"):
        Plan.of([(1, 2), (3, 4)], Budget(100, multiple_of=4))
