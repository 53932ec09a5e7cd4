"""Lines with targets of all types, their heads and losses, and pairs, that type-check, with their types; also run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, assert_type

import attrs
import torch
from torch import Tensor

from pipeline import (
    Batch,
    Bucket,
    Chain,
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Example,
    FromIds,
    Heads,
    Ids,
    Join,
    Labels,
    MultiLabels,
    MultiLabelScores,
    Numbers,
    Pack,
    Pad,
    Padded,
    Pool,
    Pooled,
    Regress,
    Row,
    Scores,
    Tag,
    TextPair,
    Tokenize,
    TokenizePair,
    TokenizeWords,
    Values,
    matcher,
    sum_over_ranks,
)
from pipeline_recurrent import LSTM


@attrs.frozen
class Verdict:
    """Joint predictions as an attrs class."""

    label: str
    amount: float


@dataclass
class Note:
    """Joint predictions as a dataclass."""

    tags: list[str]
    label: int


class Three(NamedTuple):
    """Joint predictions as a named tuple."""

    label: str
    topics: list[str]
    place: list[float]


labels, texts = Labels(["ham", "spam"]), ["a b", "b"]
tokenize = Tokenize.train(texts)
data = tokenize >> Bucket(rows=2) >> Pad()
body = Embed(9, 4) >> Encode(LSTM(4, 4, bidirectional=True)) >> Pool("max")
states = Embed(9, 4) >> Encode(LSTM(4, 4))

# Types of targets
assert_type(Pad(targets=Numbers()), Pad[Ids])
assert_type(Pad(TextPair, targets={"label": labels, "amount": Numbers(2)}, missing="ignore"), Pad[TextPair])
assert_type(Pad(targets=MultiLabels(labels)), Pad[Ids])
assert_type(Pad(targets=labels), Pad[Ids])
assert_type(Example("a", target={"label": "ham", "amount": 2.5, "topics": {"a"}, "place": [0.5, 1.0]}), Example[str])
assert_type(Row(Ids(torch.tensor([1])), target=[0.5, 1]), Row[Ids])
assert_type(labels.class_weights(["ham", ["spam", None], 1]), Tensor)
assert_type(Labels.from_targets([{"a", "b"}, {"c"}]), Labels)

# Predictions
numbers = data >> body >> Regress()
assert_type(numbers.predict(texts), Iterator[float])
assert_type((data >> body >> Regress(3)).predict(texts), Iterator[list[float]])
assert_type((data >> body >> ClassifyMultiLabel(labels)).predict(texts), Iterator[list[str]])
assert_type((data >> body >> ClassifyMultiLabel(4, 0.3)).predict(texts), Iterator[list[int]])
verdicts = data >> body >> Heads(Classify(labels), Regress(), into=Verdict, weights={"amount": 0.1})
assert_type(verdicts.predict(texts), Iterator[Verdict])
assert_type((data >> body >> Heads(Classify(labels), Regress())).predict(texts), Iterator[tuple[str, float]])
three = Heads(Classify(labels), ClassifyMultiLabel(labels, {"spam": 0.9}), Regress(2), into=Three)
assert_type((data >> body >> three).predict(texts), Iterator[Three])
four = Heads(Regress(), Regress(), Classify(3), Classify(labels), names=["a", "b", "c", "d"])
assert_type((data >> body >> four).predict(texts), Iterator[tuple[float, float, int, str]])
notes = Heads(Tag(labels), Pool("mean") >> Classify(3), into=Note)
assert_type((data >> states >> notes).predict(texts), Iterator[Note])

# Types of heads
assert_type(body >> Regress(), Chain[Batch[Ids], Values[float]])
assert_type(body >> ClassifyMultiLabel(labels), Chain[Batch[Ids], MultiLabelScores[str]])

# Losses
batch = Pad()([Row(Ids(torch.tensor([1, 2])), target=1)])
scores = (body >> Classify(2))(batch)
assert_type(scores.loss(weight=torch.ones(2), label_smoothing=0.1, reduction="sum", over=2), Tensor)
assert_type(scores.metadata.weight, Tensor)
assert_type(sum_over_ranks(scores.metadata.weight), Tensor)
several = (body >> ClassifyMultiLabel(2))(batch)
assert_type(several.probabilities, Tensor)


def lose(values: Values, several: MultiLabelScores[str]) -> None:
    """Losses of batches that have the targets."""
    assert_type(values.loss("huber", delta=0.5, reduction="none"), Tensor)
    assert_type(values.loss(over=torch.tensor(3)), Tensor)
    assert_type(several.loss(pos_weight=torch.ones(2), weight=torch.ones(2)), Tensor)


# Pairs
pairs = TokenizePair(tokenize)
assert_type(pairs, TokenizePair[str])
assert_type(pairs(Example(("a", "b"), target="ham")), Row[TextPair])
assert_type(TokenizePair(FromIds())(([1], [2])), Row[TextPair])
assert_type(TokenizePair(TokenizeWords.train([["a"]]), TokenizeWords.train([["b"]]))((["a"], ["b"])), Row[TextPair])
assert_type(matcher(9, labels, encoder="gru", shared=False), Chain[Padded[TextPair], Scores[str]])
assert_type(matcher(9, 3, pooling="mean"), Chain[Padded[TextPair], Scores[int]])
pipe = pairs >> Bucket(TextPair, max_padded_steps=99) >> Pad(TextPair) >> matcher(9, labels)
assert_type(pipe.predict([("a", "b")]), Iterator[str])
compared = Join(TextPair.first >> body, TextPair.second >> body, how="compare")
assert_type(Pack(TextPair) >> compared >> Regress(), Chain[Padded[TextPair], Values[float]])
assert_type(compared, Join[Batch[TextPair], Pooled])
