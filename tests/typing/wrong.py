"""Lines that must not type-check. mypy and pyright must each report exactly those marked `# E`.

A mark gives a code and the reason; `CODES` in test_wrong.py says what each code means. Checked, never run.
"""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override
from wrong_hooks import (
    argument,
    functions,
    later,
    made_already,
    mapping,
    missing,
    misspelt,
    no_names,
    nothing,
    other_keys,
    other_kinds,
    other_part,
)

import pipeline_recurrent
from pipeline import (
    Attend,
    AttendEarlier,
    AttendLocal,
    Attention,
    Batch,
    BPTTWindows,
    Bucket,
    Causal,
    Chain,
    Classify,
    CrossAttend,
    Dropout,
    Embed,
    Encode,
    Encoder,
    Example,
    FromFeatures,
    FromIds,
    Hidden,
    Ids,
    Labels,
    MaybeCausal,
    ModuleStage,
    NextToken,
    Pack,
    Packed,
    Pad,
    Padded,
    Pool,
    Pooled,
    Pooling,
    Row,
    Scores,
    Shift,
    Stage,
    States,
    StepScores,
    StreamChain,
    Tag,
    TextPair,
    Tokenize,
    TokenizeWords,
    TypePreserving,
    Unpack,
    Vectors,
    classifier,
    language_model,
    plan,
    tagger,
)
from pipeline.hooks import (
    OffersAttentions,
    OffersEmbedders,
    OffersEncoders,
    OffersEngines,
    OffersHeads,
    OffersMetrics,
    OffersPolicies,
    OffersPools,
    OffersSources,
    OffersStages,
    OffersTokenizers,
)
from pipeline_attention import AttentionPool, Dot, MultiHead
from pipeline_recurrent import GRU, LRU, LSTM, MinGRU, Restarting

A = TypeVar("A")
S = TypeVar("S", bound=MaybeCausal)

texts: list[str] = []
labels = Labels(["ham", "spam"])
bi = LSTM(100, 128, bidirectional=True)
flag = bool(texts)
tokenize = Tokenize.train(texts)
data = tokenize >> Bucket(max_padded_steps=4096) >> Pad()
frames = FromFeatures() >> Bucket(Vectors, rows=8) >> Pad(Vectors)
embedded = Pack() >> Embed(20_000, 100)
model = embedded >> Encode(bi) >> Pool("max") >> Classify(6)
named_model = embedded >> Encode(bi) >> Pool("max") >> Classify(labels)
tags = embedded >> Encode(bi) >> Tag(3)
values = torch.ones(2, 3, 100)
lengths = torch.tensor([3, 1])
batch = Padded(Vectors, values, lengths)
states = Encode(bi)(batch)
causal = Encode(LSTM(100, 128))(batch)
row = tokenize("one")
e: object

