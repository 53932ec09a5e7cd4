"""Laws of batches with several fields, inner rows and sides: each part equals its rows, whatever the layout."""

import copy
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils import _pytree as pytree
from typing_extensions import override

from pipeline import (
    Batch,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    FromFeatures,
    FromNested,
    Identity,
    Ids,
    Join,
    ModuleStage,
    Nested,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Pooled,
    Row,
    Vectors,
    set_padding_check,
    through,
)
from pipeline.data.collate import find_distinct
from pipeline.data.kinds import Composite, Kind, concat_sequences, get_kind_class
from pipeline.data.rows import cut_row
from pipeline.errors import PaddingLeakError, ShapeError
from pipeline_recurrent import LSTM
from support.records import Pair, make_ids, make_nested
from support.untyped import as_any, seed, to_list


@attrs.frozen(eq=False)
class Token(Fields):
    """A field of each kind."""

    word: Ids
    letters: Nested[Ids]
    number: Vectors


def make_row(words: Sequence[str], row_id: int = 0) -> Row[Token]:
    """Return a row of words of the letters a to c, whose numbers are their lengths."""
    lengths = torch.tensor([len(word) for word in words], dtype=torch.float64)
    token = Token(make_ids([len(word) for word in words]), make_nested(words), Vectors(lengths.unsqueeze(1)))
    return Row(token, row_id=row_id)


ROWS = st.lists(st.lists(st.text("abc", max_size=4), max_size=4), min_size=1, max_size=4).map(
    lambda rows: [make_row(words, row) for row, words in enumerate(rows)]
)
PAIRS = st.lists(st.tuples(*[st.lists(st.integers(0, 8), max_size=4)] * 2), min_size=1, max_size=4).map(
    lambda rows: [Row(Pair(make_ids(one), make_ids(two)), row_id=row) for row, (one, two) in enumerate(rows)]
)


def unbatch(batch: Batch[Kind], row: int) -> Any:
    """Return a row of a batch as lists, read step by step."""
    padded = batch.padded()
    if padded.fields is not None:
        return {name: unbatch(field, row) for name, field in padded.fields.items()}
    values = to_list(padded.values[row, : int(padded.lengths[row])])
    return values if padded.inner is None else [unbatch(padded.inner, number) for number in values]


def list_steps(sequence: Kind) -> Any:
    """Return a sequence as lists."""
    if isinstance(sequence, Composite):
        return {name: list_steps(part) for name, part in sequence.get_sequences().items()}
    if get_kind_class(type(sequence)) is Nested:
        nested = cast("Nested[Kind]", sequence)
        ends = to_list(nested.counts.cumsum(0))
        return [list_steps(nested.inner.cut(slice(*window))) for window in zip([0, *ends], ends, strict=False)]
    return to_list(as_any(sequence).values)


def make_model() -> Callable[[Batch[Token]], Pooled]:
    """Return an encoder of all three fields, in float64."""
    seed(0)
    spell = EachStep(Embed(26, 3).double() >> Encode(LSTM(3, 2, bidirectional=True).double()) >> Pool("max"))
    embed = EmbedFields(Token, through(Embed(9, 2).double()), through(spell), through(Identity(1)))
    return embed >> Encode(LSTM(7, 3, bidirectional=True).double()) >> Join(Pool("max"), Pool("final"))


def fill_padding(batch: Padded[Token]) -> Padded[Token]:
    """Return the batch with invalid values in the padding of every field."""
    assert batch.fields is not None
    fields = dict(batch.fields)
    for name, filling in (("word", -(2**40)), ("letters", 2**40), ("number", torch.nan)):
        fields[name] = fields[name].fill_padding(filling)
    return attrs.evolve(batch, fields=fields)


