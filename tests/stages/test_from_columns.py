"""Tests of the input stages for rows with several fields and with inner rows."""

from collections.abc import Mapping, Sequence

import attrs
import pytest
import torch

from pipeline import (
    Bucket,
    Example,
    Fields,
    FromColumns,
    FromFeatures,
    FromFields,
    FromIds,
    FromNested,
    Ids,
    Nested,
    Pad,
    Tokenize,
    TokenizeWords,
    Vectors,
    read,
)
from pipeline.errors import OptionError, ShapeError, ValuesError
from support.records import Event, Pair, Word, make_event, make_ids
from support.untyped import as_any, to_list, untyped

SALES: Sequence[Mapping[str, object]] = [
    {"code": [3, 1], "amount": [[1.5, 2.0], [0.0, -1.0]]},
    {"code": [], "amount": torch.zeros(0, 2)},
    {"code": [2], "amount": [(4, 5)]},
]


def make_stage() -> FromColumns[Event]:
    """Return the stage that reads the events of `SALES`."""
    return FromColumns(Event, code=read(FromIds()), amount=read(FromFeatures()))


def test_each_field_is_read_from_its_column() -> None:
    """Lists become ids and vectors; the target and the row's number stay with the row."""
    rows = list(make_stage().map([Example(sale, number * 10) for number, sale in enumerate(SALES)]))
    assert [to_list(row.sequence.code.values) for row in rows] == [[3, 1], [], [2]]
    assert [to_list(row.sequence.amount.values) for row in rows] == [[[1.5, 2.0], [0.0, -1.0]], [], [[4.0, 5.0]]]
    assert [(row.target, row.row_id) for row in rows] == [(0, 0), (10, 1), (20, 2)]


def test_fields_may_be_given_in_the_order_of_their_declaration() -> None:
    """As for the class itself."""
    row = FromColumns(Event, read(FromIds(), "c"), read(FromFeatures(), "a"))({"c": [7], "a": [0.5]})
    assert (to_list(row.sequence.code.values), to_list(row.sequence.amount.values)) == ([7], [[0.5]])


def test_two_fields_may_read_one_column() -> None:
    """The words and their characters; a word that was not in the training data is unknown."""
    words = TokenizeWords.train([["ab", "b"]])
    letters = Tokenize.train(["ab"], "characters")
    stage = FromColumns(Word, word=read(words, "form"), characters=read(FromNested(letters), "form"))
    row = stage(Example({"form": ["b", "bab"]}, ["X", None])).sequence
    known = words.tokenizer.vocabulary
    assert to_list(row.word.values) == [known["b"], known[str(words.tokenizer.unk_token)]]
    assert to_list(row.characters.counts) == [1, 3]
    assert letters.decode(to_list(row.characters.inner.values)) == "bbab"


def test_sides_may_have_different_lengths() -> None:
    """A pair of texts."""
    letters = Tokenize.train(["abc"], "characters")
    stage = FromColumns(Pair, premise=read(letters), hypothesis=read(letters))
    row = stage({"premise": "abc", "hypothesis": "a", "more": 1})
    assert (len(row.sequence.premise), len(row.sequence.hypothesis), len(row)) == (3, 1, 3)


@pytest.mark.parametrize(
    ("sale", "error", "message"),
    [
        ({"code": [1]}, ValuesError, "row 3 has no column 'amount' for field 'amount', only code"),
        ({"code": [1], "amount": [1.0, 2.0]}, ShapeError, "row 3: .*code has 1, amount has 2"),
        (
            {"code": [1, 1], "amount": [1.0, float("nan")]},
            ValuesError,
            "field 'amount': row 3, step 1, feature 0 is nan",
        ),
        ({"code": [1], "amount": ["a"]}, ShapeError, "field 'amount': row 3 must be a floating-point tensor"),
        ({"code": [-1], "amount": [1.0]}, ValuesError, "field 'code': row 3, step 0 is -1"),
        ({"code": "1", "amount": [1.0]}, ValuesError, "field 'code': row 3 must be a sequence of integers"),
    ],
)
def test_errors_name_the_row_and_the_field(sale: Mapping[str, object], error: type[Exception], message: str) -> None:
    """The row is the fourth of the input."""
    with pytest.raises(error, match=message):
        list(make_stage().map([*SALES, sale]))


def test_every_field_must_be_read() -> None:
    """Without a type checker, too."""
    make = untyped(FromColumns)
    with pytest.raises(OptionError, match=r"FromColumns\(Event, ...\) must get `read\(stage\)` for each field"):
        make(Event, read(FromIds()))
    with pytest.raises(OptionError, match=r"field 'amount' must be read\(stage\), got a FromFeatures; wrap"):
        make(Event, read(FromIds()), FromFeatures())
    with pytest.raises(OptionError, match="record must be a class derived from Fields or Sides, got"):
        make(dict, read(FromIds()))


def test_objects_of_a_class_become_rows() -> None:
    """Bare, and in an example with a target."""
    event = make_event([1, 2]).sequence
    rows = list(FromFields(Event).map([event, Example(event, 1)]))
    assert [(row.sequence, row.target, row.row_id) for row in rows] == [(event, None, 0), (event, 1, 1)]
    with pytest.raises(ValuesError, match="row 1 must be an object of Event, got a dict.*FromColumns for mappings"):
        list(FromFields(Event).map([event, as_any(SALES[0])]))