# A stage after one whose output it does not take
e = Pool("max") >> Pool("max")  # E order: a pool after a pool
e = Pool("max") >> Dropout() >> Pool("mean")  # E order: a pool after a pool, with dropout between
e = Pool("max") >> Tag(3)  # E order: a step head on pooled rows
e = Pool("max") >> NextToken(9)  # E order: a step head on pooled rows
e = Pool("max") >> Dropout() >> Tag(labels)  # E order: a step head on pooled rows, with dropout between
e = Pool("max") >> AttendEarlier()  # E order: attention over pooled rows
e = Pool("max") >> Attend()  # E order: attention over pooled rows
e = Pool("max") >> Unpack()  # E order: pooled rows have no steps
e = Pool("max") >> Encode(bi)  # E order: an encoder after a pool
e = AttendEarlier() >> Classify(3)  # E order: a row head on steps
e = Encode(bi) >> Classify(3)  # E order: a row head on steps
e = Encode(bi) >> Dropout() >> Classify(3)  # E order: a row head on steps, with dropout between
e = Embed(9, 9) >> Classify(3)  # E order: a row head on vectors
e = Embed(9, 9) >> Tag(3)  # E order: vectors that were never encoded
e = Pack() >> Pool("max")  # E order: ids that were never embedded
e = data >> Pool("max")  # E order: ids that were never embedded, in a stream
e = Embed(9, 9) >> AttendEarlier()  # E order: attention over vectors that were never encoded
e = Classify(3) >> Classify(3)  # E order: a head after a head
e = Tag(3) >> Pool("max")  # E order: a pool after a head
e = NextToken(9) >> Embed(9, 9)  # E order: scores are not ids
e = Classify(3) >> Dropout()  # E order: dropout on scores
e = Encode(bi) >> Encode(bi)  # E order: states are not batch, unpack them first
e = model >> data  # E order: the model before its data
e = Pad() >> tokenize  # E order: the data half backwards
e = Bucket(rows=8) >> tokenize  # E order: the data half backwards
e = tokenize >> Embed(9, 9)  # E order: rows that were never collated
e = data >> tokenize  # E order: batches are not text
e = data >> Shift()  # E order: Shift must come before Pad
e = (Pack() >> Embed(9, 9)) >> (Pool("max") >> Classify(3))  # E order: two chains, no encoder between
e = (embedded >> Encode(bi)) >> (Dropout() >> Classify(3))  # E order: two chains, no pool between
e = (embedded >> Encode(bi) >> Pool("max")) >> (Dropout() >> Tag(3))  # E order: a step head on pooled rows
e = data >> (embedded >> (Encode(bi) >> Classify(3)))  # E order: the innermost of three chains

# Ids and vectors
e = Pack() >> Encode(bi)  # E kind: ids that were never embedded
e = data >> Encode(bi)  # E kind: padded ids that were never embedded
e = data >> (Pack() >> Dropout() >> Encode(bi))  # E kind: dropout on ids, in a chain of its own
e = Pack() >> Dropout()  # E kind: dropout on ids
e = data >> Dropout()  # E kind: dropout on ids
e = FromFeatures() >> Bucket(max_padded_steps=9)  # E kind: a bucket of ids
e = FromFeatures() >> Bucket(Vectors, max_padded_steps=9) >> Pad()  # E kind: a pad of ids
e = FromFeatures() >> Shift()  # E kind: vectors are not next tokens
e = FromIds() >> Bucket(Vectors, rows=8)  # E kind: a bucket of vectors
e = tokenize >> Bucket(rows=8) >> Pad(Vectors)  # E kind: a pad of vectors
e = Pad(Vectors) >> Pack()  # E kind: a pack of ids
e = Pad(Vectors) >> Pack(Vectors) >> Embed(9, 9)  # E kind: vectors cannot be looked up
e = Embed(9, 9) >> Embed(9, 9)  # E kind: embedded already
e = frames >> model  # E kind: a model of ids
e = frames >> classifier(9, 3)  # E kind: a model of ids
e = data >> Pack(Vectors)  # E kind: a pack of vectors
e = Pack() >> Unpack()  # E kind: an unpack of vectors
e = Pack(Vectors) >> Unpack(Ids)  # E kind: an unpack of ids
e = Encode(bi) >> Unpack(Ids)  # E kind: states are not ids
e = Encode(bi) >> Unpack() >> Embed(9, 9)  # E kind: unpacked states are not ids
e = Embed(9, 9) >> model  # E kind: a whole model, that embeds its ids itself

# Packed and padded
e = Pack() >> Pack()  # E layout: packed already
e = Pad() >> Unpack(Ids)  # E layout: padded rows are not packed
e = embedded >> Pack(Vectors)  # E layout: packed already
e = frames >> Unpack()  # E layout: padded rows are not packed
e = Pack() >> classifier(9, 3)  # E layout: a whole model packs by itself
e = Encode(bi) >> Unpack() >> Unpack()  # E layout: unpacked already

