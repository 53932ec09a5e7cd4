"""Lines with targets, heads, losses and pairs that must not type-check; marked and tested like those of wrong.py."""

from collections.abc import Iterator

import attrs
import torch

from pipeline import (
    Bucket,
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Example,
    Heads,
    Ids,
    Join,
    Labels,
    MultiLabels,
    MultiLabelScores,
    Numbers,
    Pad,
    Pool,
    Pooled,
    Regress,
    Row,
    Scores,
    Tag,
    TextPair,
    Tokenize,
    TokenizePair,
    Values,
    matcher,
    sum_over_ranks,
)
from pipeline_recurrent import LSTM


@attrs.frozen
class Verdict:
    """Joint predictions."""

    label: str
    amount: float


labels, texts = Labels(["ham", "spam"]), ["a b", "b"]
tokenize = Tokenize.train(texts)
data = tokenize >> Bucket(rows=2) >> Pad()
body = Embed(9, 4) >> Encode(LSTM(4, 4)) >> Pool("max")
states = Embed(9, 4) >> Encode(LSTM(4, 4))
vectors = data >> body
numbers, places = vectors >> Regress(), vectors >> Regress(2)
several = vectors >> ClassifyMultiLabel(labels)
verdicts = vectors >> Heads(Classify(labels), Regress(), into=Verdict)
both = vectors >> Heads(Classify(labels), Regress())
pairs = TokenizePair(tokenize)
matched = pairs >> Bucket(TextPair, rows=2) >> Pad(TextPair) >> matcher(9, labels)
ids = Ids(torch.tensor([1]))
o: object

# Options of Pad
o = Pad(targets="number")  # E call: a word for a type of targets
o = Pad(targets=Numbers)  # E call: a class for its instance
o = Pad(targets={"label": ["ham", "spam"]})  # E call: names for labels
o = Pad(targets={"label": None})  # E call: no type for a target
o = Pad(labels=Numbers())  # E call: numbers for labels
o = Pad(labels=MultiLabels(labels))  # E call: sets for labels
o = Pad(missing="drop")  # E call: no such choice
o = Pad(target=Numbers())  # E call: no such option
o = Numbers("2")  # E call: a text for a size
o = MultiLabels(["ham", "spam"])  # E call: names for labels
o = labels.class_weights(3)  # E call: a number for targets

# Targets
o = Example("a", target={1: "ham"})  # E value: a number for the name of a target
o = Example("a", target={1, 2})  # E value: a set of ids
o = Row(ids, target=object())  # E value: an object for a target

# Heads
o = Regress("2")  # E call: a text for a size
o = Regress(labels)  # E call: labels for a size
o = ClassifyMultiLabel(["ham"])  # E call: a list for labels
o = ClassifyMultiLabel(3, {"ham": 0.5})  # E call: thresholds by name for ids
o = ClassifyMultiLabel(labels, "high")  # E call: a word for a threshold
o = states >> Regress()  # E order: numbers per row of states
o = states >> ClassifyMultiLabel(labels)  # E order: classes per row of states
o = body >> Heads(Tag(labels), Classify(2))  # E order: a head for steps on pooled rows
o = Heads(Tag(labels), Classify(2))  # E branch: inputs differ
o = Heads(Classify(2))  # E call: a single head
o = Heads(Classify(2), Pool("max"))  # E branch: a stage that is no head
o = Heads(Regress(), Classify(labels), into=Verdict)  # E field: heads in another order than the fields
o = Heads(Classify(labels), Regress(2), into=Verdict)  # E field: a vector for a number
o = Heads(Classify(3), Regress(), into=Verdict)  # E field: an id for a name
o = Heads(Classify(labels), Regress(), Regress(), into=Verdict)  # E field: a head more than fields
o = Heads(Classify(labels), Regress(), into="Verdict")  # E call: a name for a class
o = Heads(Classify(labels), Regress(), weights=[1, 2])  # E call: weights without names
o = Heads(Classify(labels), Regress(), names={"a": 1.0}.values())  # E call: numbers for names
o = Heads(Classify(labels), Regress())(Pooled(torch.ones(1, 3))).loss("huber")  # E call: one loss for all heads

# Predictions
wrong_number: Iterator[int] = numbers.predict(texts)  # E prediction: numbers are floats
wrong_place: Iterator[float] = places.predict(texts)  # E prediction: vectors are lists
wrong_set: Iterator[str] = several.predict(texts)  # E prediction: several classes per row
wrong_verdict: Iterator[tuple[str, float]] = verdicts.predict(texts)  # E prediction: a class, not a tuple
wrong_tuple: Iterator[tuple[float, str]] = both.predict(texts)  # E prediction: the other order
o = next(verdicts.predict(texts)).price  # E prediction: no such field


def lose(scores: Scores[str], values: Values, several: MultiLabelScores[str]) -> None:
    """Losses."""
    scores.loss(weights=torch.ones(2))  # E call: no such option
    scores.loss(pos_weight=torch.ones(2))  # E call: an option of another loss
    scores.loss(reduction="average")  # E call: no such reduction
    scores.loss("mse")  # E call: the loss of numbers
    values.loss("l2")  # E call: no such loss
    values.loss(label_smoothing=0.1)  # E call: an option of another loss
    values.loss(delta="small")  # E call: a word for a number
    several.loss(pos_weight=[1.0, 2.0])  # E call: a list for a tensor
    several.loss("huber")  # E call: the loss of numbers
    sum_over_ranks(3)  # E call: a number for a tensor


# Pairs
o = pairs("a b")  # E row: one text for a pair
o = pairs(("a", 3))  # E row: a number for a text
o = pairs(("a", "b", "c"))  # E row: three texts
o = pairs >> Bucket(TextPair, rows=2) >> Pad()  # E kind: pairs padded as ids
o = Pad() >> matcher(9, labels)  # E kind: ids for pairs
o = Pad(TextPair) >> body  # E kind: pairs into an id embedding
o = matcher(9, ["ham", "spam"])  # E call: names for labels
o = matcher(9, labels, heads=2)  # E call: no such option
o = Join(TextPair.first >> body, TextPair.third >> body)  # E field: no such side
o = matched.predict(texts)  # E prediction: texts for pairs
