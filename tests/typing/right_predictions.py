"""Lines with predictions of all kinds that type-check, with their types. Both checkers check them, and a test runs them."""

from collections.abc import Iterator
from typing import assert_type

import attrs
from torch import Tensor
from typing_extensions import override

from pipeline import (
    Attend,
    AttentionWeights,
    Bucket,
    Classify,
    ClassifyMultiLabel,
    ClassPrediction,
    Embed,
    Encode,
    Example,
    Heads,
    JointPrediction,
    Labels,
    ModuleStage,
    MultiLabelPrediction,
    NextToken,
    Pad,
    Pool,
    Pooled,
    Predictions,
    Regress,
    StepPrediction,
    Tag,
    Tokenize,
    TokenizeWords,
    classifier,
    tagger,
)
from pipeline_recurrent import LSTM


@attrs.frozen
class Verdict:
    """The joint prediction of two heads."""

    label: str
    amount: float


class Length(Predictions[float]):
    """Predictions of one's own, without scores."""

    def __init__(self, vectors: Pooled) -> None:
        self.vectors = vectors

    @override
    def rows(self) -> Iterator[tuple[int, float]]:
        """Yield the length of each vector."""
        for row_id, vector in zip(self.vectors.row_ids, self.vectors.values, strict=True):
            yield int(row_id), float(vector.abs().sum())


class Measure(ModuleStage[Pooled, Length]):
    """A head of one's own."""

    @override
    def forward(self, value: Pooled) -> Length:
        """Return the lengths."""
        return Length(value)


texts = ["a b", "b"]
labels = Labels(["no", "yes"])
tokenize = Tokenize.train(texts)
data = tokenize >> Bucket(rows=8) >> Pad()
vectors = data >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Pool("max")

# One class per row
named = vectors >> Classify(labels)
assert_type(named.predict(texts), Iterator[str])
assert_type(named.predict(texts, scores=False), Iterator[str])
assert_type(named.predict(texts, scores=True), Iterator[ClassPrediction[str]])
numbered = vectors >> Classify(3)
assert_type(numbered.predict(texts, scores=True), Iterator[ClassPrediction[int]])
for prediction in named.predict([Example("a"), Example("b", target="no")], scores=True):
    assert_type(prediction.label, str)
    assert_type(prediction.probability, float)
    assert_type(prediction.top(2), list[tuple[str, float]])
either: Iterator[ClassPrediction[str | int]] = named.predict(texts, scores=True)

# One class per step
tags = data >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Tag(labels)
assert_type(tags.predict(texts), Iterator[list[str]])
assert_type(tags.predict(texts, scores=True), Iterator[list[StepPrediction[str]]])
for steps in tags.predict(texts, scores=True):
    assert_type(steps[0].label, str)
    assert_type((steps[0].start, steps[0].end), tuple[int, int])
    assert_type(steps[0].top(), list[tuple[str, float]])
next_token = data >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> NextToken(9)
assert_type(next_token.predict(texts, scores=True), Iterator[list[StepPrediction[int]]])

# Several classes per row, and numbers
several = vectors >> ClassifyMultiLabel(labels)
assert_type(several.predict(texts), Iterator[list[str]])
assert_type(several.predict(texts, scores=True), Iterator[MultiLabelPrediction[str]])
for prediction_of_several in several.predict(texts, scores=True):
    assert_type(prediction_of_several.top(1), list[tuple[str, float]])
number = vectors >> Regress()
assert_type(number.predict(texts), Iterator[float])
assert_type(number.predict(texts, scores=True), Iterator[float])
numbers = vectors >> Regress(2)
assert_type(numbers.predict(texts, scores=True), Iterator[list[float]])

# Several heads
pair = vectors >> Heads(Classify(labels), Regress())
assert_type(pair.predict(texts), Iterator[tuple[str, float]])
assert_type(
    pair.predict(texts, scores=True), Iterator[JointPrediction[tuple[str, float], tuple[ClassPrediction[str], float]]]
)
joint = vectors >> Heads(Classify(labels), Regress(), into=Verdict)
assert_type(joint.predict(texts), Iterator[Verdict])
for verdict in joint.predict(texts, scores=True):
    assert_type(verdict.prediction.label, str)
    assert_type(verdict.heads[0].probability, float)
    assert_type(verdict.heads[1], float)
triple = vectors >> Heads(Classify(labels), Classify(3, name="stars"), ClassifyMultiLabel(labels))
assert_type(
    triple.predict(texts, scores=True),
    Iterator[
        JointPrediction[
            tuple[str, int, list[str]], tuple[ClassPrediction[str], ClassPrediction[int], MultiLabelPrediction[str]]
        ]
    ],
)

# A head of one's own
lengths = vectors >> Measure()
assert_type(lengths.predict(texts), Iterator[float])
assert_type(lengths.predict(texts, scores=True), Iterator[object])

# Vectors, with or without a head
assert_type(vectors.vectors(texts), Iterator[Tensor])
assert_type(named.vectors(texts), Iterator[Tensor])

# Weights of attentions
attending = data >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Attend() >> Tag(3)
assert_type(attending.attention_weights(texts), Iterator[AttentionWeights])
for row in attending.attention_weights(texts):
    assert_type(row.weights["attend"], Tensor)

# Composed models
whole = data >> classifier(9, labels)
assert_type(whole.predict(texts, scores=True), Iterator[ClassPrediction[str]])
words = TokenizeWords.train([["a", "b"]]) >> Bucket(rows=8) >> Pad() >> tagger(9, 3)
assert_type(words.predict([["a"]], scores=True), Iterator[list[StepPrediction[int]]])
