"""Lines that type-check, with their types. mypy and pyright check them, and a test runs them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar, assert_type

from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

import pipeline_attention
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
    Report,
    Row,
    Scores,
    Shift,
    SpelledWord,
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
    character_tagger,
    classifier,
    language_model,
    plan,
    tagger,
)
from pipeline.batching import Budget, Rows, Shapes
from pipeline.forecast import Forecast
from pipeline.hooks import (
    AttentionFactory,
    EncoderFactory,
    OffersAttentions,
    OffersEncoders,
    OffersPools,
    PoolingFactory,
)
from pipeline.loading import PlannedBatches, StreamDataset, StreamLoader
from pipeline.stages.input_stage import FeatureSequence
from pipeline.testing import check_encoder
from pipeline_attention import AttentionPool, General, MultiHead
from pipeline_recurrent import GRU, LRU, LSTM, MarkRestarts, MinGRU, MinLSTM, Restarting

texts = ["to be", "or not"]
examples = [Example("to be", target="ham")]
labels = Labels(["ham", "spam"])
tokenize = Tokenize.train(texts)

# From text to batches
data = tokenize >> Bucket(max_padded_steps=4096) >> Pad()
assert_type(data, StreamChain[str | Example[str], Padded[Ids]])
assert_type(tokenize("a"), Row[Ids])
assert_type(list(tokenize.map(texts)), list[Row[Ids]])
assert_type(list(data(texts)), list[Padded[Ids]])
assert_type(Bucket(rows=8, too_long="split"), Bucket[Ids])
assert_type(Bucket(Vectors, policy=None, rows=8), Bucket[Vectors])
assert_type(Pad(multiple_of=8), Pad[Ids])
assert_type(Pad(Vectors, labels=labels), Pad[Vectors])
assert_type(TokenizeWords.train([["a"]], pad_token="[PAD]"), TokenizeWords)

# A model, and a pipe
bi = LSTM(9, 9, bidirectional=True)
assert_type(bi, LSTM[MaybeCausal])
assert_type(LSTM(9, 9), LSTM[Causal])
assert_type(GRU(100, 128, num_layers=2, dropout=0.5), GRU[Causal])
assert_type(GRU(100, 128, bidirectional=True, merge="mul"), GRU[MaybeCausal])
flag = bool(texts)
assert_type(LSTM(1, 2, bidirectional=flag), LSTM[MaybeCausal])
assert_type(LSTM.from_torch(nn.LSTM(1, 2)), LSTM[MaybeCausal])
assert_type(MinGRU(9, 9), MinGRU[Causal])
assert_type(MinLSTM(9, 9, bidirectional=flag), MinLSTM[MaybeCausal])
assert_type(Restarting(LRU(9, 9)), Restarting[Causal])
assert_type(Restarting("gru", input_size=4, hidden_size=3), Restarting[MaybeCausal])
assert_type(LSTM(1, 2).load_torch(nn.LSTM(1, 2)), LSTM[Causal])
model = Pack() >> Embed(9, 9) >> Encode(bi) >> Attend() >> Pool("max") >> Classify(6)
assert_type(model, Chain[Padded[Ids], Scores])
classify = data >> model
assert_type(classify, StreamChain[str | Example[str], Scores])
assert_type(list(classify(texts)), list[Scores])
answers: Iterator[int] = classify.predict(texts)
answers_of_examples: Iterator[int] = classify.predict(examples)

# Predictions in names
named_model = Pack() >> Embed(9, 9) >> Encode(bi) >> Pool("max") >> Classify(labels)
assert_type(named_model, Chain[Padded[Ids], Scores[str]])
names: Iterator[str] = (data >> named_model).predict(texts)
named_tags = Pack() >> Embed(9, 9) >> Encode(bi) >> Tag(labels)
assert_type(named_tags, Chain[Padded[Ids], StepScores[str]])
tags: Iterator[list[str]] = (data >> named_tags).predict(texts)

# A causal language model
lm = data >> Pack() >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> AttendEarlier() >> NextToken(9)
assert_type(lm, StreamChain[str | Example[str], StepScores])
assert_type(Encode(LSTM(9, 9)), Encode[Causal])
assert_type(Encode("lstm", causal=True, hidden_size=4), Encode[Causal])
assert_type(Encode("lstm", hidden_size=4), Encode[MaybeCausal])
documents = Pack() >> MarkRestarts(Embed(9, 9), at=[0]) >> Encode(Restarting(MinGRU(9, 9))) >> NextToken(9)
by_name = Embed(9, 9) >> Encode("lstm", causal=True, hidden_size=4) >> NextToken(9)
assert_type(by_name, Chain[Batch[Ids], StepScores])
dense = data >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Dropout() >> AttendEarlier() >> Dropout() >> NextToken(9)
assert_type(dense, StreamChain[str | Example[str], StepScores])
following = tokenize >> Shift() >> Bucket(rows=8) >> Pad()
assert_type(following, StreamChain[str | Example[str], Padded[Ids]])

# Policies, fixed shapes, windows and carried states
fixed = Shapes([(4, 16), (16, 4)])
shaped = tokenize >> Bucket(policy=fixed) >> Pad(policy=fixed)
assert_type(shaped, StreamChain[str | Example[str], Padded[Ids]])
lanes = tokenize >> Shift() >> BPTTWindows(rows=4, steps=32) >> Pad()
assert_type(lanes, StreamChain[str | Example[str], Padded[Ids]])
assert_type(
    FromFeatures() >> BPTTWindows(Vectors, rows=4, steps=32),
    StreamChain[FeatureSequence | Example[FeatureSequence], list[Row[Vectors]]],
)
reader = Pack() >> Embed(9, 9) >> Encode(LSTM(9, 9))
before: States[Causal] | None = None
for window in lanes(texts):
    before = reader(window.with_carry(before))
assert_type(list(StreamLoader(StreamDataset(texts, lanes))), list[Padded[Ids]])

# Taggers
tag = Embed(9, 9) >> Encode(bi) >> AttendEarlier() >> Tag(3)
assert_type(tag, Chain[Batch[Ids], StepScores])
tag_by_name = Embed(9, 9) >> Encode("lstm", hidden_size=4) >> Tag(3)
split = TokenizeWords.train([["a", "b"]]) >> Bucket(rows=2) >> Pad(labels=labels) >> Pack()
block = AttendEarlier() >> AttendEarlier("general", window=3, name="again") >> Tag(3)
assert_type(block, Chain[States[MaybeCausal], StepScores])

# Other input stages
frames = (
    FromFeatures()
    >> Bucket(Vectors, max_padded_steps=9)
    >> Pad(Vectors)
    >> Pack(Vectors)
    >> Encode(LSTM(12, 9))
    >> Pool("final")
    >> Classify(9)
)
assert_type(frames, StreamChain[FeatureSequence | Example[FeatureSequence], Scores])
numbers = FromIds() >> Bucket(max_padded_steps=9) >> Pad() >> Pack() >> Unpack(Ids)

# Conversions between layouts
assert_type(Pack() >> Unpack(Ids), Chain[Padded[Ids], Padded[Ids]])
assert_type(Pack(Vectors) >> Encode(bi) >> Unpack(), Chain[Padded[Vectors], Padded[Hidden]])
assert_type(Pack(Vectors) >> Encode(LSTM(1, 2)) >> Unpack(Vectors), Chain[Padded[Vectors], Padded[Vectors]])
assert_type(Encode(bi), Encode[MaybeCausal, Vectors])
assert_type(Encode(bi, Hidden), Encode[MaybeCausal, Hidden])
assert_type(Encode(LSTM(1, 2), Hidden), Encode[MaybeCausal, Hidden])
assert_type(Encode("lstm", Hidden, hidden_size=2), Encode[MaybeCausal, Hidden])
stacked = Pack() >> Embed(9, 9) >> Encode(LSTM(9, 8)) >> Unpack(Vectors) >> Encode(LSTM(8, 9), name="b") >> NextToken(9)
assert_type(stacked, Chain[Padded[Ids], StepScores])
assert_type(Pack(Vectors) >> Unpack(Vectors), Chain[Padded[Vectors], Padded[Vectors]])

# Dropout preserves the type of its input
dropped = Embed(9, 9) >> Dropout() >> Encode(bi) >> Pool("max") >> Dropout() >> Classify(3)
assert_type(dropped, Chain[Batch[Ids], Scores])

# A type-preserving stage before another: the other one determines the type
assert_type(Dropout() >> Classify(3), Chain[Pooled, Scores])
assert_type(Dropout() >> Tag(labels), Chain[States[MaybeCausal], StepScores[str]])
assert_type(Dropout() >> Encode(bi), Chain[Batch[Vectors], States[MaybeCausal]])
assert_type(AttendEarlier() >> NextToken(9), Chain[States[Causal], StepScores])
assert_type(AttendEarlier() >> Pool("max"), Chain[States[MaybeCausal], Pooled])
assert_type(Dropout() >> Dropout(), TypePreserving[Batch[Hidden] | States[MaybeCausal] | Pooled])
assert_type(Dropout() >> AttendEarlier(), TypePreserving[States[MaybeCausal]])
assert_type(AttendEarlier() >> Dropout(), TypePreserving[States[MaybeCausal]])
assert_type(AttendEarlier() >> Dropout() >> NextToken(9), Chain[States[Causal], StepScores])
assert_type(Encode(LSTM(9, 9)) >> (Dropout() >> AttendEarlier()), Chain[Batch[Vectors], States[Causal]])

# A pooling takes vectors too, from a stage or a stream
assert_type(Embed(9, 9) >> Pool("mean"), Chain[Batch[Ids], Pooled])
assert_type(Pack(Vectors) >> Pool("mean"), Chain[Padded[Vectors], Pooled])
assert_type(Embed(9, 9) >> Dropout() >> Pool("mean") >> Classify(3), Chain[Batch[Ids], Scores])
assert_type(data >> Embed(9, 9) >> Pool("mean") >> Classify(labels), StreamChain[str | Example[str], Scores[str]])

# Parts without a stage
pool = Pool(AttentionPool(3))
attend = Attend(General(3))
encoder: Encoder[MaybeCausal] = LSTM(1, 2)


def plain(values: Tensor, lengths: Tensor) -> Tensor:
    """Any pooling or attention works on a padded tensor and its lengths."""
    assert_type(Padded(Vectors, values, lengths), Padded[Vectors])
    assert_type(Padded(Ids, values, lengths).packed(), Packed[Ids])
    return pool(attend(States.from_padded(values, lengths))).values


# Whole models
assert_type(classifier(9, 3), Chain[Padded[Ids], Scores])
assert_type(classifier(9, labels), Chain[Padded[Ids], Scores[str]])
assert_type(tagger(9, 3), Chain[Padded[Ids], StepScores])
assert_type(tagger(9, labels), Chain[Padded[Ids], StepScores[str]])
assert_type(character_tagger(9, 5, 3), Chain[Padded[SpelledWord], StepScores])
assert_type(character_tagger(9, 5, labels, word_dropout=0.1), Chain[Padded[SpelledWord], StepScores[str]])
assert_type(language_model(9), Chain[Padded[Ids], StepScores])


# Chains of ten stages and more
long_classifier = (
    tokenize
    >> Bucket(max_padded_steps=4096)
    >> Pad(labels=labels)
    >> Pack()
    >> Embed(9, 9)
    >> Dropout(0.2, per="row")
    >> Encode(LSTM(9, 8, bidirectional=True))
    >> Attend("general")
    >> Dropout(0.2)
    >> AttendEarlier("dot", window=4, name="near")
    >> Pool("mean")
    >> Dropout()
    >> Classify(labels)
)
assert_type(long_classifier, StreamChain[str | Example[str], Scores[str]])
assert_type(long_classifier.predict(texts), Iterator[str])
assert_type(long_classifier.predict(examples), Iterator[str])
long_language_model = (
    tokenize
    >> Shift()
    >> Bucket(rows=8)
    >> Pad()
    >> Pack()
    >> Embed(9, 9)
    >> Dropout()
    >> Encode(GRU(9, 8))
    >> AttendEarlier()
    >> Dropout()
    >> AttendEarlier("general", name="again")
    >> NextToken(9)
)
assert_type(long_language_model, StreamChain[str | Example[str], StepScores])
assert_type(long_language_model.predict(texts), Iterator[list[int]])
long_tagger = (
    FromFeatures()
    >> Bucket(Vectors, rows=8)
    >> Pad(Vectors, labels=labels)
    >> Pack(Vectors)
    >> Dropout()
    >> Encode("bilstm", hidden_size=8)
    >> Unpack()
    >> Encode(GRU(16, 8), Hidden, name="second")
    >> Unpack()
    >> Pack(Hidden)
    >> Dropout()
    >> Encode("bigru", Hidden, hidden_size=8, name="third")
    >> AttendEarlier("additive")
    >> Tag(labels)
)
assert_type(long_tagger, StreamChain[FeatureSequence | Example[FeatureSequence], StepScores[str]])

# Chains in chains
front = Pack() >> Embed(9, 9)
middle = Encode(LSTM(9, 9)) >> AttendEarlier()
back = Dropout() >> NextToken(9)
assert_type(front, Chain[Padded[Ids], Batch[Vectors]])
assert_type(middle, Chain[Batch[Vectors], States[Causal]])
assert_type(back, Chain[States[Causal], StepScores])
assert_type(front >> middle, Chain[Padded[Ids], States[Causal]])
assert_type((front >> middle) >> back, Chain[Padded[Ids], StepScores])
assert_type(front >> (middle >> back), Chain[Padded[Ids], StepScores])
assert_type(data >> (front >> (middle >> back)), StreamChain[str | Example[str], StepScores])
assert_type((data >> front) >> (middle >> back), StreamChain[str | Example[str], StepScores])
assert_type(tokenize >> (Shift() >> Shift()), Chain[str | Example[str], Row[Ids]])
assert_type((tokenize >> Shift()) >> Bucket(rows=8), StreamChain[str | Example[str], list[Row[Ids]]])
assert_type(Bucket(rows=8) >> Pad() >> front, StreamChain[Row[Ids], Batch[Vectors]])
assert_type(middle >> Attend() >> Pool("max"), Chain[Batch[Vectors], Pooled])
assert_type(middle >> Tag(3), Chain[Batch[Vectors], StepScores])

# Functions over stages
A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")
S = TypeVar("S", bound=MaybeCausal)


def behind(first: Stage[A, B], second: Stage[B, C]) -> Chain[A, C]:
    """Join any two stages."""
    return first >> second


def fed(source: StreamChain[A, B], stage: Stage[B, C]) -> StreamChain[A, C]:
    """Join a stream and a stage."""
    return source >> stage


def dropped_out(pooled: Stage[A, Pooled]) -> Chain[A, Pooled]:
    """Add dropout to one vector per row."""
    return pooled >> Dropout()


def attended(states: Stage[A, States[S]]) -> Chain[A, States[S]]:
    """Add attention, which leaves states causal."""
    return states >> AttendEarlier() >> AttendEarlier(name="again")


def encoded(encoder: Encoder[S]) -> Chain[Batch[Ids], States[S]]:
    """Add an encoder, causal or not, to embedded ids."""
    return Embed(9, 9) >> Encode(encoder)


def deep(states: Chain[A, States[Causal]], layers: int) -> Chain[A, States[Causal]]:
    """Add a number of layers."""
    for layer in range(layers):
        states = states >> AttendEarlier(name=f"layer_{layer}")
    return states


def headed(states: Chain[A, States[Causal]]) -> Chain[A, StepScores]:
    """Add a next-token head to causal states."""
    return states >> Dropout() >> NextToken(9)


def scored(classes: int | Labels) -> Chain[Pooled, Scores] | Chain[Pooled, Scores[str]]:
    """Add a head whose predictions the caller chooses."""
    return Dropout() >> Classify(classes) if isinstance(classes, int) else Dropout() >> Classify(classes)


def predicted(pipe: StreamChain[A, Scores[str]], inputs: list[A]) -> list[str]:
    """Return all predictions."""
    return list(pipe.predict(inputs))


one_way, two_way = Encode(LSTM(9, 9)), Encode(bi)  # not inside the calls below: zuban would infer Any there
assert_type(one_way, Encode[Causal])
assert_type(two_way, Encode[MaybeCausal])
assert_type(behind(Pool("max"), Classify(3)), Chain[States[MaybeCausal], Scores])
assert_type(behind(Embed(9, 9), two_way), Chain[Batch[Ids], States[MaybeCausal]])
assert_type(behind(behind(front, middle), back), Chain[Padded[Ids], StepScores])
assert_type(fed(data, front), StreamChain[str | Example[str], Batch[Vectors]])
assert_type(fed(data, model), StreamChain[str | Example[str], Scores])
assert_type(dropped_out(Pool("max")), Chain[States[MaybeCausal], Pooled])
assert_type(attended(two_way), Chain[Batch[Vectors], States[MaybeCausal]])
assert_type(attended(one_way), Chain[Batch[Vectors], States[Causal]])
assert_type(headed(attended(Encode(LSTM(9, 9)))), Chain[Batch[Vectors], StepScores])
assert_type(encoded(LSTM(9, 9)), Chain[Batch[Ids], States[Causal]])
assert_type(encoded(bi), Chain[Batch[Ids], States[MaybeCausal]])
assert_type(headed(deep(encoded(GRU(9, 9)), 3)), Chain[Batch[Ids], StepScores])
assert_type(headed(attended(encoded(GRU(9, 9)))), Chain[Batch[Ids], StepScores])


# Custom parts
class Mine(Encoder[Causal]):
    """An encoder that returns its input."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = input_size
        self.causal = True

    @override
    def forward(self, batch: Batch[Vectors]) -> States[Causal]:
        padded = batch.padded()
        states: States[Causal] = Encode(LSTM(self.input_size, self.input_size))(padded)
        return self.make_states(states.steps, states.final)


