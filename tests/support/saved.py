"""Pipes of many kinds with a few weights, and comparisons of saved pipes with loaded ones."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import torch

from pipeline import (
    Attend,
    Bucket,
    Classify,
    ClassifyMultiLabel,
    Dropout,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    FromColumns,
    FromFeatures,
    FromIds,
    FromNested,
    Heads,
    Hidden,
    Identity,
    Ids,
    Join,
    Labels,
    MultiLabels,
    Nested,
    Numbers,
    Pack,
    Pad,
    Pool,
    Regress,
    Shift,
    StreamChain,
    TextPair,
    Tokenize,
    TokenizePair,
    TokenizeWords,
    Unpack,
    Vectors,
    classifier,
    language_model,
    matcher,
    read,
    tagger,
    through,
    unused,
)
from pipeline.batching import Boundaries, Budget, Shapes
from pipeline_recurrent import GRU, LSTM, RNN

TEXTS: Final = ["to be or not to be", "that is the question", "", "be"]
WORDS: Final = [["to", "be"], ["or", "not", "to", "be"], ["that"]]
LABELS: Final = Labels(["no", "yes"])


@attrs.frozen(eq=False)
class Event(Fields):
    """Steps with a code, an amount and a time."""

    code: Ids
    amount: Vectors
    time: Vectors


@attrs.frozen
class Verdict:
    """The joint prediction of two heads."""

    label: str
    amount: float


def make_classifier() -> StreamChain[Any, Any]:
    """Return a classifier of texts."""
    tokenize = Tokenize.train(TEXTS, lowercase=True, normalization="NFC", bos=True, eos=True, max_length=5)
    data = tokenize >> Bucket(max_padded_steps=12, too_long="alone") >> Pad(labels=LABELS, multiple_of=2)
    return data >> classifier(tokenize.vocab_size, LABELS, embedding_dim=4, hidden_size=3, dropout=0.2)


def make_tagger() -> StreamChain[Any, Any]:
    """Return a tagger of words."""
    words = TokenizeWords.train(WORDS, offsets=False)
    return (
        words
        >> Bucket(policy=Boundaries([2, 4], rows=2))
        >> Pad(labels=LABELS)
        >> tagger(words.vocab_size, LABELS, embedding_dim=4, hidden_size=3)
    )


def make_language_model() -> StreamChain[Any, Any]:
    """Return a language model whose scores share the embedding's weights."""
    tokenize = Tokenize.train(TEXTS, "bpe", vocab_size=280)
    model = language_model(tokenize.vocab_size, embedding_dim=4, hidden_size=4, tied=True, attention="additive")
    return tokenize >> Shift() >> Bucket(rows=2, seed=None) >> Pad() >> model


def make_matcher() -> StreamChain[Any, Any]:
    """Return a matcher of pairs, whose branches share their reader."""
    pairs = TokenizePair(Tokenize.train(TEXTS))
    return pairs >> Bucket(TextPair, rows=2) >> Pad(TextPair) >> matcher(30, LABELS, embedding_dim=4, hidden_size=3)


def make_events() -> StreamChain[Any, Any]:
    """Return a model of rows with several fields, with several heads."""
    codes = TokenizeWords.train([["buy", "sell"]])
    data = FromColumns(
        Event, code=read(codes, "kind"), amount=read(FromFeatures(), ["price", "count"]), time=read(FromFeatures())
    )
    embed = EmbedFields(Event, code=through(Embed(9, 4)), amount=through(Identity(2)), time=unused(Vectors))
    heads = Heads(Dropout(0.1) >> Classify(LABELS), Regress(), into=Verdict, weights={"amount": 0.5})
    targets: Mapping[str, Labels | Numbers] = {"label": LABELS, "amount": Numbers()}
    batches = (
        data >> Bucket(Event, policy=Budget(64, quadratic=32, batches_per_sort=None)) >> Pad(Event, targets=targets)
    )
    return (
        batches
        >> Pack(Event)
        >> embed
        >> Encode(LSTM(6, 3, num_layers=2, dropout=0.1, residual=True))
        >> Pool("attention")
        >> heads
    )


