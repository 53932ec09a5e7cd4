"""Every field of the data classes is validated, and the cache of valid signatures accepts nothing else."""

import random
from collections.abc import Callable, Mapping, Sequence

import attrs
import pytest
import torch

import pipeline
from pipeline import (
    Decoded,
    Ids,
    Joint,
    MultiLabelScores,
    Packed,
    Padded,
    Pooled,
    Scores,
    States,
    StepCarry,
    StepScores,
    Values,
    Vectors,
)
from pipeline.checks.shapes import checked
from pipeline.data.metadata import BatchMetadata
from pipeline.data.packing_order import PackingOrder
from pipeline.errors import PipelineError, ShapeError
from support.untyped import as_any, untyped

L = torch.tensor([2, 1])
FLAT, PLANE, CUBE = torch.zeros(2), torch.zeros(2, 3), torch.zeros(2, 2, 3)
ROWS = Padded(Vectors, CUBE, L)
STEPS = ROWS.packed()
THREE = BatchMetadata(torch.arange(3))

# For each field of each data class: a call in which only that field is invalid, and the error.
FIELDS: Mapping[tuple[type, str], tuple[Callable[[], object], str]] = {
    (Padded, "kind"): (
        lambda: untyped(Padded)("Ids", CUBE, L),
        "Padded: kind must be type.* a str; pass a value of this type.$",
    ),
    (Padded, "values"): (lambda: Padded(Vectors, FLAT, L), r"Padded: values must be Shaped\[Tensor, 'batch time \*"),
    (Padded, "lengths"): (
        lambda: untyped(Padded)(Vectors, CUBE, [2, 1]),
        "Padded: lengths must be Int64.*, got a list; pass a tensor of this dtype with these axes.$",
    ),
    (Padded, "initial_carry"): (
        lambda: Padded(Vectors, CUBE, L, initial_carry=(CUBE[:, :1],)),
        r"initial_carry\[0\] must be layers x",
    ),
    (Padded, "metadata"): (
        lambda: Padded(Vectors, CUBE, L, metadata=THREE),
        "metadata must have one row id per row, got 3 row ids for 2",
    ),
    (Padded, "order"): (
        lambda: Padded(Vectors, CUBE, L, order=PackingOrder(L + 1)),
        "order must be computed from the same lengths",
    ),
    (Padded, "fields"): (
        lambda: Padded(Vectors, CUBE, L, fields={"code": ROWS}),
        "a batch of kind Vectors must have .* fields if its class has fields, and else neither",
    ),
    (Padded, "inner"): (
        lambda: Padded(Vectors, CUBE, L, inner=STEPS),
        "a batch of kind Vectors must have inner rows if it is Nested",
    ),
    (Packed, "kind"): (lambda: untyped(Packed)(3, PLANE, L), "Packed: kind must be type"),
    (Packed, "values"): (lambda: Packed(Ids, torch.tensor(1), L), r"Packed: values must be Shaped\[Tensor, 'steps"),
    (Packed, "lengths"): (
        lambda: Packed(Vectors, CUBE, L.int()),
        "Packed: lengths must be Int64.*int32 of shape .2,.; pass a tensor of this",
    ),
    (Packed, "width"): (lambda: Packed(Vectors, torch.zeros(3, 1), L, width=1), r"lengths\[0\] is 2, but .* 1 steps"),
    (Packed, "initial_carry"): (
        lambda: untyped(Packed)(Vectors, torch.zeros(3, 1), L, initial_carry=[CUBE]),
        "initial_carry must be tup",
    ),
    (Packed, "metadata"): (
        lambda: Packed(Vectors, torch.zeros(3, 1), L, metadata=THREE),
        "metadata must have one row id per row, got 3",
    ),
    (Packed, "order"): (
        lambda: Packed(Vectors, torch.zeros(3, 1), L, order=PackingOrder(L.flip(0))),
        "order must be computed from the",
    ),
    (Packed, "fields"): (
        lambda: Packed(Vectors, torch.zeros(3, 1), L, fields={"code": STEPS}),
        "a batch of kind Vectors must have .* fields if its class has fields, and else neither",
    ),
    (Packed, "inner"): (
        lambda: Packed(Vectors, torch.zeros(3, 1), L, inner=STEPS),
        "a batch of kind Vectors must have inner rows if it is Nested",
    ),
    (States, "steps"): (lambda: untyped(States)(CUBE, PLANE), "States: steps must be .*got float32 of shape"),
    (States, "final"): (lambda: States(ROWS, PLANE[:, :2]), r"States: final must be batch x hidden, \(2, 3\)"),
    (States, "outdated"): (lambda: untyped(States)(ROWS, PLANE, outdated=3), "States: outdated must be str or None"),
    (States, "carry"): (lambda: untyped(States)(ROWS, PLANE, carry=[PLANE]), "States: carry must be tuple"),
    (States, "bidirectional"): (
        lambda: untyped(States)(ROWS, PLANE, bidirectional=3),
        "States: bidirectional must be bool",
    ),
    (States, "engine"): (lambda: untyped(States)(ROWS, PLANE, engine=3), "States: engine must be str or None"),
    (Pooled, "values"): (lambda: Pooled(CUBE), r"Pooled: values must be Float\[Tensor, 'batch hidden'\]"),
    (Pooled, "metadata"): (
        lambda: Pooled(PLANE, metadata=THREE),
        "metadata must have one row id per row, got 3 row ids for 2",
    ),
    (Scores, "values"): (lambda: Scores(PLANE.long(), range(3)), r"Scores: values must be Float.*got int64"),
    (Scores, "names"): (lambda: Scores(PLANE, range(2)), "names must have one entry per class, got 2 for 3"),
    (Scores, "metadata"): (
        lambda: Scores(PLANE, range(3), metadata=THREE),
        "metadata must have one row id per row, got 3",
    ),
    (StepScores, "values"): (lambda: StepScores(FLAT, L, range(2)), "StepScores: values must be Float"),
    (StepScores, "lengths"): (lambda: StepScores(PLANE, L.float(), range(3)), "StepScores: lengths must be Int64"),
    (StepScores, "names"): (
        lambda: StepScores(torch.zeros(3, 2), L, "abc"),
        "names must have one entry per class, got 3 for 2",
    ),
    (StepScores, "step_numbers"): (
        lambda: StepScores(torch.zeros(3, 2), L, "ab", step_numbers=FLAT),
        "StepScores: step_numbers must be",
    ),
    (StepScores, "metadata"): (
        lambda: StepScores(torch.zeros(3, 2), L, "ab", metadata=THREE),
        "metadata must have one row id per row, got 3",
    ),
    (StepScores, "order"): (
        lambda: StepScores(torch.zeros(3, 2), L, "ab", order=PackingOrder(L * 0)),
        "order must be computed from",
    ),
    (Values, "values"): (lambda: Values[float](L), "Values: values must be Float.*got int64"),
    (Values, "metadata"): (
        lambda: Values[float](FLAT, metadata=THREE),
        "metadata must have one row id per row, got 3",
    ),
    (MultiLabelScores, "values"): (
        lambda: MultiLabelScores(FLAT, "ab", FLAT),
        "MultiLabelScores: values must be Float",
    ),
    (MultiLabelScores, "names"): (
        lambda: MultiLabelScores(PLANE, "ab", torch.zeros(3)),
        "names must have one entry per class, got 2 for 3",
    ),
    (MultiLabelScores, "thresholds"): (
        lambda: MultiLabelScores(PLANE, "abc", FLAT),
        "MultiLabelScores: thresholds must be Float.*'classes'",
    ),
    (MultiLabelScores, "metadata"): (
        lambda: MultiLabelScores(PLANE, "abc", torch.zeros(3), metadata=THREE),
        "metadata must have one row id per row, got 3",
    ),
    (BatchMetadata, "row_ids"): (lambda: BatchMetadata(FLAT), "BatchMetadata: row_ids must be Int64.*got float32"),
    (BatchMetadata, "targets"): (
        lambda: BatchMetadata(L, targets=torch.zeros(3).long()),
        "BatchMetadata: targets must be Int64.*'batch'",
    ),
    (BatchMetadata, "named_targets"): (
        lambda: BatchMetadata(L, named_targets={"age": torch.zeros(3)}),
        "BatchMetadata: named_targets must be",
    ),
    (BatchMetadata, "answer_mask"): (
        lambda: BatchMetadata(L, answer_mask=torch.ones(3, 4).bool()),
        "BatchMetadata: answer_mask must be Bool.*beside row_ids",
    ),
    (BatchMetadata, "label_sets"): (
        lambda: BatchMetadata(L, label_sets=as_any({"tags"})),
        "BatchMetadata: label_sets must be",
    ),
    (BatchMetadata, "target_lengths"): (
        lambda: BatchMetadata(L, target_lengths={"": torch.zeros(3).long()}),
        "BatchMetadata: target_lengths must be",
    ),
    (BatchMetadata, "start_steps"): (
        lambda: BatchMetadata(L, start_steps=torch.zeros(3).long()),
        "BatchMetadata: start_steps must be Int64.*'batch'",
    ),
}

