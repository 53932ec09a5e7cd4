"""Sample batches of rows with fields, inner rows and sides, and summaries that are made from them."""

from collections.abc import Callable

import attrs
import pytest
import torch

from pipeline import (
    Bucket,
    Classify,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    FromColumns,
    FromFeatures,
    FromNested,
    Hidden,
    Identity,
    Ids,
    Join,
    Nested,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Tag,
    TextPair,
    Tokenize,
    TokenizePair,
    TokenizeWords,
    Vectors,
    matcher,
    read,
    through,
    unused,
)
from pipeline.data.batches import is_batch
from pipeline.data.kinds import Kind
from pipeline.summary.samples import INNER_STEPS, make_sample
from pipeline.summary.summary import Summary
from pipeline_recurrent import LSTM
from support.records import Event, Pair, Word, make_event
from support.summaries import gives, notes
from support.untyped import as_any, to_list


@attrs.frozen(eq=False)
class Basket(Fields):
    """Items of two numbers each, per step."""

    items: Nested[Vectors]


def spell() -> EachStep[Ids]:
    """Return an encoder of words by their letters."""
    return EachStep(Embed(26, 3) >> Encode(LSTM(3, 2)) >> Pool("max"))


@pytest.mark.parametrize("holder", [Padded, Packed])
@pytest.mark.parametrize("kind", [Ids, Vectors, Hidden, Event, Word, Pair, Basket, Nested[Ids], Nested[Vectors]])
def test_a_sample_is_a_batch_of_its_type(kind: type[Kind], holder: type[object]) -> None:
    """Of every kind, with the lengths and layout that were asked for."""
    sizes = {"amount": 2, "items": 3}
    sample = make_sample(as_any(holder)[kind], 4, rows=3, time=5, dtype=torch.float64, field_sizes=sizes)
    assert is_batch(sample)
    assert isinstance(sample, holder)
    assert sample.values.is_meta
    assert to_list(sample.lengths) == [5, 5, 5]
    for field in (sample.fields or {}).values():
        assert isinstance(field, holder)
        assert to_list(field.lengths) == [5, 5, 5]
    if sample.inner is not None:
        assert to_list(sample.inner.lengths) == [INNER_STEPS] * 15


def test_vectors_have_the_size_of_their_field() -> None:
    """A field that no stage reads may have any."""
    make = {"rows": 1, "time": 2, "dtype": torch.float32}
    batch = as_any(make_sample)(Padded[Event], None, field_sizes={"amount": 7}, **make)
    assert batch.fields["amount"].values.shape == (1, 2, 7)
    assert as_any(make_sample)(Padded[Event], None, field_sizes={"amount": None}, **make) is None
    assert as_any(make_sample)(Padded[Event], None, **make).fields["amount"].values.shape == (1, 2, 1)


def test_sizes_and_work_of_an_events_model_are_known() -> None:
    """The fields are not, before the stages that read them declare their sizes."""
    fields = EmbedFields(Event, through(Embed(9, 4)), through(Identity(2)))
    summary = (Pad(Event) >> Pack(Event) >> fields >> Encode(LSTM(6, 3)) >> Pool("max") >> Classify(2)).check()
    assert gives(summary) == [
        "Padded[Event] batch x time",
        "Packed[Event] steps",
        "Packed[Vectors] steps x 6",
        "States[Causal] steps x 3",
        "Pooled batch x 3",
        "Scores batch x 2",
    ]
    assert str(summary.work) == "108 per step + 6 per row"
    assert "Packed#91;Vectors#93; steps x 6" in summary.to_mermaid()


def test_the_work_of_an_events_model_equals_that_of_a_run() -> None:
    """The shapes, too."""
    model = EmbedFields(Event, through(Embed(9, 4).double()), through(Identity(2))) >> Encode(LSTM(6, 3).double())
    states = model(Pad(Event)([make_event([1, 2])]))
    assert states.padded().values.shape == (1, 2, 3)
    assert gives(model.check())[-1] == "States[Causal] steps x 3"


