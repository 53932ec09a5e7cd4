"""Tests of `Pad`: values, targets and fixed shapes."""

import math
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
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
    FromFeatures,
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
    Target,
    Vectors,
)
from pipeline.batching import Boundaries, Budget, Plan, Policy, Rows, Shapes
from pipeline.data.metadata import IGNORED
from pipeline.data.rows import FILLER
from pipeline.errors import (
    EmptyBatchError,
    LabelError,
    LengthError,
    OptionError,
    PipelineError,
    ShapeError,
    TargetError,
)
from pipeline_recurrent import LSTM
from support.records import Event
from support.strategies import row_lengths
from support.untyped import as_any, compile_graph, seed, to_list


def make_rows_of_ids(counts: list[int]) -> list[Row[Ids]]:
    """Return rows of these lengths; every id is the row id."""
    return list(FromIds().map([[place] * count for place, count in enumerate(counts)]))


@given(counts=row_lengths(), multiple=st.integers(1, 4))
def test_values_are_kept_and_padded(counts: list[int], multiple: int) -> None:
    """Real steps come first, then the padding value; the width is rounded up."""
    batch = Pad(value=-7, multiple_of=multiple)(make_rows_of_ids(counts))
    assert batch.width % multiple == 0
    assert max(counts) <= batch.width < max(counts) + multiple
    wanted = [[row] * count + [-7] * (batch.width - count) for row, count in enumerate(counts)]
    assert to_list(batch.values) == wanted
    assert to_list(batch.lengths) == counts


def test_long_rows_raise_or_are_truncated_with_their_targets() -> None:
    """The answer mask is truncated too."""
    rows = [Row(Ids(torch.arange(4)), target=[1, None, 2, 3], row_id=8, answer_mask=[True, False, True, True])]
    with pytest.raises(LengthError, match="row 8 has 4 steps, but max_length is 3; raise max_length, or truncate"):
        Pad(max_length=3)(rows)
    batch = Pad(max_length=3, too_long="truncate")(rows)
    assert to_list(batch.values) == [[0, 1, 2]]
    assert batch.metadata.targets is not None
    assert batch.metadata.answer_mask is not None
    assert to_list(batch.metadata.targets) == [[1, IGNORED, 2]]
    assert to_list(batch.metadata.answer_mask) == [[True, False, True]]


