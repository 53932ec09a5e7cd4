"""Lines with fields, inner rows and branches that type-check, with their types; also run."""

from typing import assert_type

import attrs
import torch

from pipeline import (
    Attend,
    Batch,
    Bucket,
    Causal,
    Chain,
    Classify,
    Dropout,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Example,
    Field,
    Fields,
    Identity,
    Ids,
    Join,
    JoinedPair,
    Labels,
    MaybeCausal,
    Nested,
    NextToken,
    Pack,
    Pad,
    Padded,
    Pool,
    Pooled,
    Row,
    Scores,
    Sides,
    States,
    StepScores,
    StreamChain,
    Tag,
    Tokenize,
    TokenizeDocument,
    TokenizeJoined,
    Unpack,
    Vectors,
    document_classifier,
    through,
    unused,
)
from pipeline_recurrent import GRU, LSTM


@attrs.frozen(eq=False)
class Event(Fields):
    """Three fields per step."""

    code: Ids
    amount: Vectors
    time: Vectors


@attrs.frozen(eq=False)
class Timed(Event):
    """A field more than the class that it derives from."""

    place: Ids


@attrs.frozen(eq=False)
class Word(Fields):
    """A word and its characters."""

    word: Ids
    characters: Nested[Ids]


@attrs.frozen(eq=False)
class Basket(Fields):
    """Items per step, each with several fields."""

    items: Nested[Event]
    total: Vectors


@attrs.frozen(eq=False)
class Entailment(Sides):
    """Two texts per row."""

    premise: Ids
    hypothesis: Ids


labels = Labels(["ham", "spam"])


def instance_access(event: Event, word: Word, row: Row[Event], pair: Row[Entailment]) -> None:
    """On a row, a field is its sequence."""
    assert_type(event.code, Ids)
    assert_type(word.characters, Nested[Ids])
    assert_type(word.characters.inner, Ids)
    assert_type(row.sequence.amount, Vectors)
    assert_type(pair.sequence.premise.values.shape, torch.Size)
    assert_type(event.cut(slice(2)), Event)


# On the class, a field is a stage.
assert_type(Event.code, Field[Event, Ids])
assert_type(Timed.place, Field[Timed, Ids])
assert_type(Timed.code, Field[Timed, Ids])
assert_type(Word.characters, Field[Word, Nested[Ids]])
assert_type(Entailment.premise, Field[Entailment, Ids])
assert_type(Event.code >> Embed(9, 4), Chain[Batch[Event], Batch[Vectors]])
assert_type(Event.amount >> Encode(GRU(2, 3)), Chain[Batch[Event], States[Causal]])

# Data stages take the class of the fields.
assert_type(Pad(Event), Pad[Event])
assert_type(Bucket(Word, rows=8), Bucket[Word])
assert_type(Pad(Nested[Ids]), Pad[Nested[Ids]])
assert_type(Pack(Event) >> Event.code, Chain[Padded[Event], Batch[Ids]])

# Every field through a stage of its own
events = EmbedFields(
    Event, code=through(Embed(100, 16)), amount=through(Identity(1)), time=through(Identity(1) >> Dropout())
)
assert_type(events, EmbedFields[Event])
assert_type(EmbedFields(Event, through(Embed(9, 9)), unused(Vectors), through(Identity(1))), EmbedFields[Event])
assert_type(Pack(Event) >> events >> Encode(LSTM(18, 9)), Chain[Padded[Event], States[Causal]])
assert_type(Pack(Event) >> events >> Encode("gru", hidden_size=3), Chain[Padded[Event], States[MaybeCausal]])
deep = (
    Pack(Event) >> events >> Dropout() >> Encode("bilstm", hidden_size=3) >> Attend() >> Pool("max") >> Classify(labels)
)
assert_type(deep, Chain[Padded[Event], Scores[str]])

