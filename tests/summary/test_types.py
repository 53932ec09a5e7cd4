"""`>>` rejects stages whose types exclude each other, as type checkers do, and names the stage that is missing."""

from collections.abc import Callable
from typing import Any

import pytest
from typing_extensions import override

from pipeline import (
    AttendEarlier,
    Bucket,
    Classify,
    Dropout,
    Embed,
    Encode,
    FromFeatures,
    FromIds,
    ModuleStage,
    NextToken,
    Pack,
    Pad,
    Pool,
    Shift,
    Stage,
    Tag,
    TextPair,
    Tokenize,
    TokenizeWords,
    Vectors,
    matcher,
)
from pipeline.errors import CompositionError
from pipeline_recurrent import GRU
from support.records import Event
from support.untyped import as_any

TOKENIZE = Tokenize.train(["a b"])

MISFITS: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "two input stages": (
        lambda: [TOKENIZE, TOKENIZE],
        "Tokenize returns Row[Ids], but Tokenize takes str; join it after",
    ),
    "no encoder": (lambda: [Embed(9, 4), Pool("final")], "but Pool takes States; join Encode between them"),
    "neither embedding nor encoder": (lambda: [Pad(), Pool("max")], "but Pool takes States; join Embed >> Encode betw"),
    "no encoder, with dropout between": (lambda: [Embed(9, 4), Dropout(), Pool("final")], "join Encode between them"),
    "no pooling": (lambda: [Encode(GRU(4, 4)), Classify(3)], "but Classify takes Pooled; join Pool between them"),
    "no pooling, in chains": (
        lambda: [as_any(Embed(9, 4)) >> Encode(GRU(4, 4)), as_any(Dropout()) >> Classify(3)],
        "between stage 2 `Encode` and stage 3 `Dropout`: Encode returns States, but Classify takes Pooled",
    ),
    "no bucket and no padding": (lambda: [FromIds(), Embed(9, 4)], "join Bucket >> Pad between them"),
    "no bucket": (lambda: [FromIds(), Pad()], "join Bucket between them"),
    "no padding": (lambda: [Bucket(rows=2), Embed(9, 4)], "join Pad between them"),
    "texts to a model of pairs": (
        lambda: [TOKENIZE, Bucket(rows=1), Pad(), matcher(9, 2)],
        "Padded[TextPair]; read rows of TextPair: TokenizePair(...) >> Bucket(TextPair, ...) >> Pad(TextPair, ...).",
    ),
    "ids to a model of fields": (
        lambda: [Bucket(rows=1), Event.code],
        "read rows of Event: FromColumns(Event, ...) >> Bucket(Event, ...) >> Pad(Event, ...).",
    ),
    "a bucket of pairs without padding": (lambda: [Bucket(TextPair, rows=1), matcher(9, 2)], "join Pad between them"),
    "pairs without their kind": (lambda: [Pad(TextPair), Pack()], "make it Pack(TextPair, ...)"),
    "no embedding": (lambda: [Pad(), Encode(GRU(4, 4))], "join Embed between them"),
    "rows to a tokenizer of words": (
        lambda: [TOKENIZE, TokenizeWords.train([["a"]])],
        "join it after a stage that returns what",
    ),
    "text to an encoder": (lambda: [TOKENIZE, Encode(GRU(4, 4))], "join Bucket >> Pad >> Embed between them"),
    "text to a head": (lambda: [TOKENIZE, Classify(3)], "join Bucket >> Pad >> Embed >> Encode >> Pool between them"),
    "features to a pooling": (lambda: [FromFeatures(), Pool("max")], "join Bucket >> Pad >> Encode between them"),
    "packed twice": (lambda: [Pack(), Pack()], "Pack returns Packed[Ids], but Pack takes Padded[Ids]; leave Pack out."),
    "two heads": (
        lambda: [Tag(3), Classify(3)],
        "Tag returns StepScores, but Classify takes Pooled; let the model end",
    ),
    "attention after pooling": (
        lambda: [Pool("max"), AttendEarlier()],
        "AttendEarlier takes States; leave the pooling",
    ),
    "attention without encoder": (lambda: [Embed(9, 4), AttendEarlier("dot")], "join Encode between them"),
    "features shifted": (lambda: [FromFeatures(), Shift()], "Shift takes Row[Ids]"),
    "tags of a pooled row": (
        lambda: [Pool("max"), Tag(9)],
        "takes States; leave the pooling before it out, since Tag needs",
    ),
    "tokens of a pooled row": (lambda: [Pool("max"), NextToken(9)], "NextToken takes States[Causal]"),
    "of another kind": (lambda: [FromFeatures(), Bucket(rows=2)], "Bucket takes Row[Ids]"),
}


def join_all(stages: list[Any]) -> Any:
    """Return a chain of stages."""
    chain = stages[0]
    for stage in stages[1:]:
        chain = chain >> stage
    return chain


@pytest.mark.parametrize("kind", MISFITS)
def test_misfits_are_rejected_when_joined(kind: str) -> None:
    """The error has the positions, both types, and the stage that is missing, if there is one."""
    make, message = MISFITS[kind]
    with pytest.raises(CompositionError) as raised:
        join_all(make())
    assert str(raised.value).startswith("between stage ")
    assert message in str(raised.value)


class Open(ModuleStage[Any, Any]):
    """A stage of anything."""

    @override
    def forward(self, value: Any) -> Any:
        return value


class Plain(Stage[Any, Any]):
    """A stage whose annotations are removed, as if there were none."""

    @override
    def __call__(self, value: Any, /) -> Any:
        return value


as_any(Plain.__call__).__wrapped__.__annotations__.clear()


FITS: dict[str, Callable[[], list[Any]]] = {
    "a stage of anything": lambda: [FromIds(), Open(), Bucket(rows=2), Open(), Pad(), Open(), Embed(9, 4)],
    "a stage without annotations": lambda: [Plain(), TOKENIZE, Plain(), Bucket(rows=2), Plain(), Pad()],
    "type-preserving stages alone": lambda: [Dropout(), AttendEarlier("dot")],
    "vectors for hidden vectors": lambda: [Embed(9, 4), Encode(GRU(4, 4), Vectors), Tag(3)],
    "kinds": lambda: [FromFeatures(), Bucket(Vectors, rows=2), Pad(Vectors), Pack(Vectors), Encode(GRU(4, 4))],
}


@pytest.mark.parametrize("kind", FITS)
def test_stages_that_may_fit_are_joined(kind: str) -> None:
    """What is not known is not rejected."""
    assert len(join_all(FITS[kind]()).stages) == len(FITS[kind]())


def test_stages_without_types_run() -> None:
    """In training and in prediction."""
    model = [Open(), Pad(), Open(), Embed(9, 4), Encode(GRU(4, 4)), Open(), Pool("max"), Classify(2, input_size=4)]
    pipe = join_all([FromIds(), Plain(), Bucket(rows=2), *model])
    assert len(list(pipe.predict([[1, 2], [3]]))) == 2
    assert len(list(pipe([[1, 2], [3]]))) == 1