@given(masks=st.lists(st.none() | st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=6))
def test_answer_masks_are_padded_with_true(masks: list[list[bool] | None]) -> None:
    """A row without a mask wants all predictions; masks are truncated with their rows."""
    rows = [Row(Ids(torch.ones(len(mask or [0]), dtype=torch.int64)), answer_mask=mask) for mask in masks]
    found = Pad(max_length=4, too_long="truncate", multiple_of=3)(rows).metadata.answer_mask
    if not any(masks):
        assert found is None
        return
    width = -(-max(min(len(mask or [0]), 4) for mask in masks) // 3) * 3
    assert found is not None
    assert to_list(found) == [(mask or [])[:width] + [True] * (width - len((mask or [])[:width])) for mask in masks]


def test_a_batch_shares_no_memory_with_its_rows() -> None:
    """Also of one row, and without padding: a change in place must not reach the rows."""
    rows = [Row(Ids(torch.tensor([5, 6])))]
    batch = Pad()(rows)
    batch.values.zero_()
    assert to_list(rows[0].sequence.values) == [5, 6]


def test_the_first_row_with_a_wrong_target_is_named() -> None:
    """Equal targets are converted once."""
    rows = [Row(Ids(torch.tensor([1])), target, row_id) for row_id, target in enumerate(["a", "x", "a", "y", "x"])]
    with pytest.raises(LabelError, match="row 1 .*got 'x'"):
        Pad(labels=Labels(["a", "b"]))(rows)


def test_the_first_row_with_a_wrong_step_is_named() -> None:
    """Equal targets are converted once in a batch."""
    given = enumerate([["a", "a"], ["b", "a"], ["x", "y"], ["x", "a"]])
    rows = [Row(Ids(torch.tensor([1, 2])), target, row_id) for row_id, target in given]
    with pytest.raises(LabelError, match="row 2.*'x'"):
        Pad(labels=Labels(["a", "b"]))(rows)


def test_targets_become_class_ids() -> None:
    """Names are looked up in the labels; empty rows and the padding of step targets are ignored."""
    labels = Labels(["ham", "spam"])
    rows = [Row(Ids(torch.arange(n)), target=name) for n, name in ((2, "spam"), (0, "ham"), (1, "ham"))]
    batch = Pad(labels=labels)(rows)
    assert batch.metadata.targets is not None
    assert to_list(batch.metadata.targets) == [1, IGNORED, 0]
    assert batch.metadata.weight == 2
    steps = Pad(labels=labels)(
        [Row(Ids(torch.arange(2)), target=["ham", None]), Row(Ids(torch.arange(1)), target=["spam"])]
    )
    assert steps.metadata.targets is not None
    assert to_list(steps.metadata.targets) == [[0, IGNORED], [1, IGNORED]]


def ids(target: object = None) -> Row[Ids]:
    """Return a row of two steps with row id 5 and any target."""
    return Row(Ids(torch.zeros(2, dtype=torch.int64)), cast("Target", target), 5)


TARGETS: list[tuple[type[PipelineError], str, list[Row[Ids]]]] = [
    (
        TargetError,
        "row 5 has no target, but other rows of its batch have one; give all examples a target",
        [ids(1), ids()],
    ),
    (TargetError, "row 5 has 2 steps but 3 targets, in a batch with targets per step", [ids([1, 2, 3])]),
    (
        TargetError,
        "row 5 has 2 steps but one target for the whole row, in a batch with targets per step",
        [ids([1, 2]), ids(1)],
    ),
    (TargetError, "the target of row 5 is a class name, 'ham', but Pad has no labels", [ids("ham")]),
    (TargetError, "the target of row 5 must be 0 or more, up to .*, got -1", [ids(-1)]),
    (TargetError, "the target of row 5 must be a class id or a class name, got 1.5", [ids(1.5)]),
]


@pytest.mark.parametrize(("error", "message", "rows"), TARGETS)
def test_invalid_targets_raise(error: type[PipelineError], message: str, rows: list[Row[Ids]]) -> None:
    """With the row id and a fix."""
    with pytest.raises(error, match=message):
        Pad()(rows)


def pad_targets(*targets: object, labels: Labels | None = None) -> object:
    """Return the targets of a batch of rows of two steps."""
    found = Pad(labels=labels)([ids(target) for target in targets]).metadata.targets
    return None if found is None else to_list(found)


@pytest.mark.parametrize("convert", [int, np.int64, np.uint8, torch.tensor, np.array])
def test_scalars_of_numpy_and_torch_are_numbers(convert: Callable[[int], object]) -> None:
    """As a class per row, and in lists with one per step."""
    assert pad_targets(convert(1), 2) == [1, 2]
    assert pad_targets([convert(1), None], [2, float("nan")]) == [[1, IGNORED], [2, IGNORED]]
    assert pad_targets(convert(1), labels=Labels(["a", "b"])) == [1]


@pytest.mark.parametrize("steps", [[1, 2], (1, 2), np.array([1, 2]), torch.tensor([1, 2])], ids=repr)
def test_lists_and_arrays_are_targets_per_step(steps: object) -> None:
    """Mixed with each other."""
    assert pad_targets(steps, [3, 4]) == [[1, 2], [3, 4]]


@pytest.mark.parametrize("missing", [None, "", float("nan"), np.float64("nan"), torch.tensor(torch.nan)], ids=repr)
def test_missing_targets_are_reported(missing: object) -> None:
    """With the row, unless all are missing; within a list they have no weight."""
    assert pad_targets(missing, missing) is None
    assert pad_targets([0, missing]) == [[0, IGNORED]]
    for labels, other in ((None, 1), (Labels(["a", "b"]), "b")):
        with pytest.raises(
            TargetError, match="row 5 has (no|the missing) target.*, but other rows of its batch have one"
        ):
            pad_targets(other, missing, labels=labels)


def test_an_empty_name_is_a_class_if_the_labels_have_it() -> None:
    """Then it is not missing."""
    assert pad_targets("", "pos", labels=Labels(["", "pos"])) == [0, 1]
    assert pad_targets(["", "pos"], labels=Labels(["", "pos"])) == [[0, 1]]


@pytest.mark.parametrize("target", [2**63, -(2**63) - 1, 2**70, [0, 2**63]], ids=repr)
def test_numbers_that_are_too_large_raise_with_the_row(target: object) -> None:
    """Instead of an OverflowError without it."""
    with pytest.raises(TargetError, match=r"the target of row 5 must be 0 or more, up to 2\*\*63 - 1, got"):
        pad_targets(target)


@pytest.mark.parametrize("target", [b"ab", bytearray(b"ab"), 1.0, np.float64(1), {1}, np.zeros((2, 2))], ids=repr)
def test_other_targets_raise_with_the_row(target: object) -> None:
    """Bytes of the row's length are not targets per step, and fractions are not classes."""
    with pytest.raises(TargetError, match="the target of row 5 must be a class id or a class name, got"):
        pad_targets(target)


def test_numerals_are_never_taken_for_ids() -> None:
    """With labels and without."""
    assert pad_targets("2", "10", labels=Labels(["10", "2"])) == [1, 0]
    with pytest.raises(LabelError, match="target of row 5 must be a name, since the label '10' is a numeral"):
        pad_targets(1, labels=Labels(["10", "2"]))
    with pytest.raises(TargetError, match="the target of row 5 is a class name, '1', but Pad has no labels"):
        pad_targets("1")


def test_unknown_labels_raise() -> None:
    """With the known labels."""
    with pytest.raises(
        LabelError, match="target of row 5 must be one of the 2 labels, got 'eggs'; the labels are ham, spam"
    ):
        Pad(labels=Labels(["ham", "spam"]))([ids("eggs")])
    with pytest.raises(LabelError, match="target of row 5 must be one of the 2 labels, got 2"):
        Pad(labels=Labels(["ham", "spam"]))([ids(2)])


def test_rows_of_different_kinds_raise() -> None:
    """Mixed widths, dtypes and kinds, which torch's `pad_sequence` accepts or does not explain."""
    narrow, wide = Row(Vectors(torch.zeros(2, 3))), Row(Vectors(torch.zeros(1, 4)), row_id=1)
    with pytest.raises(
        ShapeError,
        match=r"row 1 must be floating-point vectors of time x feature, .* got float32 of shape \(1, 4\); row 0 is",
    ):
        Pad(Vectors)([narrow, wide])
    with pytest.raises(ShapeError, match=r"row 1 must be .* got float64 of shape \(2, 3\)"):
        Pad(Vectors)([narrow, Row(Vectors(torch.zeros(2, 3).double()), row_id=1)])
    with pytest.raises(ShapeError, match=r"row 0 must hold Ids, got Vectors; make it Pad\(Vectors\)"):
        Pad()(cast("list[Row[Ids]]", list(FromFeatures().map([torch.zeros(2, 3)]))))
    with pytest.raises(EmptyBatchError, match="rows is empty, but a batch needs at least one row"):
        Pad()([])


def test_invalid_options_raise() -> None:
    """With the rule and the value."""
    for value in (0, 2.5, math.nan, True, "3"):
        with pytest.raises(OptionError, match=f"multiple_of must be an integer of at least 1, got {value!r}; leave it"):
            as_any(Pad)(multiple_of=value)
        with pytest.raises(OptionError, match=f"max_length must be an integer of at least 1, got {value!r}; leave it"):
            as_any(Pad)(max_length=value)
    with pytest.raises(OptionError, match="too_long must be one of raise, truncate, got 'cut'"):
        as_any(Pad)(too_long="cut")
    with pytest.raises(OptionError, match="value must be a number, got 'x'"):
        Pad(value=as_any("x"))


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.5, 2.0**64])
def test_ids_are_padded_with_ids(value: float) -> None:
    """Torch would cut off decimals silently, or raise an error that names no field."""
    with pytest.raises(OptionError, match="value must be an integer, since the rows hold ids, got"):
        Pad(value=value)
    with pytest.raises(OptionError, match="value must be an integer, since field 'code' of Event holds ids, got"):
        Pad(Event, value=value)
    rows = [Row(Vectors(torch.ones(1, 1))), Row(Vectors(torch.ones(2, 1)))]
    assert math.isnan(float(Pad(Vectors, value=math.nan)(rows).values[0, 1]))