CHAINS: list[tuple[Callable[[], object], str, str]] = [
    (lambda: Join(Event.code >> Embed(9, 4), Event.amount >> Identity(2)) >> Encode(LSTM(6, 2)) >> Tag(2),
     "Padded[Event] batch x time", "StepScores steps x 2"),
    (lambda: Event.amount >> Encode(LSTM(2, 3)) >> Pool("max"), "Padded[Event] batch x time", "Pooled batch x 3"),
    (lambda: Pack(Pair) >> Join(Pair.premise >> Embed(9, 4) >> Encode(LSTM(4, 3)) >> Pool("max"),
                                Pair.hypothesis >> Embed(9, 4) >> Encode(LSTM(4, 3)) >> Pool("max")),
     "Padded[Pair] batch x time", "Pooled batch x 6"),
    (lambda: Pack(Word) >> EmbedFields(Word, through(Embed(9, 4)), through(spell())),
     "Padded[Word] batch x time", "Packed[Vectors] steps x 6"),
    (lambda: spell() >> Encode(LSTM(2, 3)), "Padded[Nested[Ids]] batch x time", "States[Causal] steps x 3"),
    (lambda: EmbedFields(Event, through(Embed(9, 4)), unused(Vectors)) >> Encode(LSTM(4, 3)),
     "Padded[Event] batch x time", "States[Causal] steps x 3"),
    (lambda: EmbedFields(Basket, through(EachStep(Encode(LSTM(3, 2), Vectors) >> Pool("max")))) >> Encode(LSTM(2, 3)),
     "Padded[Basket] batch x time", "States[Causal] steps x 3"),
    (lambda: matcher(9, 2, embedding_dim=4, hidden_size=3), "Padded[TextPair] batch x time", "Scores batch x 2"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "takes", "last"), CHAINS)
def test_chains_over_fields_sides_and_inner_rows(make: Callable[[], object], takes: str, last: str) -> None:
    """All sizes are known, and nothing is left out."""
    summary: Summary = as_any(make()).check()
    assert str(summary.input) == takes
    assert gives(summary)[-1] == last
    assert summary.problem is None
    assert summary.work is not None


def test_a_field_of_unknown_size_is_not_guessed() -> None:
    """Its stage does not say how many numbers it reads."""
    model = EmbedFields(Event, through(Embed(9, 4)), through(Identity()))
    entry = (model >> Encode(LSTM(6, 3))).check().entries[0]
    assert entry.output.shape == ""
    assert entry.work is None


def test_the_inner_steps_that_work_is_counted_for_are_noted() -> None:
    """An LSTM of 3 inputs and 2 units multiplies 4 x 2 x (3 + 2) numbers per step."""
    summary = (spell() >> Encode(LSTM(2, 3))).check()
    assert str(summary.entries[0].work) == f"{INNER_STEPS * 4 * 2 * (3 + 2)} per step"
    assert f"counted for {INNER_STEPS} inner steps per step, all distinct" in notes(summary)["each_step"]


@pytest.mark.parametrize(
    ("stage", "takes", "row"),
    [
        (TokenizePair(Tokenize.train(["a b"])), "tuple[str, str]", "Row[TextPair] time"),
        (FromNested(Tokenize.train(["a b"])), "Sequence[str]", "Row[Nested[Ids]] time"),
        (
            FromColumns(Event, code=read(TokenizeWords.train([["a"]])), amount=read(FromFeatures())),
            "Mapping[str, anything]",
            "Row[Event] time",
        ),
    ],
)
def test_types_of_input_stages_of_fields(stage: object, takes: str, row: str) -> None:
    """With the type of each text, not with open variables."""
    kind = {"Row[TextPair] time": TextPair, "Row[Event] time": Event}.get(row, Nested[Ids])
    summary: Summary = (as_any(stage) >> as_any(Bucket)(kind, rows=2)).check()
    assert str(summary.input) == takes
    assert gives(summary) == [row, f"list[{row.removesuffix(' time')}] batch of time"]
