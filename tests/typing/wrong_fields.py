"""Lines with fields, inner rows and branches that must not type-check; marked and tested like those of wrong.py."""

import attrs
import torch

from pipeline import (
    Bucket,
    Classify,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    Identity,
    Ids,
    Join,
    JoinedPair,
    Nested,
    NextToken,
    Pack,
    Pad,
    Pool,
    Row,
    Sides,
    Tag,
    Tokenize,
    TokenizeDocument,
    TokenizeJoined,
    Vectors,
    through,
    unused,
)
from pipeline_recurrent import LSTM


@attrs.frozen(eq=False)
class Event(Fields):
    """Three fields per step."""

    code: Ids
    amount: Vectors
    time: Vectors


@attrs.frozen(eq=False)
class Word(Fields):
    """A word and its characters."""

    word: Ids
    characters: Nested[Ids]


@attrs.frozen(eq=False)
class Entailment(Sides):
    """Two texts per row."""

    premise: Ids
    hypothesis: Ids


ids, numbers = Ids(torch.tensor([1])), Vectors(torch.ones(1, 1))
events = EmbedFields(Event, code=through(Embed(100, 16)), amount=through(Identity(1)), time=through(Identity(1)))
spell = EachStep(Embed(99, 8) >> Encode(LSTM(8, 9, bidirectional=True)) >> Pool("final"))
read = Embed(9, 9) >> Encode(LSTM(9, 9)) >> Pool("max")
forward, both = LSTM(9, 9), LSTM(9, 9, bidirectional=True)
o: object

# Rows
o = Event(code=ids, amount=numbers)  # E field: a missing field
o = Event(ids, numbers, numbers, numbers)  # E field: a field too many
o = Event(code=ids, amount=numbers, date=numbers)  # E field: a misnamed field
o = Event(code=numbers, amount=numbers, time=numbers)  # E field: vectors for ids
o = Event(code=ids, amount=ids, time=numbers)  # E field: ids for vectors
o = Word(word=ids, characters=ids)  # E field: ids for inner rows of ids
o = Word(word=ids, characters=Nested(numbers, torch.tensor([1])))  # E field: inner rows of vectors
o = Row(Event(ids, numbers, numbers)).sequence.date  # E field: no such field on a row
o = Event(ids, numbers, numbers).code >> Embed(9, 9)  # E field: a sequence is no stage

# Fields as stages
o = Event.cod >> Embed(9, 9)  # E field: no such field on the class
o = Event.amount >> Embed(9, 9)  # E kind: a field of vectors into an id embedding
o = Event.code >> Encode(forward)  # E kind: a field of ids into an encoder
o = Event.code >> Identity()  # E kind: a field of ids as vectors
o = Word.word >> spell  # E kind: a flat field into a stage for inner rows
o = Word.characters >> Embed(9, 9)  # E kind: inner rows into an id embedding
o = Event.code >> Event.amount  # E order: a field of a field
o = Word.word >> Pack()  # E layout: a field may be packed already
o = Pack(Word) >> Event.code  # E field: a field of another class
o = Pack() >> Event.code  # E field: a field of plain ids
o = Pad(Event) >> Embed(9, 9)  # E kind: rows with fields into an id embedding
o = Pack(Event) >> Encode(forward)  # E kind: rows with fields into an encoder
o = Pad(Event) >> Pack()  # E kind: rows with fields packed as ids
o = Pad(Event) >> Pack(Word)  # E kind: rows of another class
o = Bucket(Event, rows=2) >> Pad(Word)  # E kind: rows of another class
o = Bucket(Event, rows=2) >> Pad()  # E kind: rows with fields padded as ids
o = Pad(Event)([Row(Word(ids, Nested(ids, torch.tensor([1]))))])  # E value: a row of another class