def test_lists_of_texts_become_inner_rows() -> None:
    """Also without items, and with items without characters."""
    letters = Tokenize.train(["ab"], "characters")
    rows = list(FromNested(letters).map([["ab", "", "b", "ab"], [], [""]]))
    assert [to_list(row.sequence.counts) for row in rows] == [[2, 0, 1, 2], [], [0]]
    assert [letters.decode(to_list(row.sequence.inner.values)) for row in rows] == ["abbab", "", ""]
    (empty,) = FromNested(letters).map([[]])
    assert isinstance(empty.sequence.inner, Ids)
    assert len(empty) == 0


def test_lists_of_vectors_become_inner_rows() -> None:
    """Sentences of vectors, for example."""
    (row,) = FromNested(FromFeatures()).map([[torch.ones(2, 3), torch.zeros(1, 3)]])
    assert isinstance(row.sequence.inner, Vectors)
    assert to_list(row.sequence.counts) == [2, 1]
    assert to_list(row.sequence.inner.values.sum(1)) == [3, 3, 0]


def test_three_ragged_axes_are_read() -> None:
    """Documents of sentences of words."""
    row = FromNested(FromNested(FromIds()))([[[1, 2], [3]], [], [[4]]])
    assert to_list(row.sequence.counts) == [2, 0, 1]
    assert isinstance(row.sequence.inner, Nested)
    assert to_list(row.sequence.inner.counts) == [2, 1, 1]


def test_an_item_of_a_wrong_type_is_reported_with_its_row() -> None:
    """The input stage of the items reports it."""
    with pytest.raises(ValuesError, match="row 1 must be a list with one item per step, got a str"):
        list(FromNested(Tokenize.train(["a"], "characters")).map([["a"], "a"]))
    with pytest.raises(ValuesError, match=r"row 1.* is -3"):
        list(FromNested(FromIds()).map([[[1]], [[2], [-3]]]))


def test_the_stage_is_the_first_of_a_pipe() -> None:
    """Rows with fields are bucketed and padded together."""
    data = make_stage() >> Bucket(Event, rows=2) >> Pad(Event)
    batches = list(data(SALES))
    assert sorted(row for batch in batches for row in to_list(batch.row_ids)) == [0, 1, 2]


@attrs.frozen(eq=False)
class Sale(Event):
    """An event with one more field, declared in a derived class."""

    shop: Ids = attrs.field(kw_only=True)


def test_fields_of_a_base_class_are_read_too() -> None:
    """In the order of attrs."""
    stage = FromColumns(Sale, read(FromIds()), read(FromFeatures()), shop=read(FromIds()))
    row = stage({"code": [1], "amount": [1.0], "shop": [9]})
    assert issubclass(Sale, Fields)
    assert to_list(row.sequence.shop.values) == to_list(make_ids([9]).values)


@attrs.frozen(eq=False)
class Visit(Fields):
    """An event with several numbers."""

    code: Ids
    amounts: Vectors


def make_visits(columns: Sequence[str] = ("price", "wait", "size")) -> FromColumns[Visit]:
    """Return a stage that reads several columns into one field."""
    return FromColumns(Visit, code=read(FromIds()), amounts=read(FromFeatures(), columns))


def test_several_columns_are_joined_as_features_of_one_field() -> None:
    """In the order of the list; a column may have several features itself, and a row no steps."""
    filled = {"code": [3, 1], "wait": [3.0, 0.0], "price": [2.5, 1.0], "size": [[7, 8], [9, 10]]}
    empty: Mapping[str, object] = {"code": [], "wait": [], "price": [], "size": torch.zeros(0, 2)}
    rows = list(make_visits().map([filled, empty]))
    assert to_list(rows[0].sequence.amounts.values) == [[2.5, 3.0, 7.0, 8.0], [1.0, 0.0, 9.0, 10.0]]
    assert rows[1].sequence.amounts.values.shape == (0, 4)
    batch = Pad(Visit)(rows)
    assert batch.fields is not None
    assert batch.fields["amounts"].values.shape == (2, 2, 4)


def test_columns_that_cannot_be_joined_are_rejected() -> None:
    """With the row and the field, or before any row is read."""
    wrong = {"code": [1, 2], "price": [1.0, 2.0], "wait": [1.0], "size": [1.0, 2.0]}
    with pytest.raises(
        ShapeError, match="row 0: the columns of field 'amounts' .* price has 2, wait has 1, size has 2"
    ):
        make_visits()(wrong)
    with pytest.raises(ValuesError, match="row 0 has no column 'size' for field 'amounts'"):
        make_visits()({"code": [1], "price": [1.0], "wait": [1.0]})
    ids = as_any(FromColumns)(Visit, code=read(FromIds()), amounts=as_any(read)(FromIds(), ["code", "wait"]))
    with pytest.raises(OptionError, match="field 'amounts' reads several columns, code, wait; .* got Ids"):
        ids({"code": [1, 2], "wait": [3, 4]})
    for columns in ([], ["price", "price"], ["price", 2], 3):
        with pytest.raises(OptionError, match="column must be a name, or a list of different names, got"):
            untyped(read)(FromFeatures(), columns)