class Far(Encoder[MaybeCausal]):
    """An encoder that may not be causal."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.output_size = input_size
        self.causal = False

    @override
    def forward(self, batch: Batch[Vectors]) -> States[MaybeCausal]:
        padded = batch.padded()
        return States.from_padded(padded.values, padded.lengths)


class Near(Attention):
    """An attention by distance."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size = input_size

    @override
    def score(self, query: Tensor, key: Tensor) -> Tensor:
        return -(query.unsqueeze(2) - key.unsqueeze(1)).square().sum(-1)


class Ends(Pooling):
    """A pooling that returns the final states."""

    @override
    def forward(self, states: States[MaybeCausal]) -> Tensor:
        return states.final


class Halved(ModuleStage[Pooled, Pooled]):
    """A custom stage."""

    @override
    def forward(self, value: Pooled) -> Pooled:
        return Pooled(value.values / 2, metadata=value.metadata)


class Upper(Stage[str, str]):
    """A custom stage without weights."""

    @override
    def __call__(self, value: str, /) -> str:
        return value.upper()


assert_type(Encode(Mine(9)), Encode[Causal])
assert_type(Encode(Far(9)), Encode[MaybeCausal])
assert_type(Embed(9, 9) >> Encode(Mine(9)) >> NextToken(9), Chain[Batch[Ids], StepScores])
assert_type(front >> Encode(Mine(9)) >> AttendEarlier(Near(9)) >> back, Chain[Padded[Ids], StepScores])
assert_type(front >> Encode(Far(9)) >> Attend(Near(9)) >> Tag(3), Chain[Padded[Ids], StepScores])
assert_type(Pool(Ends()) >> Halved() >> Classify(3), Chain[States[MaybeCausal], Scores])
assert_type(Upper() >> tokenize, Chain[str, Row[Ids]])
assert_type(Upper() >> data >> front, StreamChain[str, Batch[Vectors]])
as_stage: Stage[Padded[Ids], Scores] = model
as_function: Callable[[Padded[Ids]], Scores] = model
as_module: nn.Module = classify
narrower: Stage[States[Causal], Pooled] = Pool("max")
assert_type(plan([3, 5], 10, model=model), Forecast)
assert_type(plan({3: 1}, {"mine": Budget(10)})["mine"].report, Report)
less_said: Encode[MaybeCausal] = Encode(Mine(9))