SHAPES = Shapes([(2, 9), (5, 4), (3, 4), (8, 2)])


def rows_of(counts: list[int]) -> list[Row[Ids]]:
    """Return rows of these lengths, each with a class."""
    return list(FromIds().map(Example([place % 7] * count, target=place % 3) for place, count in enumerate(counts)))


COUNTS = st.lists(st.integers(0, 9), min_size=1, max_size=40)


@given(counts=COUNTS, seeded=st.booleans())
def test_every_batch_has_one_of_the_shapes(counts: list[int], *, seeded: bool) -> None:
    """Each row is in exactly one batch; filler rows have no steps, no target and no row id."""
    rows, pad = rows_of(counts), Pad(policy=SHAPES, value=-1)
    batches = [pad(batch) for batch in Bucket(policy=SHAPES, seed=0 if seeded else None)(rows)]
    assert {tuple(batch.values.shape) for batch in batches} <= set(SHAPES.allowed)
    found: list[int] = []
    for batch in batches:
        assert batch.metadata.targets is not None
        for row, length, target, values in zip(
            *map(to_list, (batch.metadata.row_ids, batch.lengths, batch.metadata.targets, batch.values)), strict=True
        ):
            if row == FILLER:
                assert (length, target) == (0, IGNORED)
                assert set(values) == {-1}
            else:
                found.append(row)
                assert (length, values[:length]) == (counts[row], [row % 7] * length)
    assert sorted(found) == list(range(len(counts)))
    total = sum((batch.report() for batch in batches), start=Report())
    assert (total.rows, total.steps) == (len(counts), sum(counts))
    assert total.padded == sum(batch.values.numel() for batch in batches)