# One row, and many
e = tokenize >> Pad()  # E row: one row where a list of rows is needed
e = Pad()(row)  # E row: one row where a list of rows is needed
e = Pad().map([row])  # E row: rows where lists of rows are needed
e = tokenize(texts)  # E row: many texts where one is needed
e = tokenize.map([texts])  # E row: lists of texts where texts are needed
e = TokenizeWords.train([["a", "b"]])("a b".split)  # E row: a function where words are needed
e = tokenize >> Bucket(rows=8) >> Bucket(rows=8)  # E row: lists of rows where rows are needed
e = Bucket(rows=8)([[row]])  # E row: lists of rows where rows are needed
e = (FromIds() >> Bucket(rows=8) >> Pad())([1, 2, 3])  # E row: one row of numbers where many are needed
e = Tokenize.train([["a", "b"]])  # E row: lists of words where texts are needed
e = data >> Pad()  # E row: batches where lists of rows are needed

# One thing, and a stream of things
e = model(data)  # E stream: a chain where its batch is needed
e = model(data(texts))  # E stream: a stream of batches where one is needed
e = model(texts)  # E stream: texts where a batch is needed
e = data(b"one")  # E stream: bytes are a sequence of numbers
e = data(Example("one"))  # E stream: one example where many are needed
e = (data >> model)(data(texts))  # E stream: batches where texts are needed
e = Bucket(rows=8)(row)  # E stream: one row where many are needed
e = (data >> model)(texts).loss()  # E stream: each batch of scores has a loss, the stream has none
e = (data >> model)(texts)[0]  # E stream: a stream has no first
e = len(data(texts))  # E stream: a stream has no length
e = next(data)  # E stream: a chain is not an iterator before it is called
e = data("one text, whose letters would be rows", 1)  # E stream: one argument too many
e = Dropout() >> Bucket(rows=8)  # E stream: a batch where a stream of rows is needed
e = Pool("max").map(Pool("max"))  # E stream: a stage where a stream is needed
whole: Stage[str, Padded[Ids]] = data  # E stream: a chain over a stream is not a stage
streamed: StreamChain[Padded[Ids], Scores] = model  # E stream: a stage is not a chain over a stream

# Next tokens need causal states
e = Embed(9, 9) >> Encode(bi) >> NextToken(9)  # E future: a bidirectional encoder
e = Embed(9, 9) >> Encode(MinGRU(9, 9, bidirectional=True)) >> NextToken(9)  # E future: a scan in both directions
e = Embed(9, 9) >> Encode(Restarting(LRU(9, 9, bidirectional=flag))) >> NextToken(9)  # E future: documents, perhaps so
e = Embed(9, 9) >> Encode(LSTM(9, 9)) >> Attend() >> NextToken(9)  # E future: attention over the whole row
e = Embed(9, 9) >> Encode(bi) >> AttendEarlier() >> NextToken(9)  # E future: then attention
e = Embed(9, 9) >> Encode("lstm", hidden_size=4) >> NextToken(9)  # E future: a name without causal=True
e = Embed(9, 9) >> Encode("lstm", causal=False, hidden_size=4) >> NextToken(9)  # E future: a name without causal=True
e = Embed(9, 9) >> Encode("lstm", causal=flag, hidden_size=4) >> NextToken(9)  # E future: causal= may be False
e = Embed(9, 9) >> Encode(GRU(9, 9, bidirectional=flag)) >> NextToken(9)  # E future: perhaps bidirectional
e = Embed(9, 9) >> Encode(bi if flag else LSTM(9, 9)) >> NextToken(9)  # E future: perhaps bidirectional
e = Embed(9, 9) >> Encode(LSTM.from_torch(nn.LSTM(9, 9))) >> NextToken(9)  # E future: torch's module does not say
e = Embed(9, 9) >> Encode(bi) >> Dropout() >> NextToken(9)  # E future: then dropout
e = embedded >> Encode(bi) >> Dropout() >> AttendEarlier() >> Dropout() >> NextToken(9)  # E future: four stages later
e = Encode(LSTM(9, 9)) >> AttendEarlier() >> Attend() >> AttendEarlier() >> NextToken(9)  # E future: whole rows between
e = (Embed(9, 9) >> Encode(bi)) >> (Dropout() >> NextToken(9))  # E future: two chains
e = (Embed(9, 9) >> Encode(bi)) >> (AttendEarlier() >> NextToken(9))  # E future: two chains
e = (Embed(9, 9) >> Encode(bi)) >> (Dropout() >> AttendEarlier() >> Dropout()) >> NextToken(9)  # E future: dropout too
e = Embed(9, 9) >> (Encode(LSTM(9, 9)) >> (Attend() >> AttendEarlier())) >> NextToken(9)  # E future: a chain in a chain
e = (data >> embedded >> Encode(bi)) >> (AttendEarlier() >> (Dropout() >> NextToken(9)))  # E future: a chain in a chain
e = data >> (embedded >> (Encode(bi) >> Dropout())) >> NextToken(9)  # E future: a chain over a stream
e = data >> embedded >> (Encode(LSTM(9, 9)) >> Attend()) >> Dropout() >> NextToken(9)  # E future: a chain over a stream
e = NextToken(9)(states)  # E future: states that may not be causal
e = NextToken(9)(Encode(bi)(batch))  # E future: a bidirectional encoder
e = NextToken(9)(AttendEarlier()(states))  # E future: then attention
e = NextToken(9)(Dropout()(states))  # E future: then dropout
e = NextToken(9)(Attend()(causal))  # E future: attention over the whole row
e = Encode[Causal](bi) >> NextToken(9)  # E future: a bidirectional encoder, whatever is written before
e = Embed(9, 9) >> Encode[Causal]("lstm", hidden_size=4) >> NextToken(9)  # E future: the type does not make it causal
e = Embed(9, 9) >> Encode(LSTM[Causal](9, 9, bidirectional=True)) >> NextToken(9)  # E future: bidirectional anyway
declared: Encode[Causal] = Encode(bi)  # E future: a bidirectional encoder
called: Encode[Causal] = Encode("lstm", hidden_size=4)  # E future: a name without causal=True
forward_only: LSTM[Causal] = LSTM(9, 9, bidirectional=True)  # E future: it reads backwards
perhaps: Encoder[Causal] = GRU(9, 9, bidirectional=flag)  # E future: perhaps it reads backwards
head: Stage[States[MaybeCausal], StepScores] = NextToken(9)  # E future: a head that takes causal states only