# Encoders of a kind that is chosen at run time
kinds = {"lstm": LSTM}
for_later = partial(LSTM, hidden_size=3)
chosen: Encoder[MaybeCausal] = for_later(9)
looked_up: Encoder[MaybeCausal] = kinds["lstm"](9, 9)
any_kind: list[Encoder[MaybeCausal]] = [kind(9, 9) for kind in (LSTM, GRU)]
check_encoder(partial(LSTM, 3, 4, num_layers=2))

# Parts with options by name, and without by object
by_options = [Pool("attention", input_size=3), Pool(AttentionPool(3)), Pool(AttentionPool(3), name="pooled")]
attending = [Attend(), Attend("general", input_size=3), Attend(General(3), memory=1_000)]
windowed = [AttendEarlier("general", window=3, input_size=3), AttendEarlier(General(3), window=3)]
sparse = [
    Attend("multi_head", num_heads=2, normalize="sparsemax"),
    Attend(MultiHead(4, normalize="entmax15"), window=2),
]
combined = Embed(9, 9) >> Encode(LSTM(9, 9)) >> AttendEarlier("concat", output="tanh")
assert_type(combined, Chain[Batch[Ids], States[Causal]])
assert_type(combined >> NextToken(9), Chain[Batch[Ids], StepScores])
assert_type(AttendEarlier(output="concat") >> Dropout(), TypePreserving[States[MaybeCausal]])
assert_type(Encode(LSTM(9, 9)) >> AttendLocal(window=2), Chain[Batch[Vectors], States[MaybeCausal]])
assert_type(language_model(9, attention=None), Chain[Padded[Ids], StepScores])
assert_type(language_model(9, output="context"), Chain[Padded[Ids], StepScores])

