"""Tests of `Join`: branches equal running each stage by itself, on every kind of output."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from torch import Tensor
from typing_extensions import override

from pipeline import (
    Attend,
    Batch,
    Classify,
    Embed,
    EmbedFields,
    Encode,
    Join,
    ModuleStage,
    NextToken,
    Pack,
    Pad,
    Padded,
    Pool,
    Pooled,
    Row,
    Sides,
    States,
    Vectors,
    through,
    unused,
)
from pipeline.data.tensors import pad_tensors
from pipeline.errors import CompositionError, OptionError, ShapeError
from pipeline.stages.join import How
from pipeline_recurrent import GRU, LSTM
from support.records import Event, Pair, make_event, make_ids
from support.strategies import ragged_rows
from support.untyped import as_any, seed, to_list

COMBINE: dict[How, Callable[[Tensor, Tensor], Tensor]] = {
    "concat": lambda u, v: torch.cat([u, v], dim=-1),
    "sum": lambda u, v: u + v,
    "mean": lambda u, v: (u + v) / 2,
    "max": torch.maximum,
    "mul": lambda u, v: u * v,
    "compare": lambda u, v: torch.cat([u, v, (u - v).abs(), u * v], dim=-1),
}


def make_batch(rows: list[Tensor]) -> Padded[Vectors]:
    """Return rows in one rectangle with NaN in the padding."""
    lengths = [len(row) for row in rows]
    return Padded(Vectors, pad_tensors(rows, lengths, max(lengths), torch.nan), torch.tensor(lengths))


@pytest.mark.parametrize("how", COMBINE)
@given(rows=ragged_rows())
def test_pooled_branches_equal_each_row_by_itself(how: How, rows: list[Tensor]) -> None:
    """Mean and max of each row, combined number by number or side by side."""
    batch = make_batch(rows)
    states = States(batch.with_values(batch.values), torch.zeros(len(rows), 3, dtype=torch.float64))
    found = Join(Pool("mean"), Pool("max"), how=how)(states)
    zero = torch.zeros(3, dtype=torch.float64)
    expected = [COMBINE[how](row.mean(0), row.amax(0)) if len(row) else COMBINE[how](zero, zero) for row in rows]
    torch.testing.assert_close(found.values, torch.stack(expected))


@pytest.mark.parametrize("how", COMBINE)
@pytest.mark.parametrize("packs", [True, False])
def test_states_of_two_encoders_are_combined(how: How, *, packs: bool) -> None:
    """Steps and final states are those of both encoders, in either layout."""
    seed(0)
    rows = [torch.randn(time, 3) for time in (4, 0, 2)]
    batch = make_batch(rows)
    first, second = Encode(LSTM(3, 5)), Encode(GRU(3, 5))
    value = batch.packed() if packs else batch
    found = Join(first, second, how=how)(value)
    combine = COMBINE[how]
    one, two = first(value), second(value)
    torch.testing.assert_close(found.final, combine(one.final, two.final))
    torch.testing.assert_close(found.packed().values, combine(one.packed().values, two.packed().values))
    assert found.row_ids is value.row_ids


def test_fields_are_joined_in_the_layout_of_the_batch() -> None:
    """Each branch takes a field of its own; the padding of the result is zeros."""
    batch = Pad(Event)([make_event([3, 1]), make_event([2])])
    embed = Embed(4, 2).double()
    join = Join(Event.code >> embed, Event.amount)
    padded, packed = join(batch), join(Pack(Event)(batch))
    assert to_list(padded.values[1, 1]) == [0, 0, 0, 0]
    assert to_list(padded.values[0, 1]) == [*to_list(embed.weight[1]), 0.5, -1.0]
    torch.testing.assert_close(padded.packed().values, packed.packed().values)


def test_sides_are_encoded_by_one_encoder_and_compared() -> None:
    """u, v, |u - v| and u * v of the two sides, each of its own length."""
    seed(0)
    read = Embed(9, 4) >> Encode(LSTM(4, 3, bidirectional=True)) >> Pool("max")
    pairs = [Pair(make_ids([1, 2, 3]), make_ids([4])), Pair(make_ids([5]), make_ids([6, 7]))]
    model = Join(Pair.premise >> read, Pair.hypothesis >> read, how="compare") >> Classify(2)
    batch = Pad(Pair)([Row(pair, row_id=row) for row, pair in enumerate(pairs)])
    join = as_any(model.stages["join"])
    found = join(batch).values
    for row, pair in enumerate(pairs):
        u, v = (read(Pad()([Row(side)])).values[0] for side in (pair.premise, pair.hypothesis))
        torch.testing.assert_close(found[row], torch.cat([u, v, (u - v).abs(), u * v]))
    assert to_list(model(batch).row_ids) == [0, 1]
    assert issubclass(Pair, Sides)


def test_branches_have_names_in_the_state_dict() -> None:
    """A branch has its own name, or that of its first stage with weights, numbered if it is taken."""
    join = Join(Encode(LSTM(2, 3)), Encode(GRU(2, 3)), Encode(GRU(2, 3), name="third"))
    assert {key.split(".")[0] for key in join.state_dict()} == {"encode", "encode_2", "third"}
    chains = Join(Event.code >> Embed(3, 2), Event.code >> Embed(4, 2, name="wide"))
    assert list(chains.state_dict()) == ["embed.embed.weight", "wide.wide.weight"]


def test_sizes_pass_through_a_join() -> None:
    """The stage after it is made for the size of all branches together."""
    encode = Encode(LSTM(4, 3))
    model = Embed(9, 4) >> encode >> Join(Pool("max"), Pool("mean"), Pool("final")) >> Classify(2)
    assert model.state_dict()["classify.linear.weight"].shape == (2, 9)
    summed = Embed(9, 4) >> encode >> Join(Pool("max"), Pool("mean"), how="sum") >> Classify(2)
    assert summed.state_dict()["classify.linear.weight"].shape == (2, 3)
    compared = Embed(9, 4) >> encode >> Join(Pool("max"), Pool("mean"), how="compare") >> Classify(2)
    assert compared.state_dict()["classify.linear.weight"].shape == (2, 12)
    lazy = (
        Embed(9, 4) >> Join(Encode("lstm", hidden_size=3), Encode("gru", hidden_size=2)) >> Pool("max") >> Classify(2)
    )
    assert lazy.state_dict()["classify.linear.weight"].shape == (2, 5)


def test_branches_of_unequal_sizes_are_rejected_unless_concatenated() -> None:
    """Numbers cannot be combined one by one; the error names both branches."""
    branches = Encode(LSTM(4, 3)), Encode(GRU(4, 2))
    with pytest.raises(CompositionError, match=r"stage 2 `Join`.*encode has 3, encode_2 has 2"):
        _ = Embed(9, 4) >> Join(*branches, how="sum")
    with pytest.raises(ShapeError, match=r"Join\(how='mul'\) must return the same rows and sizes"):
        Join(*branches, how="mul")(Padded(Vectors, torch.ones(1, 2, 4), torch.tensor([2])))


def test_an_error_in_a_branch_names_the_branch() -> None:
    """The size that does not fit, and where."""
    with pytest.raises(CompositionError, match=r"between stage 1 `Embed` and stage 2 `Join`: in branch 'encode_2'"):
        _ = Embed(9, 4) >> Join(Encode(LSTM(4, 3)), Encode(LSTM(5, 3)))


def test_a_branch_that_sees_the_future_is_not_for_next_tokens() -> None:
    """One branch with later steps makes all steps depend on them."""
    model = Embed(9, 4) >> Join(Encode("lstm", hidden_size=3), Encode("bilstm", hidden_size=3))
    with pytest.raises(CompositionError, match="must be causal states"):
        _ = as_any(model) >> NextToken(9)


def test_a_branch_that_only_changes_steps_has_no_effect_on_final_states() -> None:
    """As without a join, `Pool("final")` says so."""
    states = Embed(9, 4) >> Encode(LSTM(4, 3))
    with pytest.raises(CompositionError, match="has no effect on Pool"):
        _ = states >> Join(Pool("max"), Attend("dot") >> Pool("final"))


@pytest.mark.parametrize("how", ["concat", "compare"])
def test_too_few_branches_are_rejected(how: How) -> None:
    """One branch joins nothing; a comparison is of two."""
    with pytest.raises(OptionError, match="Join must get two branches"):
        Join(Pool("max"), how=how)
    with pytest.raises(OptionError, match="two branches, got 3"):
        Join(Pool("max"), Pool("mean"), Pool("sum"), how="compare")


def test_unlike_outputs_are_rejected() -> None:
    """What the type checkers reject is an error at run time as well."""
    states = States.from_padded(torch.ones(1, 2, 3), torch.tensor([2]), final=torch.ones(1, 3))
    join = as_any(Join)(Pool("max"), Attend("dot", input_size=3))
    with pytest.raises(ShapeError, match="pool returns Pooled, attend returns States"):
        join(states)


def test_pooled_metadata_is_kept() -> None:
    """Row ids are those of the input."""
    states = States.from_padded(torch.ones(2, 2, 3), torch.tensor([2, 1]))
    found: Pooled = Join(Pool("max"), Pool("mean"))(states)
    assert found.metadata is states.metadata


def test_a_replaced_branch_is_the_one_that_runs() -> None:
    """Torch's tools replace child modules under their names."""
    join = Join(Encode(LSTM(3, 2)), Encode(GRU(3, 2)))
    batch = Padded(Vectors, torch.ones(1, 2, 3), torch.tensor([2]))
    other = Encode(GRU(3, 2))
    join.encode = other
    torch.testing.assert_close(join(batch).final[:, :2], other(batch).final)