def rectangle(values: Tensor, lengths: Tensor) -> States[Causal]:
    """Return states of unknown origin."""
    return States.from_padded(values, lengths)  # E future: nothing says that the steps are causal


def made_by_hand(steps: Batch[Hidden], final: Tensor) -> States[Causal]:
    """Return states that no encoder has made."""
    return States(steps, final)  # E future: only an encoder can say that its states are causal


def causal_states() -> Chain[Batch[Ids], States[Causal]]:
    """Return a chain that is not of the declared type."""
    return Embed(9, 9) >> Encode(bi) >> Dropout()  # E future: then dropout


def causal_stream() -> StreamChain[str | Example[str], States[Causal]]:
    """Return a chain over a stream that is not of the declared type."""
    return data >> embedded >> Encode(LSTM(9, 9)) >> Attend()  # E future: attention over the whole row


def next_token_of(states: Chain[Batch[Ids], States[Causal]]) -> Chain[Batch[Ids], StepScores]:
    """Add a head to given states."""
    return states >> NextToken(9)


def next_token_of_any(states: Chain[A, States[MaybeCausal]]) -> Chain[A, StepScores]:
    """Add a head to states that may not be causal."""
    return states >> AttendEarlier() >> NextToken(9)  # E future: states that may not be causal


def next_token_of_some(states: Stage[A, States[S]]) -> Chain[A, StepScores]:
    """Add a head to states that the caller chooses."""
    return states >> NextToken(9)  # E future: the caller may choose states that are not causal


def next_token_by(encoder: Encoder[MaybeCausal]) -> Chain[Batch[Ids], StepScores]:
    """Add a head to an encoder that the caller chooses."""
    return Embed(9, 9) >> Encode(encoder) >> NextToken(9)  # E future: the caller may choose a bidirectional one