@given(counts=COUNTS)
def test_a_plan_reports_the_padding_of_pad(counts: list[int]) -> None:
    """Rows, real steps and padded steps, for every policy with a padded shape."""
    policies: list[Policy] = [SHAPES, Budget(40, multiple_of=4), Rows(3), Boundaries((2, 5), max_padded_steps=20)]
    for policy in policies:
        plan, rows = Plan.of(counts, policy), rows_of(counts)
        batches = [Pad(policy=policy)([rows[int(row)] for row in batch]) for batch in plan]
        assert sum((batch.report() for batch in batches), start=Report()) == plan.report()


@pytest.mark.parametrize("head", [Classify, Tag])
def test_filler_rows_have_no_prediction(head: type[Classify[str] | Tag[str]]) -> None:
    """Predictions are the same as without fixed shapes."""
    seed(0)
    labels = Labels(["a", "b", "c"])
    states = Pack() >> Embed(7, 4) >> Encode(LSTM(4, 5))
    model = states >> Pool("final") >> Classify(labels) if head is Classify else states >> Tag(labels)
    inputs = [[place % 7] * (place * 4 % 10) for place in range(23)]
    filled = FromIds() >> Bucket(policy=SHAPES) >> Pad(policy=SHAPES) >> model
    plain = FromIds() >> Bucket(rows=1) >> Pad() >> model
    assert list(filled.predict(inputs)) == list(plain.predict(inputs))


