"""Lines with predictions that must not type-check; marked and tested like those of wrong.py."""

from collections.abc import Iterator

import attrs
from torch import Tensor

from pipeline import (
    Bucket,
    Classify,
    ClassifyMultiLabel,
    ClassPrediction,
    Embed,
    Encode,
    Heads,
    JointPrediction,
    Labels,
    MultiLabelPrediction,
    Pad,
    Pool,
    Regress,
    StepPrediction,
    Tag,
    Tokenize,
)
from pipeline_recurrent import LSTM


@attrs.frozen
class Verdict:
    """The joint prediction of two heads."""

    label: str
    amount: float


texts = ["a b", "b"]
labels = Labels(["no", "yes"])
data = Tokenize.train(texts) >> Bucket(rows=8) >> Pad()
model = Embed(9, 9) >> Encode(LSTM(9, 9)) >> Pool("max")
vectors = data >> model
named, numbered = vectors >> Classify(labels), vectors >> Classify(3)
tags = data >> Embed(9, 9) >> Encode(LSTM(9, 9)) >> Tag(labels)
several, number = vectors >> ClassifyMultiLabel(labels), vectors >> Regress()
joint = vectors >> Heads(Classify(labels), Regress(), into=Verdict)
flag = bool(texts)
o: object

# Calls
o = named.predict(texts, scores="all")  # E prediction: a word for a flag
o = named.predict(texts, True)  # E prediction: the flag by position
o = named.predict(texts, score=True)  # E prediction: no such option
o = named.predict([3], scores=True)  # E prediction: numbers where texts are needed
o = data.predict(texts, scores=True)  # E prediction: padded batches have no scores
o = vectors.predict(texts, scores=True)  # E prediction: vectors are not predictions
o = (model >> Classify(3)).predict(texts, scores=True)  # E prediction: a model alone takes batches, not texts
o = (model >> Classify(3)).vectors(texts)  # E prediction: a model alone takes batches, not texts
o = vectors.vectors([3])  # E prediction: numbers where texts are needed

# One class per row
b01: Iterator[str] = named.predict(texts, scores=True)  # E prediction: objects with scores are not names
b02: Iterator[ClassPrediction[str]] = named.predict(texts)  # E prediction: names have no scores
b03: Iterator[ClassPrediction[int]] = named.predict(texts, scores=True)  # E prediction: labels, not numbers
b04: Iterator[ClassPrediction[str]] = numbered.predict(texts, scores=True)  # E prediction: numbers, not names
b05: list[ClassPrediction[str]] = named.predict(texts, scores=True)  # E prediction: a stream is not a list
b06: Iterator[StepPrediction[str]] = named.predict(texts, scores=True)  # E prediction: a row has no place
o = next(named.predict(texts)).probability  # E prediction: a name has no probability
o = next(named.predict(texts, scores=True)).start  # E prediction: a row has no place
o = next(named.predict(texts, scores=True)).labels  # E prediction: one class, not several
o = next(named.predict(texts, scores=True)).top("all")  # E prediction: a word for a number
b07: int = next(named.predict(texts, scores=True)).label  # E prediction: the label is a name
b08: dict[str, float] = next(named.predict(texts, scores=True)).top(2)  # E prediction: a list of pairs

# One class per step
b09: Iterator[StepPrediction[str]] = tags.predict(texts, scores=True)  # E prediction: a list per row
b10: Iterator[list[StepPrediction[int]]] = tags.predict(texts, scores=True)  # E prediction: the tags are names
b11: Iterator[list[str]] = tags.predict(texts, scores=True)  # E prediction: objects with scores are not names
o = next(tags.predict(texts, scores=True)).label  # E prediction: a list has no label
o = next(tags.predict(texts))[0].start  # E prediction: a name has no place
o = next(tags.predict(texts, scores=True))[0].begin  # E prediction: no such attribute

# Several classes per row, and numbers
b12: Iterator[ClassPrediction[str]] = several.predict(texts, scores=True)  # E prediction: several classes, not one
b13: Iterator[MultiLabelPrediction[int]] = several.predict(texts, scores=True)  # E prediction: the labels are names
o = next(several.predict(texts, scores=True)).label  # E prediction: several classes, not one
o = next(number.predict(texts, scores=True)).probability  # E prediction: a number has no probability
b14: Iterator[str] = number.predict(texts, scores=True)  # E prediction: a number is not a name

# Several heads
b15: Iterator[Verdict] = joint.predict(texts, scores=True)  # E prediction: a joint prediction with scores
b16: Iterator[JointPrediction[Verdict, tuple[float, str]]] = joint.predict(texts, scores=True)  # E prediction: heads
o = next(joint.predict(texts, scores=True)).label  # E prediction: the label is in the prediction
o = next(joint.predict(texts, scores=True)).heads[1].probability  # E prediction: a number has no probability
b17: int = next(joint.predict(texts, scores=True)).prediction.label  # E prediction: the label is a name
b18: str = next(joint.predict(texts, scores=True)).heads[0].probability  # E prediction: a probability is a number
o = next(joint.predict(texts, scores=True)).heads[2]  # E prediction: there are two heads

# Vectors
b19: Iterator[list[float]] = vectors.vectors(texts)  # E prediction: vectors are tensors
b20: Tensor = vectors.vectors(texts)  # E prediction: a vector per row, not a matrix

# Weights of attentions
o = (model >> Classify(3)).attention_weights(texts)  # E prediction: a model alone takes batches, not texts
o = named.attention_weights([3])  # E prediction: numbers where texts are needed
b21: Iterator[Tensor] = named.attention_weights(texts)  # E prediction: an object with the weights of each attention
o = next(named.attention_weights(texts)).weights[0]  # E prediction: weights are found by name