e = Embed(9, 9) >> Encode(bi) >> Unpack() >> Encode(LSTM(9, 9)) >> NextToken(9)  # E future: still not causal
e = Embed(9, 9) >> Encode(LSTM(9, 9)) >> Attend() >> Unpack() >> Encode(LSTM(9, 9))  # E future: unpacked whole rows
e = Encode(bi) >> Unpack(Vectors)  # E future: unpacked states that are not causal
e = Embed(9, 9) >> Encode(bi) >> Unpack(Hidden) >> Encode(LSTM(9, 9), Hidden) >> NextToken(9)  # E future: Hidden
e = Encode(bi) >> Unpack() >> Pack(Vectors) >> Encode(LSTM(9, 9))  # E future: packed again, but still not causal
e = Encode(bi) >> Unpack() >> Dropout() >> Encode("gru", causal=True, hidden_size=4)  # E future: input not causal
e = next_token_of(Embed(9, 9) >> Encode(bi))  # E future: a bidirectional encoder, by a function
e = next_token_of(Embed(9, 9) >> Encode(LSTM(9, 9)) >> Attend() >> Dropout())  # E future: whole rows, by a function
e = next_token_of(Embed(9, 9) >> (Encode("gru", hidden_size=4) >> AttendEarlier()))  # E future: a name, by a function

# Type-preserving stages
e = AttendEarlier() >> AttendEarlier() >> Classify(3)  # E preserving: steps for a row head
e = (AttendEarlier() >> Dropout()) >> Classify(3)  # E preserving: steps for a row head
e = Dropout() >> AttendEarlier() >> Classify(3)  # E preserving: steps for a row head
e = Pool("max") >> (Dropout() >> AttendEarlier())  # E preserving: the second of two takes no pooled rows
e = Embed(9, 9) >> (AttendEarlier() >> Dropout())  # E preserving: the first of two takes no vectors
e = tokenize >> Dropout()  # E preserving: dropout on a row
e = Dropout() >> tokenize  # E preserving: dropout on text
e = Dropout() >> Pad()  # E preserving: dropout on a list of rows
e = Dropout() >> Embed(9, 9)  # E preserving: dropout on ids
e = Dropout() >> (Dropout() >> Embed(9, 9))  # E preserving: dropout on ids, twice
e = AttendEarlier() >> Encode(bi)  # E preserving: states for an encoder
wider: TypePreserving[Batch[Vectors]] = AttendEarlier()  # E preserving: attention preserves states only
kept: Stage[Pooled, Pooled] = Dropout()  # E preserving: not a type-preserving stage

# Hooks
h01: OffersEncoders = missing  # E hook: the hook is missing
h02: OffersEncoders = misspelt  # E hook: its name is another
h03: OffersEncoders = argument  # E hook: it takes an argument
h04: OffersEncoders = no_names  # E hook: it returns a list
h05: OffersEncoders = other_keys  # E hook: its keys are not names
h06: OffersEncoders = other_part  # E hook: its factories make attentions
h07: OffersAttentions = other_part  # E hook: its factories make encoders
h08: OffersPools = other_part  # E hook: its factories make attentions
h09: OffersEncoders = made_already  # E hook: it returns an encoder instead of a factory
h10: OffersAttentions = made_already  # E hook: it returns an attention instead of a factory
h11: OffersPools = nothing  # E hook: it returns None
h12: OffersPools = mapping  # E hook: a mapping instead of a function that returns one
h13: OffersPools = functions  # E hook: its factories make tensors
h14: OffersTokenizers = functions  # E hook: its factories make lists
h15: OffersTokenizers = later  # E hook: it must be awaited
h16: OffersAttentions = pipeline_recurrent  # E hook: another hook's module
h17: OffersStages = other_kinds  # E hook: its factories make encoders
h18: OffersHeads = other_kinds  # E hook: its factories make stages without predictions
h19: OffersEmbedders = other_kinds  # E hook: its factories make heads
h20: OffersPolicies = other_kinds  # E hook: its factories make plans
h21: OffersSources = other_kinds  # E hook: its factories make rows
h22: OffersMetrics = other_kinds  # E hook: its factories make numbers
h23: OffersEngines = other_kinds  # E hook: it returns engines instead of factories

