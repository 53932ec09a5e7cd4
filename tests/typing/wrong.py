"""Lines that must not type-check. mypy and pyright must each report exactly those marked `# E`, with the reason."""

from torch import nn

from pipeline import (
    Attend,
    AttendEarlier,
    Bucket,
    Classify,
    Dropout,
    Embed,
    Encode,
    Frames,
    Labels,
    NextToken,
    Pack,
    Pad,
    Pool,
    Tag,
    Tokenize,
    Unpack,
    Vectors,
)
from pipeline_recurrent import GRU, LSTM

texts: list[str] = []
labels = Labels(["ham", "spam"])
bi = LSTM(100, 128, bidirectional=True)
flag = bool(texts)
tokenize = Tokenize.train(texts)
data = tokenize >> Bucket(max_steps=4096) >> Pad()
model = Pack() >> Embed(20_000, 100) >> Encode(bi) >> Pool("max") >> Classify(6)

# Order
e01 = Pack() >> Encode(bi)  # E ids that were never embedded
e02 = data >> Encode(bi)  # E padded ids that were never embedded
e03 = Pool("max") >> Pool("max")  # E a pool after a pool
e04 = Pool("max") >> Tag(3)  # E a step head on pooled rows
e05 = Pool("max") >> NextToken(9)  # E a step head on pooled rows
e06 = Pool("max") >> AttendEarlier()  # E attention over pooled rows
e07 = Pool("max") >> Attend()  # E attention over pooled rows
e08 = AttendEarlier() >> Classify(3)  # E a row head on steps
e09 = Encode(bi) >> Classify(3)  # E a row head on steps
e10 = Classify(3) >> Dropout()  # E dropout on scores
e11 = Classify(3) >> Classify(3)  # E a head after a head
e12 = tokenize >> Pad()  # E one row where a list of rows is needed
e13 = Pad() >> tokenize  # E the data half backwards
e14 = Pack() >> Pack()  # E packed already
e15 = Embed(9, 9) >> Embed(9, 9)  # E embedded already
e16 = Encode(bi) >> Encode(bi)  # E states are no batch: unpack them first
e17 = Embed(9, 9) >> Pool("max")  # E vectors that were never encoded
e18 = Pack() >> Dropout()  # E dropout on ids

# Kinds
e19 = Frames() >> Bucket(max_steps=9)  # E a bucket of ids
e20 = Frames() >> Bucket(Vectors, max_steps=9) >> Pad()  # E a pad of ids
e21 = Pad(Vectors) >> Pack()  # E a pack of ids
e22 = Pad(Vectors) >> Pack(Vectors) >> Embed(9, 9)  # E vectors cannot be looked up
e23 = Pack() >> Unpack()  # E an unpack of vectors

# The future
e24 = Embed(9, 9) >> Encode(bi) >> NextToken(9)  # E a bidirectional encoder
e25 = Embed(9, 9) >> Encode(LSTM(9, 9)) >> Attend() >> NextToken(9)  # E attention over the whole row
e26 = Embed(9, 9) >> Encode(bi) >> AttendEarlier() >> NextToken(9)  # E a bidirectional encoder under causal attention
e27 = Embed(9, 9) >> Encode("lstm", hidden_size=4) >> NextToken(9)  # E a name without the promise
e28 = Embed(9, 9) >> Encode(GRU(9, 9, bidirectional=flag)) >> NextToken(9)  # E perhaps bidirectional
e29 = Embed(9, 9) >> Encode(bi) >> Dropout() >> NextToken(9)  # E a bidirectional encoder under dropout

# Calls
e30 = model(texts)  # E a list of texts is no batch
e31 = data.predict(texts)  # E padded batches are no answers
e32 = data("one text, whose letters would be rows", 1)  # E one argument too many
e33 = Encode(nn.LSTM(9, 9))  # E a torch module is no encoder
e34 = Pool(nn.Linear(9, 9))  # E a torch module is no pooling
e35 = Embed(9, 9) >> nn.Linear(9, 9)  # E a torch module is no stage
e36 = Bucket(size=3)  # E no such option
e37 = LSTM(1, 2, merge="average")  # E no such merge
e38 = Classify("three")  # E neither a number nor labels
e39 = Pad(labels=["ham", "spam"])  # E names that are no labels
