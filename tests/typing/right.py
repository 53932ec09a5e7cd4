"""Lines that type-check, each with the very type that it has. Checked by mypy and pyright, never run."""

from collections.abc import Iterator
from typing import assert_type

from torch import Tensor, nn

from pipeline import (
    Attend,
    AttendEarlier,
    Batch,
    Bucket,
    Causal,
    Chain,
    Classify,
    Dropout,
    Embed,
    Encode,
    Example,
    Frames,
    Ids,
    Labels,
    NextToken,
    Numbers,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Row,
    Scores,
    Shift,
    Sight,
    States,
    StepScores,
    StreamChain,
    Tag,
    Tokenize,
    TokenizeWords,
    Unpack,
    Vectors,
    classifier,
    language_model,
    tagger,
)
from pipeline.parts.encoder import Encoder
from pipeline_attention import AttentionPool, General
from pipeline_recurrent import GRU, LSTM

texts: list[str] = []
examples: list[Example[str]] = []
labels = Labels(["ham", "spam"])
tokenize = Tokenize.train(texts)

# From text to batches
data = tokenize >> Bucket(max_steps=4096) >> Pad()
assert_type(data, StreamChain[str | Example[str], Padded[Ids]])
assert_type(tokenize("a"), Row[Ids])
assert_type(list(tokenize.over(texts)), list[Row[Ids]])
assert_type(list(data(texts)), list[Padded[Ids]])

# A model, and a pipe
bi = LSTM(100, 128, bidirectional=True)
assert_type(bi, LSTM[Sight])
assert_type(LSTM(100, 128), LSTM[Causal])
assert_type(GRU(100, 128, num_layers=2, dropout=0.5), GRU[Causal])
assert_type(GRU(100, 128, bidirectional=True, merge="mul"), GRU[Sight])
flag = bool(texts)
assert_type(LSTM(1, 2, bidirectional=flag), LSTM[Sight])
assert_type(LSTM.from_torch(nn.LSTM(1, 2)), LSTM[Sight])
assert_type(LSTM(1, 2).take(nn.LSTM(1, 2)), LSTM[Causal])
model = Pack() >> Embed(20_000, 100) >> Encode(bi) >> Attend() >> Pool("max") >> Classify(6)
assert_type(model, Chain[Padded[Ids], Scores])
classify = data >> model
assert_type(classify, StreamChain[str | Example[str], Scores])
assert_type(list(classify(texts)), list[Scores])
answers: Iterator[int] = classify.predict(texts)
answers_of_examples: Iterator[int] = classify.predict(examples)

# Answers in names
named_model = Pack() >> Embed(9, 9) >> Encode(bi) >> Pool("max") >> Classify(labels)
assert_type(named_model, Chain[Padded[Ids], Scores[str]])
names: Iterator[str] = (data >> named_model).predict(texts)
named_tags = Pack() >> Embed(9, 9) >> Encode(bi) >> Tag(labels)
assert_type(named_tags, Chain[Padded[Ids], StepScores[str]])
tags: Iterator[list[str]] = (data >> named_tags).predict(texts)

# A language model: nothing in it sees the future
lm = data >> Pack() >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> AttendEarlier() >> NextToken(9)
assert_type(lm, StreamChain[str | Example[str], StepScores])
assert_type(Encode(LSTM(9, 9)), Encode[Causal])
assert_type(Encode("lstm", causal=True, hidden_size=4), Encode[Causal])
assert_type(Encode("lstm", hidden_size=4), Encode[Sight])
by_name = Embed(9, 9) >> Encode("lstm", causal=True, hidden_size=4) >> NextToken(9)
assert_type(by_name, Chain[Batch[Ids], StepScores])
dense = data >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Dropout() >> AttendEarlier() >> Dropout() >> NextToken(9)
assert_type(dense, StreamChain[str | Example[str], StepScores])
following = tokenize >> Shift() >> Bucket(rows=8) >> Pad()
assert_type(following, StreamChain[str | Example[str], Padded[Ids]])

# Taggers
tag = Embed(9, 9) >> Encode(bi) >> AttendEarlier() >> Tag(3)
assert_type(tag, Chain[Batch[Ids], StepScores])
tag_by_name = Embed(9, 9) >> Encode("lstm", hidden_size=4) >> Tag(3)
split = TokenizeWords.train([["a", "b"]]) >> Bucket(rows=2) >> Pad(labels=labels) >> Pack()
block = AttendEarlier() >> AttendEarlier("general", window=3) >> Tag(3)
assert_type(block, Chain[States[Sight], StepScores])

# Other doors
frames = (
    Frames()
    >> Bucket(Vectors, max_steps=9)
    >> Pad(Vectors)
    >> Pack(Vectors)
    >> Encode(LSTM(12, 9))
    >> Pool("final")
    >> Classify(9)
)
assert_type(frames, StreamChain[Tensor | Example[Tensor], Scores])
numbers = Numbers() >> Bucket(max_steps=9) >> Pad() >> Pack() >> Unpack(Ids)

# Layouts, there and back
assert_type(Pack() >> Unpack(Ids), Chain[Padded[Ids], Padded[Ids]])
assert_type(Pack(Vectors) >> Encode(bi) >> Unpack(), Chain[Padded[Vectors], Padded[Vectors]])
assert_type(Pack(Vectors) >> Unpack(Vectors), Chain[Padded[Vectors], Padded[Vectors]])

# Dropout keeps the type that it takes
dropped = Embed(9, 9) >> Dropout() >> Encode(bi) >> Pool("max") >> Dropout() >> Classify(3)
assert_type(dropped, Chain[Batch[Ids], Scores])

# Parts by themselves
pool = Pool(AttentionPool(3))
attend = Attend(General(3))
encoder: Encoder[Sight] = LSTM(1, 2)


def plain(values: Tensor, lengths: Tensor) -> Tensor:
    """Any pool or attention works on a plain rectangle and its lengths."""
    assert_type(Padded(Vectors, values, lengths), Padded[Vectors])
    assert_type(Padded(Ids, values, lengths).packed(), Packed[Ids])
    return pool(attend(States.from_padded(values, lengths))).values


# Whole models
assert_type(classifier(9, 3), Chain[Padded[Ids], Scores])
assert_type(classifier(9, labels), Chain[Padded[Ids], Scores[str]])
assert_type(tagger(9, 3), Chain[Padded[Ids], StepScores])
assert_type(tagger(9, labels), Chain[Padded[Ids], StepScores[str]])
assert_type(language_model(9), Chain[Padded[Ids], StepScores])
