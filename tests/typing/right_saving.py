"""Lines that save and load pipes, with their types. Both checkers check them, and a test runs them."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import assert_type

import attrs

from pipeline import (
    Bucket,
    Classify,
    ClassifyMultiLabel,
    ClassPrediction,
    Embed,
    Encode,
    Example,
    Fields,
    FromColumns,
    Heads,
    Ids,
    Joint,
    JointPrediction,
    Labels,
    MultiLabelPrediction,
    MultiLabelScores,
    Pack,
    Pad,
    Pool,
    Predictions,
    Regress,
    Scores,
    StepPrediction,
    StepScores,
    StreamChain,
    Tag,
    TextPair,
    Tokenize,
    TokenizePair,
    TokenizeWords,
    Values,
    language_model,
    load,
    matcher,
    read,
)
from pipeline_recurrent import LSTM


@attrs.frozen
class Verdict:
    """The joint prediction of two heads."""

    label: str
    amount: float


@attrs.frozen(eq=False)
class Event(Fields):
    """Steps with one field."""

    code: Ids


folder = Path(tempfile.mkdtemp()) / "pipe"
texts, words, pairs = ["a b", "b"], [["a", "b"]], [("a", "b")]
labels = Labels(["no", "yes"])
tokenize = Tokenize.train(texts)
data = tokenize >> Bucket(rows=8) >> Pad()
vectors = data >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Pool("max")

# One class per row
(vectors >> Classify(labels)).save(folder)
named = load(folder, takes=str, gives=str)
assert_type(named, StreamChain[str | Example[str], Scores[str]])
assert_type(named.predict(texts), Iterator[str])
assert_type(named.predict(texts, scores=True), Iterator[ClassPrediction[str]])
assert_type(load(folder, takes=str, gives=Scores[str]), StreamChain[str | Example[str], Scores[str]])
(vectors >> Classify(3)).save(str(folder))
numbered = load(folder, takes=str, gives=int, device="cpu")
assert_type(numbered.predict(texts, scores=True), Iterator[ClassPrediction[int]])

# One class per step
(TokenizeWords.train(words) >> Bucket(rows=8) >> Pad() >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Tag(labels)).save(folder)
tags = load(folder, takes=list[str], gives=list[str])
assert_type(tags, StreamChain[list[str] | Example[list[str]], StepScores[str]])
assert_type(tags.predict(words, scores=True), Iterator[list[StepPrediction[str]]])
(data >> language_model(9)).save(folder)
assert_type(load(folder, takes=str, gives=list[int]).predict(texts), Iterator[list[int]])

# Numbers
(vectors >> Regress()).save(folder)
assert_type(load(folder, takes=str, gives=float).predict(texts), Iterator[float])
assert_type(load(folder, takes=str, gives=Values[float]).predict(texts, scores=True), Iterator[float])
(vectors >> Regress(2)).save(folder)
assert_type(load(folder, takes=str, gives=list[float]).predict(texts), Iterator[list[float]])

# Several classes per row
(vectors >> ClassifyMultiLabel(labels)).save(folder)
several = load(folder, takes=str, gives=MultiLabelScores[str])
assert_type(several.predict(texts), Iterator[list[str]])
assert_type(several.predict(texts, scores=True), Iterator[MultiLabelPrediction[str]])

# Several heads
(vectors >> Heads(Classify(labels), Regress())).save(folder)
assert_type(load(folder, takes=str, gives=tuple[str, float]).predict(texts), Iterator[tuple[str, float]])
(vectors >> Heads(Classify(labels), Regress(), into=Verdict)).save(folder)
assert_type(load(folder, takes=str, gives=Verdict).predict(texts), Iterator[Verdict])
joint = load(folder, takes=str, gives=Joint[Verdict, tuple[ClassPrediction[str], float]])
assert_type(joint.predict(texts, scores=True), Iterator[JointPrediction[Verdict, tuple[ClassPrediction[str], float]]])

# Other inputs
(TokenizePair(tokenize) >> Bucket(TextPair, rows=8) >> Pad(TextPair) >> matcher(9, labels)).save(folder)
assert_type(load(folder, takes=tuple[str, str], gives=str).predict(pairs), Iterator[str])
events = FromColumns(Event, code=read(TokenizeWords.train(words))) >> Bucket(Event, rows=8) >> Pad(Event) >> Pack(Event)
(events >> Event.code >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Pool("max") >> Classify(labels)).save(folder)
rows: list[dict[str, object]] = [{"code": ["a"]}]
assert_type(load(folder, takes=dict[str, object], gives=str, records=[Event]).predict(rows), Iterator[str])

# Types that are not stated
anything = load(folder)
assert_type(anything, StreamChain[object, Predictions[object]])
assert_type(anything.predict(rows), Iterator[object])
assert_type(load(folder, takes=dict[str, object]).predict([{"code": ["b"]}]), Iterator[object])