DATA_CLASSES: Sequence[type] = [
    *(Padded, Packed, States, Pooled, Scores, StepScores, Values, MultiLabelScores, BatchMetadata),
]


@pytest.mark.parametrize(("cls", "field"), FIELDS, ids=[f"{cls.__name__}-{field}" for cls, field in FIELDS])
def test_an_invalid_field_raises(cls: type, field: str) -> None:
    """The error names the field."""
    make, message = FIELDS[cls, field]
    with pytest.raises(PipelineError, match=message):
        make()


def test_all_fields_are_tested() -> None:
    """The table above has every field of every public data class with shapes that users make.

    `Joint` holds those of its heads, `Decoded` its scores and texts, and a `StepCarry` what stages remember.
    """
    public = [value for value in vars(pipeline).values() if attrs.has(value) and hasattr(value, "to")]
    assert {*public, BatchMetadata} - {Joint, Decoded, StepCarry} == set(DATA_CLASSES)
    assert {(cls, field.name) for cls in DATA_CLASSES for field in attrs.fields(cls)} == set(FIELDS)


def test_steps_of_metadata_are_those_of_the_batch() -> None:
    """Targets and the answer mask have its time axis, but for targets that are sequences with lengths of their own."""
    row_ids, targets = torch.arange(2), torch.zeros(2, 4).long()
    with pytest.raises(ShapeError, match="metadata.answer_mask must be 2 steps wide like the batch, got 3"):
        Padded(Vectors, CUBE, L, metadata=BatchMetadata(row_ids, answer_mask=torch.ones(2, 3).bool()))
    with pytest.raises(ShapeError, match="metadata.targets must be 2 steps wide like the batch, got 4"):
        Padded(Vectors, CUBE, L, metadata=BatchMetadata(row_ids, targets, torch.ones(2, 2).bool()))
    Padded(Vectors, CUBE, L, metadata=BatchMetadata(row_ids, targets, target_lengths={"": torch.tensor([4, 0])}))


def test_cached_signatures_accept_no_other_shapes_or_dtypes() -> None:
    """Arguments like earlier valid ones pass without a check; arguments that differ are checked."""
    for _ in range(3):
        BatchMetadata(torch.arange(2), torch.zeros(2, 4).long())
        with pytest.raises(ShapeError, match="targets must be"):
            BatchMetadata(torch.arange(3), torch.zeros(2, 4).long())
        with pytest.raises(ShapeError, match="targets must be"):
            BatchMetadata(torch.arange(2), torch.zeros(2, 4).int())


def test_checks_leave_the_global_random_generator_alone() -> None:
    """Beartype draws from it, but only for new signatures: a resumed program would see other random numbers."""

    @checked
    @attrs.frozen
    class Numbers:
        values: Sequence[int]

    before = random.getstate()
    Numbers([1, 2, 3])
    with pytest.raises(ShapeError, match="values must be"):
        untyped(Numbers)(3)
    assert random.getstate() == before