def test_filler_rows_have_no_weight_in_the_loss() -> None:
    """With one class per row, and with one per step."""
    seed(0)
    states = Embed(7, 4) >> Encode(LSTM(4, 5))
    classify, tag = states >> Pool("max") >> Classify(3), states >> Tag(3)
    rows, shapes = rows_of([4, 2, 3]), Pad(policy=Shapes([(6, 5)]))
    torch.testing.assert_close(classify(shapes(rows)).loss(), classify(Pad()(rows)).loss())
    steps = [Row(row.sequence, [1] * len(row), row.row_id) for row in rows]
    torch.testing.assert_close(tag(shapes(steps)).loss(), tag(Pad()(steps)).loss())
    assert shapes(rows).metadata.weight == 3


def draw_lengths() -> Iterator[int]:
    """Return random lengths, the same at every call."""
    generator = torch.Generator().manual_seed(3)
    return iter(to_list(torch.randint(0, 10, (300,), generator=generator)))


def test_there_is_one_graph_per_shape() -> None:
    """A compiler that makes a graph for each shape makes no more graphs than there are shapes."""
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

    compiled = compile_graph(mean, fullgraph=True, backend=counting, dynamic=False)
    pad = Pad(policy=SHAPES)
    batches = [pad(batch) for batch in Bucket(policy=SHAPES)(rows_of(list(draw_lengths())))]
    assert len(batches) > 40
    for batch in batches:
        torch.testing.assert_close(compiled(batch.values, batch.lengths), mean(batch.values, batch.lengths))
    assert len(graphs) == len({tuple(batch.values.shape) for batch in batches}) <= len(SHAPES.allowed)


def test_a_long_row_is_alone_in_its_own_shape() -> None:
    """With `too_long="alone"`."""
    shapes = Shapes([(4, 4)], too_long="alone")
    batches = [Pad(policy=shapes)(batch) for batch in Bucket(policy=shapes)(rows_of([2, 9, 3]))]
    assert sorted(tuple(batch.values.shape) for batch in batches) == [(1, 9), (4, 4)]


def test_batches_of_another_policy_raise() -> None:
    """With too many rows for the longest of them. A policy and `multiple_of` contradict each other."""
    with pytest.raises(LengthError, match=r"a batch of 3 rows of up to 5 steps exceeds the limits of Shapes\(.*\)"):
        Pad(policy=SHAPES)(rows_of([5, 1, 2]))
    with pytest.raises(
        OptionError, match="Pad takes a policy or multiple_of, got both; pass multiple_of=8 to the policy"
    ):
        Pad(policy=SHAPES, multiple_of=8)


@given(counts=st.lists(st.integers(0, 24), max_size=40), multiple=st.integers(1, 9))
def test_a_budget_counts_rounded_steps(counts: list[int], multiple: int) -> None:
    """No padded batch is over the budget, and every width is a multiple."""
    policy = Budget(30, multiple_of=multiple, too_long="split")
    for batch in Bucket(policy=policy)(rows_of(counts)):
        padded = Pad(policy=policy)(batch)
        assert padded.values.numel() <= 30
        assert padded.width % multiple == 0


def test_impossible_multiples_raise() -> None:
    """More steps than the budget, and rows with two lengths."""
    with pytest.raises(
        OptionError, match="max_padded_steps must hold a row of 16 steps, which counts as 16, got 10; raise it"
    ):
        Budget(10, multiple_of=16)
    with pytest.raises(OptionError, match="multiple_of=4 needs one length per row, got 2"):
        Plan.of([(1, 2), (3, 4)], Budget(100, multiple_of=4))
