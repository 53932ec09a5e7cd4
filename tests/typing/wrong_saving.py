"""Lines that save and load pipes and must not type-check; marked and tested like those of wrong.py."""

from collections.abc import Iterator

import attrs

from pipeline import Bucket, Classify, Labels, Pad, Tokenize, classifier, load


@attrs.frozen
class Verdict:
    """The joint prediction of two heads."""

    label: str
    amount: float


texts = ["a b", "b"]
labels = Labels(["no", "yes"])
pipe = Tokenize.train(texts) >> Bucket(rows=8) >> Pad() >> classifier(9, labels)
named = load("folder", takes=str, gives=str)
joint = load("folder", takes=str, gives=Verdict)
tags = load("folder", takes=list[str], gives=list[str])
o: object

# Calls
pipe.save()  # E call: no folder
pipe.save("folder", replace="yes")  # E call: a word for a flag
pipe.save("folder", cards="text")  # E call: no such option
Classify(3).save("folder")  # E call: a stage alone cannot be saved
load(3, takes=str, gives=str)  # E call: a number for a folder
load("folder", str, str)  # E call: types by position
load("folder", takes="str", gives=str)  # E call: a text for a type
load("folder", takes=str, gives="str")  # E call: a text for a type
load("folder", takes=str, gives=labels)  # E call: labels for a type
load("folder", takes=str, gives=str, records=[3])  # E call: a number for a class
load("folder", takes=str, gives=str, device=3.5)  # E call: a number that is no device

# Inputs
o = named.predict([3])  # E prediction: numbers where texts are needed
o = named.predict([["a", "b"]])  # E prediction: words where texts are needed
o = tags.predict(["a b"])  # E prediction: a text where words are needed
o = joint.predict([("a", "b")])  # E prediction: pairs where texts are needed

# Predictions
first: Iterator[int] = named.predict(texts)  # E prediction: names, not numbers
second: Iterator[str] = joint.predict(texts)  # E prediction: objects, not names
third: Iterator[str] = tags.predict([["a"]])  # E prediction: a list per row
for prediction in named.predict(texts, scores=True):
    o = prediction.step  # E prediction: the class of a row has no step
for tag in tags.predict([["a"]], scores=True):
    o = tag.label  # E prediction: a list of steps
for verdict in joint.predict(texts):
    o = verdict.name  # E prediction: no such field
fourth: int = next(named.predict(texts, scores=True)).label  # E prediction: a name, not a number