# Inner rows
spell = EachStep(Embed(99, 8) >> Encode(LSTM(8, 9, bidirectional=True)) >> Pool("final"))
assert_type(spell, EachStep[Ids])
words = EmbedFields(Word, word=through(Embed(9, 9)), characters=through(spell))
tagger = Pack(Word) >> words >> Encode(LSTM(27, 9, bidirectional=True)) >> Tag(labels)
assert_type(tagger, Chain[Padded[Word], StepScores[str]])
documents = Pack(Nested[Ids]) >> spell >> Encode(LSTM(18, 3)) >> Pool("final") >> Classify(2)
assert_type(documents, Chain[Padded[Nested[Ids]], Scores[int]])
assert_type(document_classifier(9, labels), Chain[Padded[Nested[Ids]], Scores[str]])
tokenize = Tokenize.train(["a b"])
assert_type(TokenizeDocument(tokenize)("a b"), Row[Nested[Ids]])
sentences = TokenizeDocument(tokenize) >> Bucket(Nested[Ids]) >> Pad(Nested[Ids]) >> document_classifier(9, 2)
assert_type(sentences, StreamChain[str | Example[str], Scores[int]])
assert_type(TokenizeJoined(tokenize)(("a", "b")), Row[JoinedPair])
joined = TokenizeJoined(tokenize) >> Bucket(JoinedPair) >> Pad(JoinedPair) >> JoinedPair.token
assert_type(joined, StreamChain[tuple[str, str] | Example[tuple[str, str]], Batch[Ids]])
items = EachStep(events >> Encode("gru", hidden_size=3) >> Pool("mean"))
assert_type(items, EachStep[Event])
baskets = EmbedFields(Basket, items=through(items), total=through(Identity(1)))
assert_type(baskets, EmbedFields[Basket])

# Branches
assert_type(Join(Event.amount, Event.code >> Embed(9, 9)), Join[Batch[Event], Batch[Vectors]])
assert_type(Join(Embed(9, 4), Embed(9, 5)), Join[Batch[Ids], Batch[Vectors]])
assert_type(Join(Identity(), Identity(), how="mean"), Join[Batch[Vectors], Batch[Vectors]])
assert_type(Join(Encode(LSTM(9, 9)), Encode(GRU(9, 9))), Join[Batch[Vectors], States[Causal]])
bi = LSTM(9, 9, bidirectional=True)
assert_type(Join(Encode(LSTM(9, 18)), Encode(bi), how="sum"), Join[Batch[Vectors], States[MaybeCausal]])
pools = Join(Pool("max"), Pool("mean"), Pool("final"))
assert_type(pools, Join[States[MaybeCausal], Pooled])
assert_type(Encode(LSTM(9, 9)) >> Join(Pool("max"), Pool("final")), Chain[Batch[Vectors], Pooled])
assert_type(pools >> Classify(labels, input_size=27), Chain[States[MaybeCausal], Scores[str]])
assert_type(Pack(Event) >> Join(Event.code >> Embed(9, 9), Event.amount), Chain[Padded[Event], Batch[Vectors]])
causal = Embed(9, 9) >> Join(Encode(LSTM(9, 4)), Encode(GRU(9, 5))) >> NextToken(9)
assert_type(causal, Chain[Batch[Ids], StepScores[int]])
skips = Embed(9, 9) >> Join(Identity(), Encode(LSTM(9, 9)) >> Unpack(Vectors)) >> Encode(GRU(18, 3)) >> Pool("max")
assert_type(skips, Chain[Batch[Ids], Pooled])

# Pairs
read = Embed(9, 9) >> Encode(LSTM(9, 9, bidirectional=True)) >> Pool("max")
compared = Join(Entailment.premise >> read, Entailment.hypothesis >> read, how="compare")
assert_type(compared, Join[Batch[Entailment], Pooled])
assert_type(compared >> Dropout() >> Classify(labels), Chain[Batch[Entailment], Scores[str]])