# Parts
e = Encode(nn.LSTM(9, 9))  # E part: a torch module is not an encoder
e = Pool(nn.Linear(9, 9))  # E part: a torch module is not a pooling
e = Attend(nn.MultiheadAttention(9, 3))  # E part: a torch module is not an attention
e = Embed(9, 9) >> nn.Linear(9, 9)  # E part: a torch module is not a stage
e = nn.Linear(9, 9) >> Classify(3)  # E part: a torch module is not a stage
e = Embed(9, 9) >> torch.relu  # E part: a function is not a stage
e = Embed(9, 9) >> bi  # E part: an encoder is not a stage
e = Encode(Dot(9))  # E part: an attention is not an encoder
e = Attend(bi)  # E part: an encoder is not an attention
e = Pool(Dot(9))  # E part: an attention is not a pooling
e = Encode(LSTM)  # E part: a class where an instance is needed
e = Tokenize("words")  # E part: a name is not a trained tokenizer
e = Chain([Pool("max"), Pool("max")])  # E part: a list of stages is not a chain, join them
listed: Chain[Padded[Ids], Scores] = Chain([Pack(), Classify(3)])  # E part: a list of stages is not a chain, join them
e = Embed(9, 9) >> [Encode(bi), Pool("max")]  # E part: a list of stages is not a stage
e = Embed(9, 9) >> Encode  # E part: a class where an instance is needed


class OfTensors(Encoder[MaybeCausal]):
    """An encoder with the signature of torch's."""

    @override
    def forward(self, batch: Tensor) -> Tensor:  # E part: tensors for batches and states
        raise NotImplementedError


class OfPacked(Encoder[Causal]):
    """An encoder that takes one layout only."""

    @override
    def forward(self, batch: Packed[Vectors]) -> States[Causal]:  # E part: one layout of two
        raise NotImplementedError


class OfIds(Encoder[Causal]):
    """An encoder that takes ids."""

    @override
    def forward(self, batch: Batch[Ids]) -> States[Causal]:  # E part: ids for vectors
        raise NotImplementedError


class Bare(Encoder[Causal]):
    """An encoder that returns a batch instead of states."""

    @override
    def forward(self, batch: Batch[Vectors]) -> Batch[Vectors]:  # E part: vectors for states
        raise NotImplementedError


class Claims(Encoder[Causal]):
    """An encoder whose type is causal, but whose states are not."""

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:  # E future: states that are not causal
        raise NotImplementedError


class Wraps(Encoder[Causal]):
    """An encoder whose type is causal, around one that is not."""

    def __init__(self, inner: Encoder[MaybeCausal]) -> None:
        super().__init__()
        self.inner = inner

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        return self.inner(batch)  # E future: the inner encoder may not be causal


class Idle(Encoder[Causal]):
    """An encoder that does nothing."""


class Says(Encoder[Causal]):
    """An encoder whose attributes have wrong types."""

    causal = "yes"  # E part: a word where True or False is needed

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        raise NotImplementedError


class Scores3(Attention):
    """An attention without keys."""

    @override
    def score(self, query: Tensor) -> Tensor:  # E part: a score without a key
        return query