# Every field through a stage
o = EmbedFields(Event, code=through(Embed(9, 9)), amount=through(Identity()))  # E field: a missing field
o = EmbedFields(Word, word=through(Embed(9, 9)), chars=through(spell))  # E field: a misnamed field
o = EmbedFields(Word, word=through(Identity()), characters=through(spell))  # E field: ids through a stage for vectors
o = EmbedFields(Word, word=through(Embed(9, 9)), characters=through(Embed(9, 9)))  # E field: inner rows are not ids
o = EmbedFields(Word, word=Embed(9, 9), characters=through(spell))  # E field: no `through` around the stage
o = EmbedFields(Word, word=through(spell), characters=through(spell))  # E field: ids are not inner rows
o = EmbedFields(Event, through(Embed(9, 9)), through(Embed(9, 9)), unused(Vectors))  # E field: vectors are not ids
o = EmbedFields(Event, through(Embed(9, 9)), unused(Ids), through(Identity()))  # E field: another kind is left out
o = EmbedFields(Event, code=through(read), amount=unused(Vectors), time=unused(Vectors))  # E field: not per step
o = EmbedFields(Entailment, premise=through(Embed(9, 9)), hypothesis=through(Embed(9, 9)))  # E field: sides
o = EmbedFields(Ids, through(Embed(9, 9)))  # E field: a kind without fields
o = Pack(Word) >> events  # E field: another class
o = events >> Embed(9, 9)  # E kind: vectors into an id embedding
o = through(Pool("max"))  # E part: not a stage from a batch to vectors

# Inner rows
o = EachStep(Embed(9, 9) >> Encode(forward))  # E order: not one vector per inner row
o = EachStep(Embed(9, 9))  # E order: not one vector per inner row
o = EachStep(read >> Classify(3))  # E order: scores are no vectors
o = EachStep(Pad() >> Pack())  # E order: not a stage for packed rows
o = Pack() >> spell  # E kind: ids are not inner rows
o = Pack(Nested[Ids]) >> Embed(9, 9)  # E kind: inner rows into an id embedding
o = Pack(Nested[Vectors]) >> spell  # E kind: inner rows of vectors

# Documents, and pairs in one row
tokenize = Tokenize.train(["a b"])
o = TokenizeDocument(tokenize) >> Bucket()  # E kind: documents where rows of ids are needed
o = TokenizeDocument(tokenize)(["a b"])  # E call: a list of sentences instead of a text
o = TokenizeDocument(tokenize, split="words")  # E call: no such way to split
o = TokenizeJoined(tokenize) >> Bucket()  # E kind: tokens with segments where rows of ids are needed
o = TokenizeJoined(tokenize)("a b")  # E call: a text instead of a pair
o = Pack(JoinedPair) >> Embed(9, 9)  # E kind: tokens with segments into an id embedding

# Branches
o = Join(Event.code >> Embed(9, 9), Word.word >> Embed(9, 9))  # E branch: inputs differ
o = Join(Embed(9, 9), Identity())  # E branch: inputs differ
o = Join(Entailment.premise >> Embed(9, 9), Entailment.hypothesis >> Embed(9, 9))  # E branch: unequal lengths
o = Join(Pool("max"), Classify(3))  # E branch: outputs differ
o = Join(Identity(), Encode(forward))  # E branch: outputs differ
o = Join(Event.code, Event.code)  # E branch: ids cannot be joined
o = Join(Encode(forward), Encode(both)) >> NextToken(9)  # E future: one branch sees the future
o = Join(Encode(both), Encode(both)) >> NextToken(9)  # E future: both branches see the future
o = Encode(forward) >> Join(Pool("max"), Identity())  # E branch: inputs differ
o = Join(Pool("max"), Pool("mean"), how="concatenate")  # E call: no such way to combine
o = Join(Pool("max"), "mean")  # E part: a name is no stage
o = Join(Pool("max"), Pool("mean")) >> Tag(3)  # E order: a step head on pooled rows
o = Pack(Word) >> Join(Event.code >> Embed(9, 9), Event.amount)  # E field: fields of another class
o = Join(Entailment.premise >> read, Event.code >> read)  # E branch: inputs differ
o = Join(Tag(3), Tag(3))  # E branch: scores cannot be joined