MOVES: Mapping[str, Callable[[Any], Any]] = {
    "as it is": lambda batch: batch,
    "packed": lambda batch: batch.packed(),
    "packed and unpacked": lambda batch: batch.packed().padded(),
    "padding filled": lambda batch: batch.fill_padding(3),
    "to a device": lambda batch: batch.to("cpu"),
    "to another device": lambda batch: batch.to("meta") and batch,
    "pickled": lambda batch: pickle.loads(pickle.dumps(batch)),
    "packed and pickled": lambda batch: pickle.loads(pickle.dumps(batch.packed())),
    "copied": copy.deepcopy,
    "as a pytree": lambda batch: pytree.tree_map(copy.copy, batch),
}


@pytest.mark.parametrize("move", MOVES)
@given(rows=ROWS)
def test_every_field_of_every_row_is_kept(move: str, rows: list[Row[Token]]) -> None:
    """A field per step, and the inner rows of each step."""
    batch = MOVES[move](Pad(Token)(rows))
    assert [unbatch(batch, row) for row in range(len(rows))] == [list_steps(row.sequence) for row in rows]
    assert to_list(batch.row_ids) == list(range(len(rows)))


@pytest.mark.parametrize("move", MOVES)
@given(rows=PAIRS)
def test_every_side_of_every_row_is_kept(move: str, rows: list[Row[Pair]]) -> None:
    """Each side has a width of its own."""
    batch = MOVES[move](Pad(Pair)(rows))
    assert [unbatch(batch, row) for row in range(len(rows))] == [list_steps(row.sequence) for row in rows]
    widths = [max(len(getattr(row.sequence, side)) for row in rows) for side in ("premise", "hypothesis")]
    assert [side.padded().width for side in batch.fields.values()] == widths


@given(rows=ROWS)
def test_neither_padding_nor_other_rows_change_a_result(rows: list[Row[Token]]) -> None:
    """Each row alone, without padding, is the oracle; both layouts equal it, and so does a wider rectangle."""
    model = make_model()
    batch = Pad(Token, multiple_of=4)(rows)
    alone = torch.cat([model(Pad(Token)([row])).values for row in rows])
    for values in (batch, batch.packed(), fill_padding(batch), Pack(Token)(fill_padding(batch))):
        torch.testing.assert_close(model(values).values, alone)


@given(rows=ROWS)
def test_the_padding_check_passes_for_every_field(rows: list[Row[Token]]) -> None:
    """The check fills the padding of all fields and of the inner rows."""
    model, batch = make_model(), Pad(Token)(rows)
    with set_padding_check(True):
        found = model(batch).values
    torch.testing.assert_close(found, model(batch).values)


class SubtractMean(ModuleStage[Batch[Vectors], Batch[Vectors]]):
    """A common mistake: the mean over all positions, padding included."""

    @override
    def forward(self, value: Batch[Vectors]) -> Batch[Vectors]:
        return attrs.evolve(value, values=value.values - value.values.mean(1, keepdim=True))


def test_the_padding_check_finds_a_field_whose_stage_reads_its_padding() -> None:
    """The other field is right."""

    @attrs.frozen(eq=False)
    class Two(Fields):
        one: Vectors
        two: Vectors

    rows = [Row(Two(*[Vectors(torch.ones(time, 1))] * 2), row_id=row) for row, time in enumerate((3, 1))]
    model = EmbedFields(Two, through(Identity(1)), through(SubtractMean())) >> Encode(LSTM(2, 2)) >> Pool("max")
    with set_padding_check(True), pytest.raises(PaddingLeakError):
        model(Pad(Two)(rows))


@given(rows=ROWS, begin=st.integers(0, 4), length=st.integers(0, 4))
def test_fields_are_cut_together(rows: list[Row[Token]], begin: int, length: int) -> None:
    """As lists are, also past the end."""
    for row in rows:
        window = slice(min(begin, len(row)), min(begin + length, len(row)))
        found, steps = list_steps(cut_row(row, window.start, window.stop).sequence), list_steps(row.sequence)
        assert found == {name: values[window] for name, values in steps.items()}


@given(rows=ROWS)
def test_rows_are_truncated_in_all_fields(rows: list[Row[Token]]) -> None:
    """By `Pad`; the inner rows of the steps that are left out are left out, too."""
    batch = Pad(Token, max_length=2, too_long="truncate")(rows)
    for number, row in enumerate(rows):
        assert unbatch(batch, number) == list_steps(row.sequence.cut(slice(2)))