class Rows(Pooling):
    """A pooling that wraps its vectors itself."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Pooled:  # E part: a wrapped tensor for a tensor
        raise NotImplementedError


class Upper(Stage[Row[Ids], Row[Ids]]):
    """A stage whose output is not of the declared type."""

    @override
    def __call__(self, value: Row[Ids], /) -> str:  # E part: text for a row
        raise NotImplementedError


class Peeks(ModuleStage[States[Causal], States[Causal]]):
    """A stage that declares causal states, but returns others."""

    @override
    def forward(self, value: States[Causal]) -> States[Causal]:
        return Attend()(value)  # E future: attention over the whole row


class Blurs(ModuleStage[States[MaybeCausal], States[MaybeCausal]]):
    """A stage that does not declare whether its states are causal."""

    @override
    def forward(self, value: States[MaybeCausal]) -> States[MaybeCausal]:
        return value


e = Encode(Idle())  # E part: an encoder without forward
e = Embed(9, 9) >> Encode(LSTM(9, 9)) >> Blurs() >> NextToken(9)  # E future: a custom stage that may not be causal

# Calls
e = Embed(9)  # E call: the size of a vector is missing
e = Embed("nine", 9)  # E call: a word where a number is needed
e = Embed.from_pretrained([[1.0]])  # E call: a list where a tensor is needed
e = Bucket(size=3)  # E call: no such option
e = Bucket(rows=8, too_long="cut")  # E call: not a rule for long rows
e = Bucket(Tensor, rows=8)  # E call: Tensor is not a kind of sequence
e = Bucket(policy=8)  # E call: a number where a policy is needed
e = BPTTWindows(rows=8)  # E call: the steps of a window are missing
e = FromFeatures() >> BPTTWindows(rows=8, steps=9)  # E kind: windows of ids
e = BPTTWindows(rows=8, steps=9) >> Pad(Vectors)  # E kind: a pad of vectors
e = batch.with_carry(states)  # E future: states that are not causal
e = Pad(too_long="cut")  # E call: not a rule for long rows
e = Pad(labels=["ham", "spam"])  # E call: names that are not labels
e = Unpack(Tensor)  # E call: Tensor is not a kind of sequence
e = LSTM(9, 9, merge="average")  # E call: no such merge
e = LSTM(9, 9, num_layers="two")  # E call: a word where a number is needed
e = LSTM(9, 9, True)  # E call: options are named
e = Dropout("half")  # E call: a word where a number is needed
e = Dropout(0.5, per="batch")  # E call: no such mask
e = AttendEarlier(window="all")  # E call: a word where a number is needed
e = AttendEarlier(output="sum")  # E call: no such output
e = AttendLocal("general")  # E call: the window is missing
e = Dot(3, normalize="max")  # E call: no such function of scores
e = MultiHead(9, heads=3)  # E call: the option is num_heads
encoded_side = TextPair.second >> Embed(9, 9) >> Encode(bi)
e = CrossAttend(TextPair.first, encoded_side, "dot")  # E call: a branch of ids, not of states
e = Pool()  # E call: the pooling is missing
e = Pool(AttentionPool(3), input_size=3)  # E call: an option beside a pooling that is made already
e = Attend(Dot(3), input_size=3)  # E call: an option beside an attention that is made already
e = AttendEarlier(Dot(3), bias=False)  # E call: an option beside an attention that is made already
e = Classify("three")  # E call: neither a number nor labels
e = Tag(["ham", "spam"])  # E call: names that are not labels
e = NextToken(labels)  # E call: tokens have no labels
e = Labels([1, 2])  # E call: numbers need no labels
e = Tokenize.read("tokenizer.json", pad="[PAD]")  # E call: the option is named pad_token
e = Tokenize.read("tokenizer.json", bos_token=True)  # E call: a flag where a token is needed
e = tokenize.decode("ids")  # E call: text where ids are needed
e = classifier(9, 3, hiden_size=2)  # E call: no such option
e = tagger(9, 3, dropout="half")  # E call: a word where a number is needed
e = Pad(Vectors, multiple="two")  # E call: no such option
e = Classify(3, input_size="large")  # E call: a word where a number is needed
e = classifier(9)  # E call: no classes
e = classifier(9, "three")  # E call: neither a number nor labels
e = classifier(9, ["ham", "spam"])  # E call: names that are not labels
e = classifier(9, 3, pooling=Pool("max"))  # E call: a stage where a name is needed
e = classifier(9, 3)(texts)  # E call: texts where a batch is needed
e = tagger(9, 3, pooling="max")  # E call: a tagger does not pool
e = tagger(labels, 9)  # E call: labels where a number of ids is needed
e = language_model(9, 3)  # E call: a language model has no classes
e = language_model(9, pooling="max")  # E call: a language model does not pool
e = language_model(texts)  # E call: texts where a number of ids is needed

# Predictions
e = data.predict(texts)  # E prediction: padded batches are not predictions
e = (data >> embedded).predict(texts)  # E prediction: vectors are not predictions
e = (data >> embedded >> Encode(bi) >> Pool("max")).predict(texts)  # E prediction: pooled rows are not predictions
e = model.predict(texts)  # E prediction: a model alone takes batches, not texts
e = (data >> model).predict(data(texts))  # E prediction: batches where texts are needed
e = (data >> model).predict([3, 4])  # E prediction: numbers where texts are needed
a01: Iterator[str] = (data >> model).predict(texts)  # E prediction: a head of numbers gives no names
a02: Iterator[int] = (data >> named_model).predict(texts)  # E prediction: a head of labels gives no numbers
a03: list[int] = (data >> model).predict(texts)  # E prediction: a stream of predictions is not a list
a04: Iterator[list[str]] = (data >> tags).predict(texts)  # E prediction: a head of numbers gives no names
a05: Iterator[int] = (data >> tags).predict(texts)  # E prediction: a step head gives lists
a06: Iterator[list[int]] = (data >> model).predict(texts)  # E prediction: a row head gives no lists
a07: Chain[Padded[Ids], Scores[str]] = classifier(9, 3)  # E prediction: a head of numbers gives no names
a08: Chain[Padded[Ids], Scores[int]] = classifier(9, labels)  # E prediction: a head of labels gives no numbers
a09: Chain[Padded[Ids], Scores] = tagger(9, 3)  # E prediction: a step head gives scores per step
a10: Chain[Padded[Ids], StepScores[str]] = language_model(9)  # E prediction: a next token is a number
a11: Classify[str] = Classify(3)  # E prediction: a head of numbers gives no names
a12: Tag[int] = Tag(labels)  # E prediction: a head of labels gives no numbers
a13: Callable[[Padded[Ids]], Scores[str]] = model  # E prediction: a head of numbers gives no names

# Values made without a stage
e = Padded(values, lengths)  # E value: no kind
e = Padded(Ids, values)  # E value: no lengths
e = Padded(float, values, lengths)  # E value: a dtype is not a kind
e = Padded(Ids, values, [3, 1])  # E value: a list where a tensor is needed
e = Packed("Ids", values, lengths)  # E value: a name is not a kind
e = Row(values)  # E value: a tensor where ids or vectors are needed
e = Row(row.sequence, target=[[0, 1]])  # E value: several targets for a step
e = Example("one", target={3})  # E value: a set of targets has names
e = States.from_padded(values)  # E value: no lengths
e = States.from_padded(states.padded(), lengths)  # E value: a batch where a tensor is needed
e = States.from_padded(values, [3, 1])  # E value: a list where a tensor is needed
e = Pool("max")(values)  # E value: a tensor where states are needed
e = Pool("max")(values, lengths)  # E value: a tensor and lengths where states are needed
e = Encode(bi)(values)  # E value: a tensor where a batch is needed
e = Encode(bi)(Padded(Ids, values, lengths))  # E value: ids where vectors are needed
e = Classify(3)(values)  # E value: a tensor where pooled rows are needed
e = Classify(3)(states)  # E value: steps where pooled rows are needed
e = AttendEarlier()(values)  # E value: a tensor where states are needed
e = Dropout()(values)  # E value: a tensor where vectors of a batch are needed
e = Dropout()("text")  # E value: text where vectors of a batch are needed
e = Dropout()(Padded(Ids, values, lengths))  # E value: ids where vectors are needed
e = states.with_values(values)  # E value: a tensor where a batch is needed
e = Pooled(values).with_values([[1.0]])  # E value: a list where a tensor is needed
e = States.from_padded(values, lengths, final="last")  # E value: a word where a tensor is needed
e = Pack()(Padded(Vectors, values, lengths))  # E value: vectors where ids are needed
e = Pad()([Row(Vectors(values))])  # E value: rows of vectors where rows of ids are needed
of_ids: Padded[Ids] = Padded(Vectors, values, lengths)  # E value: vectors where ids are needed
either: Packed[Vectors] = Padded(Vectors, values, lengths)  # E value: padded where packed is needed

# Forecasts
e = plan([3, 5], 10, model=Pool("max"))  # E value: a pool takes no padded batch
e = plan([3, 5], Pool("max"))  # E value: a stage is not a policy
e = plan([3, 5], 10, too_long="drop")  # E value: not a rule for long rows
