"""Errors for batches whose tensors, fields or inner rows do not fit each other."""

from collections.abc import Mapping

import attrs
import pytest
import torch

from pipeline import Ids, Nested, Packed, Pad, Padded, StepScores, Vectors
from pipeline.data.batches import Carry
from pipeline.data.metadata import BatchMetadata
from pipeline.errors import EmptyBatchError, LengthError, PipelineError, ShapeError
from support.records import Event, Word, make_event, make_words
from support.untyped import as_any, untyped

VECTORS = torch.zeros(2, 3, 4)
SIZES = torch.tensor([3, 1])
INVALID: list[tuple[str, type[PipelineError], str, dict[str, object]]] = [
    ("float lengths", ShapeError, r"lengths must be Int64\[Tensor, 'batch'\], got float32 of shape \(2,\)",
     {"lengths": torch.tensor([2.9, 1.0])}),
    ("a list of lengths", ShapeError, r"lengths must be Int64\[Tensor, 'batch'\], got a list",
     {"lengths": [3, 1]}),
    ("too many lengths", ShapeError, r"lengths must be .* got int64 of shape \(3,\) beside values float32",
     {"lengths": torch.tensor([3, 1, 1])}),
    ("too long", LengthError, r"lengths\[1\] is 4, but values has only 3 steps; build the batch with Pad, or pass",
     {"lengths": torch.tensor([3, 4])}),
    ("negative", LengthError, r"lengths\[1\] is -1, but a row has 0 steps or more; correct the length",
     {"lengths": torch.tensor([3, -1])}),
    ("no row", EmptyBatchError, r"lengths is empty, but a batch must have at least one row; skip empty batches",
     {"values": torch.zeros(0, 3, 4), "lengths": torch.tensor([], dtype=torch.int64)}),
    ("lengths on a device", ShapeError, r"lengths must be on the CPU, got a tensor on meta; pass lengths.cpu\(\)",
     {"lengths": SIZES.to("meta")}),
    ("ids for vectors", ShapeError, r"values must be floating-point vectors of batch x time x feature for kind Vectors, "
     r"got int64 of shape \(2, 3\); use kind Ids for token ids", {"values": torch.zeros(2, 3).long()}),
    ("vectors for ids", ShapeError, r"values must be int64 ids of batch x time for kind Ids, got float32",
     {"kind": Ids}),
    ("too many row ids", ShapeError, r"metadata must have one row id per row, got 3 row ids for 2 rows",
     {"metadata": BatchMetadata(torch.arange(3))}),
    ("targets of another width", ShapeError, r"metadata.targets must be 3 steps wide like the batch, got 5; pad targets",
     {"metadata": BatchMetadata(torch.arange(2), targets=torch.zeros(2, 5).long())}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "message", "wrong"), [case[1:] for case in INVALID], ids=[case[0] for case in INVALID]
)
def test_invalid_arguments_raise(error: type[PipelineError], message: str, wrong: dict[str, object]) -> None:
    """Each error has the argument, the rule, the value and a fix; torch accepts most of them silently."""
    arguments = {"kind": Vectors, "values": VECTORS, "lengths": SIZES, **wrong}
    with pytest.raises(error, match=message):
        untyped(Padded)(**arguments)


def test_packed_steps_must_equal_the_sum_of_lengths() -> None:
    """For batches and for scores."""
    with pytest.raises(LengthError, match="lengths add up to 4 steps, but values has 5; pack values and lengths of"):
        Packed(Vectors, torch.zeros(5, 2), SIZES)
    with pytest.raises(LengthError, match="lengths add up to 4 steps, but values has 3"):
        StepScores(torch.zeros(3, 2), SIZES, range(2))


def test_new_values_must_fit_the_batch() -> None:
    """`with_values` checks the replaced values, because the batch that it returns is not checked again."""
    batch = Padded(Vectors, VECTORS, SIZES)
    for wrong in (torch.zeros(2, 2, 4), torch.zeros(2, 3), torch.zeros(2, 3, 4).long()):
        with pytest.raises(ShapeError, match=r"values must be floating-point vectors of shape \(2, 3, feature\)"):
            batch.with_values(wrong)
    for wrong in (torch.zeros(3, 4), torch.zeros(4), torch.zeros(4, 4).long()):
        with pytest.raises(ShapeError, match=r"values must be floating-point vectors of shape \(4, feature\)"):
            batch.packed().with_values(wrong)
    assert batch.with_values(torch.zeros(2, 3, 7)).packed().values.shape == (4, 7)


EVENTS = Pad(Event)([make_event([1, 2, 3]), make_event([4], 1)])
WORDS = Pad(Word)([make_words(["ab", "c"])])
WIDER = Padded(Vectors, torch.zeros(2, 3, 1), torch.tensor([3, 2]))


def take_field(batch: object, name: str) -> object:
    """Return a field of a batch."""
    return as_any(batch).fields[name]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"code": take_field(EVENTS, "code")}, "fields must be those of Event, code, amount, got code"),
        ({**(EVENTS.fields or {}), "amount": WIDER}, "field 'amount' must hold Vectors with the same number of steps"),
        ({**(EVENTS.fields or {}), "amount": take_field(EVENTS, "code")}, "field 'amount' must hold Vectors.*got Ids"),
    ],
)
def test_fields_must_be_those_of_their_class(wrong: Mapping[str, object], message: str) -> None:
    """Other names, other lengths, another kind."""
    with pytest.raises(ShapeError, match=message):
        attrs.evolve(EVENTS, fields=as_any(wrong))


def test_inner_rows_must_be_of_the_declared_kind() -> None:
    """Vectors where the field holds ids."""
    inner = Packed(Vectors, torch.zeros(3, 1), torch.tensor([2, 1]))
    characters = attrs.evolve(as_any(take_field(WORDS, "characters")), inner=inner)
    with pytest.raises(ShapeError, match=r"field 'characters' must hold Nested\[Ids\]"):
        attrs.evolve(WORDS, fields={**(WORDS.fields or {}), "characters": characters})


@pytest.mark.parametrize("kind", [Ids, Nested, Event])
def test_a_kind_must_have_its_inner_rows_or_fields(kind: type[object]) -> None:
    """Nested rows without inner ones, ids with fields, events without fields."""
    values = torch.zeros(2, 3, 0) if kind is Event else torch.zeros(2, 3, dtype=torch.int64)
    fields = EVENTS.fields if kind is Ids else None
    with pytest.raises(ShapeError, match="must have inner rows if it is Nested, and fields if its class has fields"):
        untyped(Padded)(kind, values, SIZES, fields=fields)


@pytest.mark.parametrize("carry", [(torch.zeros(1, 3, 2),), (torch.zeros(1, 2, 2), torch.zeros(2, 2))])
def test_a_carry_must_be_of_the_same_rows(carry: Carry) -> None:
    """In each of its tensors."""
    with pytest.raises(ShapeError, match=rf"initial_carry\[{len(carry) - 1}\] must be layers x batch x size"):
        Padded(Vectors, VECTORS, SIZES, initial_carry=carry)