@given(rows=ROWS)
def test_rows_are_pickled_without_the_steps_that_were_cut(rows: list[Row[Token]]) -> None:
    """A view would be sent with all of its storage."""
    for row in rows:
        copied = pickle.loads(pickle.dumps(row.sequence.cut(slice(1))))
        assert list_steps(copied) == list_steps(row.sequence.cut(slice(1)))
        for values in (copied.word.values, copied.letters.inner.values, copied.letters.counts, copied.number.values):
            assert values.untyped_storage().nbytes() == values.nbytes


@given(rows=ROWS)
def test_concatenated_sequences_have_all_steps_in_order(rows: list[Row[Token]]) -> None:
    """Of every field."""
    found = list_steps(concat_sequences([row.sequence for row in rows]))
    for name, values in found.items():
        assert values == [step for row in rows for step in list_steps(row.sequence)[name]]


@given(rows=st.lists(st.lists(st.text("ab", max_size=3), max_size=4), min_size=1, max_size=4))
def test_distinct_inner_rows_are_numbered_in_order(rows: list[list[str]]) -> None:
    """As a dictionary numbers them."""
    numbers, inner = find_distinct([make_nested(words) for words in rows])
    known: dict[str, int] = {}
    assert [to_list(each) for each in numbers] == [
        [known.setdefault(word, len(known)) for word in words] for words in rows
    ]
    letters = [[ord(letter) - ord("a") for letter in word] for word in known or {"": 0}]
    assert [unbatch(inner, row) for row in range(len(letters))] == letters


def test_inner_rows_of_vectors_are_kept() -> None:
    """They are not compared: each is a row of its own."""
    rows = [
        Row(Nested(Vectors(torch.arange(6.0).reshape(3, 2)), torch.tensor([2, 1]))),
        Row(Nested(Vectors(torch.zeros(0, 2)), torch.zeros(0, dtype=torch.int64)), row_id=1),
    ]
    batch = Pad(Nested[Vectors])(rows)
    assert isinstance(batch.inner, Packed)
    assert [unbatch(batch, row) for row in (0, 1)] == [[[[0, 1], [2, 3]], [[4, 5]]], []]


def test_gradients_reach_the_numbers_of_every_row() -> None:
    """The values of a field are a leaf as any others are; those of the padding get none."""
    batch = Pad(Token)([make_row(["ab", "c"]), make_row(["a"], 1)])
    assert batch.fields is not None
    values: Tensor = batch.fields["number"].values.clone().requires_grad_()
    number = attrs.evolve(batch.fields["number"], values=values)
    model = make_model()
    torch.autograd.backward(model(attrs.evolve(batch, fields={**batch.fields, "number": number})).values.sum())
    assert values.grad is not None
    assert values.grad[0, 0, 0] != 0
    assert values.grad[1, 1, 0] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
def test_every_field_is_pinned() -> None:
    """The inner rows, too."""
    batch = as_any(Pad(Token)([make_row(["ab", "c"])]).pin_memory())
    parts = [*batch.fields.values(), batch.fields["letters"].inner]
    assert all(part.values.is_pinned() for part in parts)


def test_moved_fields_share_the_order_of_the_batch() -> None:
    """One order for all fields, and every tensor is moved."""
    batch = as_any(Pad(Token)([make_row(["ab", "c"]), make_row(["a"], 1)]).to("meta"))
    parts = [batch, *batch.fields.values(), batch.fields["letters"].inner]
    assert all(part.values.is_meta for part in parts)
    assert {id(field.order) for field in batch.fields.values()} == {id(batch.order)}
    assert not batch.lengths.is_meta


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (Token(make_ids([1]), make_nested(["a"]), Vectors(torch.ones(1, 2))), "row 5, field 'number' must be floating"),
        (
            Token(Ids(torch.ones(1)), make_nested(["a"]), Vectors(torch.ones(1, 1))),
            "row 5, field 'word' must be int64 ids",
        ),
        (make_ids([1]), "row 5 must hold Token, got Ids"),
    ],
)
def test_the_field_and_row_at_fault_are_reported(wrong: Any, message: str) -> None:
    """By `Pad`, before anything is collated."""
    with pytest.raises(ShapeError, match=message):
        Pad(Token)([make_row(["ab"]), Row(wrong, row_id=5)])