def make_spelling() -> StreamChain[Any, Any]:
    """Return a classifier with several classes per row, of words by their characters."""
    words = FromNested(Tokenize.train(["abcdefghijklmnopqrstuvwxyz"], "characters"))
    spell = EachStep(Embed(40, 3) >> Encode("bigru", hidden_size=2) >> Pool("final"), name="spell")
    head = ClassifyMultiLabel(LABELS, {"yes": 0.25})
    data = words >> Bucket(Nested[Ids], rows=2) >> Pad(Nested[Ids], targets=MultiLabels(LABELS))
    return (
        data
        >> spell
        >> Encode("rnn", hidden_size=4, nonlinearity="relu")
        >> Attend("scaled_dot")
        >> Pool("mean")
        >> head
    )


def make_sensors() -> StreamChain[Any, Any]:
    """Return a regression on features, with shapes that are fixed, states that are unpacked, and a join."""
    policy = Shapes([(2, 4), (1, 8)])
    encode = Encode(GRU(2, 3, bidirectional=True, merge="sum")) >> Unpack() >> Encode(RNN(3, 3), Hidden, name="high")
    data = FromFeatures() >> Bucket(Vectors, policy=policy) >> Pad(Vectors, policy=policy, targets=Numbers(2))
    return data >> encode >> Join(Pool("max"), Pool("last"), how="mean") >> Regress(2)


def make_numbered() -> StreamChain[Any, Any]:
    """Return a classifier of ids, with classes that have no names and an embedding that is frozen."""
    embed = Embed.from_pretrained(torch.arange(27.0).view(9, 3) / 10)
    tuple_heads = Heads(Classify(2), ClassifyMultiLabel(3, 0.4), names=["one", "two"])
    return (
        FromIds()
        >> Bucket()
        >> Pad(missing="ignore")
        >> embed
        >> Encode("lstm", hidden_size=4, layer_norm=True, num_layers=2, bias=False)
        >> Pool("sum")
        >> tuple_heads
    )


PIPES: Final[Mapping[str, tuple[Callable[[], StreamChain[Any, Any]], Sequence[object]]]] = {
    "classifier": (make_classifier, TEXTS),
    "tagger": (make_tagger, WORDS),
    "language model": (make_language_model, TEXTS),
    "matcher": (make_matcher, [("to be", "or not"), ("that", "")]),
    "events": (make_events, [{"kind": ["buy", "sell"], "price": [1.0, 2.0], "count": [3.0, 1.0], "time": [0.0, 1.0]}]),
    "spelling": (make_spelling, [["a", "word"], ["is"]]),
    "sensors": (make_sensors, [[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0]]]),
    "numbered": (make_numbered, [[1, 2, 3], [4], []]),
}
"""A pipe of each kind, with inputs for it. Together they have every stage, every kind of part and every type of option."""


def compute_answers(pipe: StreamChain[Any, Any], inputs: Sequence[object]) -> list[list[object]]:
    """Return all tensors that a pipe returns for inputs, as bytes, and its predictions."""
    was_training = pipe.training
    pipe.eval()
    with torch.no_grad():
        answers = [_list_values(batch) for batch in pipe.predict_batches(inputs)]
    pipe.train(was_training)
    return [*answers, list(pipe.predict(inputs))]


def _list_values(batch: Any) -> list[object]:
    parts: list[Any] = list(batch.parts.values()) if hasattr(batch, "parts") else [batch]
    return [part.values.detach().numpy().tobytes() for part in parts]


def read_bytes(folder: Path) -> dict[str, bytes]:
    """Return the content of every file of a folder."""
    return {file.name: file.read_bytes() for file in folder.iterdir()}