def test_a_branch_may_have_the_name_of_an_attribute() -> None:
    """Its weights have the name with an underscore."""
    join = Join(Encode(LSTM(3, 2), name="type"), Encode(GRU(3, 2)))
    assert {key.split(".")[0] for key in join.state_dict()} == {"type_", "encode"}
    assert list(join.branches) == ["type", "encode"]
    later = Join(Encode(LSTM(3, 2), name="how"), Encode(GRU(3, 2), name="record"), how="sum")
    assert {key.split(".")[0] for key in later.state_dict()} == {"how_", "record_"}


@pytest.mark.parametrize("packs", [False, True])
def test_steps_of_sides_are_not_joined(*, packs: bool) -> None:
    """Both sides have three steps in all, which would be joined with steps of other rows."""
    join = as_any(Join)(Pair.premise >> Embed(9, 3), Pair.hypothesis >> Embed(9, 3), how="sum")
    rows = [Row(Pair(make_ids([1]), make_ids([2, 3]))), Row(Pair(make_ids([1, 2]), make_ids([2])))]
    batch = Pad(Pair)(rows)
    with pytest.raises(ShapeError, match="must return one vector per step.*pool sides before"):
        join(batch.packed() if packs else batch)


def test_a_branch_that_changes_the_width_is_rejected() -> None:
    """Its steps are the same, but the rectangles do not fit each other."""

    class Widen(ModuleStage[Batch[Vectors], Batch[Vectors]]):
        """Pads rows by one more step."""

        @override
        def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
            wider = torch.nn.functional.pad(value.padded().values, (0, 0, 0, 1))
            return Padded(Vectors, wider, value.lengths, metadata=value.metadata)

    embed = EmbedFields(Event, code=through(Embed(9, 3)), amount=through(Widen()))
    with pytest.raises(ShapeError, match="branch 'amount' must keep the width of 2 steps, got 3; make its output with"):
        embed(Pad(Event)([make_event([1, 2])]))


def test_ids_and_hidden_vectors_are_not_joined_as_vectors() -> None:
    """Ids would be numbers, and hidden vectors would count as vectors that see no other step."""
    batch = Pad(Event)([make_event([1, 2])])
    with pytest.raises(ShapeError, match="branch 'field' must return a batch of Vectors, got a batch of Ids"):
        as_any(Join)(Event.code, Event.code)(batch)


def test_states_of_a_field_are_not_taken_for_vectors() -> None:
    """They depend on other steps, and `Vectors` promise that none does."""
    states = Embed(9, 3) >> Encode(LSTM(3, 2))
    embed = as_any(EmbedFields)(Event, code=through(as_any(states)), amount=unused(Vectors))
    with pytest.raises(ShapeError, match="branch 'code' must return a batch of Vectors, got a States"):
        embed(Pad(Event)([make_event([1, 2])]))