@pytest.mark.parametrize(
    ("inner", "message"),
    [
        (Vectors(torch.ones(2, 3)), "row 5, field 'inner' must be floating-point vectors.* of shape .2, 3.; row 0"),
        (make_ids([1, 2]), "row 5, field 'inner' must hold Vectors, got Ids"),
    ],
)
def test_the_row_of_wrong_inner_rows_is_reported(inner: Any, message: str) -> None:
    """Before their steps are concatenated."""
    rows = [Row(Nested(Vectors(torch.ones(1, 2)), torch.tensor([1]))), Row(Nested(inner, torch.tensor([2])), row_id=5)]
    with pytest.raises(ShapeError, match=message):
        Pad(Nested[Vectors])(as_any(rows))


def test_empty_inner_rows_need_no_feature_width() -> None:
    """An empty list of lists has none."""
    items = FromNested(FromFeatures())
    rows = [items([]), items([[], [[1.0, 2.0], [3.0, 4.0]], []]), items([[]])]
    batch = Pad(Nested[Vectors])(rows)
    assert batch.inner is not None
    assert to_list(batch.inner.lengths) == [0, 2, 0, 0]
    assert to_list(batch.inner.values) == [[1, 2], [3, 4]]
    assert to_list(batch.lengths) == [0, 3, 1]


@pytest.mark.parametrize("features", [0, 1, 9, 3_000])
def test_rows_of_any_size_equal_rows_padded_one_by_one(features: int) -> None:
    """Large rows are copied one by one, small ones all at once; an empty row may have any feature width."""
    lengths = [3, 0, 1, 4]
    rows = [torch.randn(length, features if length else 2, requires_grad=bool(features)) for length in lengths]
    batch = Pad(Vectors, value=7, multiple_of=3)([Row(Vectors(row), row_id=number) for number, row in enumerate(rows)])
    wanted = torch.full((4, 6, features), 7.0)
    for number, row in enumerate(rows):
        if lengths[number]:
            wanted[number, : lengths[number]] = row.detach()
    assert torch.equal(batch.values, wanted)
    if features:
        torch.autograd.backward(batch.values.sum())
        for row, length in zip(rows, lengths, strict=True):
            assert length == 0 or (row.grad is not None and bool((row.grad == 1).all()))


def test_a_batch_of_empty_rows_has_no_steps() -> None:
    """Of features, too."""
    rows = [Row(Vectors(torch.zeros(0, 2))), Row(Vectors(torch.zeros(0, 5)))]
    assert Pad(Vectors)(rows).values.shape == (2, 0, 2)


def test_the_first_row_with_steps_is_named_beside_a_wrong_one() -> None:
    """An empty row before it has no feature width to compare with."""
    rows = [
        Row(Vectors(torch.zeros(length, width)), row_id=row)
        for row, (length, width) in enumerate([(0, 5), (1, 2), (2, 3)])
    ]
    with pytest.raises(ShapeError, match=r"row 2 must be .* got float32 of shape \(2, 3\); row 1 is float32"):
        Pad(Vectors)(rows)


def test_the_field_of_wrong_inner_rows_is_reported() -> None:
    """Numbers of another dtype would be converted silently."""
    right, wrong = (
        make_row(["ab"]).sequence,
        attrs.evolve(make_row(["ab"]).sequence, number=Vectors(torch.ones(1, 1).half())),
    )
    rows = [Row(Nested(right, torch.tensor([1]))), Row(Nested(wrong, torch.tensor([1])), row_id=5)]
    with pytest.raises(ShapeError, match="row 5, field 'inner.number' must be floating-point vectors .* got float16"):
        Pad(Nested[Token])(rows)