# Two sides of a row, one of which attends to the other: causal if that side is
onward = Embed(9, 9) >> Encode(LSTM(9, 9))
both_sides = Embed(9, 9) >> Encode(LSTM(9, 9, bidirectional=True, merge="mean"))
across = Pack(TextPair) >> CrossAttend(
    TextPair.first >> onward, TextPair.second >> both_sides, "general", output="tanh"
)
assert_type(across, Chain[Padded[TextPair], States[Causal]])
assert_type(across >> NextToken(9), Chain[Padded[TextPair], StepScores])
around = Pack(TextPair) >> CrossAttend(
    TextPair.first >> both_sides, TextPair.second >> onward, MultiHead(9, num_heads=3)
)
assert_type(around, Chain[Padded[TextPair], States[MaybeCausal]])


def change_values(pooled: Pooled, scores: Scores[str], states: States[Causal], steps: Padded[Vectors]) -> None:
    """The type stays the same if values are replaced or dropped."""
    assert_type(pooled.with_values(pooled.values * 2), Pooled)
    assert_type(scores.with_values(scores.values / 2), Scores[str])
    assert_type(states.with_values(states.steps), States[Causal])
    assert_type(Dropout()(pooled), Pooled)
    assert_type(Dropout()(states), States[Causal])
    assert_type(Dropout()(steps), Padded[Vectors])
    assert_type(States.from_padded(steps.values, steps.lengths, final=pooled.values), States[MaybeCausal])


# Hooks and their results
encoders: OffersEncoders = pipeline_recurrent
attentions: OffersAttentions = pipeline_attention
pools: OffersPools = pipeline_attention
encoder_factory: EncoderFactory = Mine
encoder_function: EncoderFactory = pipeline_recurrent.bilstm
attention_factory: AttentionFactory = Near
pooling_factory: PoolingFactory = Ends
assert_type(pipeline_recurrent.bilstm(9, 9), LSTM[MaybeCausal])


def in_torch(rows: Dataset[Row[Ids]], lengths: list[int]) -> None:
    """Use the data stages in a stock loader."""
    for batch in DataLoader(rows, batch_sampler=PlannedBatches(lengths, Rows(8)), collate_fn=Pad()):
        assert_type(model(batch), Scores)
        assert_type(model(batch.to("cpu")).loss(), Tensor)
