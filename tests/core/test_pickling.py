"""Pipes are pickled and copied with everything that their answers depend on."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch

from pipeline import (
    AttendEarlier,
    Bucket,
    Classify,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    FromColumns,
    FromFeatures,
    FromIds,
    Identity,
    Ids,
    Labels,
    Pad,
    Pool,
    TextPair,
    Tokenize,
    TokenizePair,
    Vectors,
    classifier,
    language_model,
    matcher,
    read,
    tagger,
    through,
)
from pipeline.core.contexts import seeded
from support.trainable import TRAINABLE, copy_weights

TEXTS = ["a fine film", "", "what a fine evening", "dull", "an unknown word"]
TOKENIZE = Tokenize.train(TEXTS[:4], bos=True, bos_token="[BOS]", max_length=5)
LABELS = Labels(["no", "yes", "so"])
SIZE = TOKENIZE.vocab_size


@attrs.frozen(eq=False)
class Event(Fields):
    """A class of fields: pickled by its name, so it is not local to a function."""

    code: Ids
    amount: Vectors


def make_events() -> Any:
    """Make a pipe for rows with several fields."""
    fields = FromColumns(Event, code=read(FromIds()), amount=read(FromFeatures()))
    embed = EmbedFields(Event, code=through(Embed(9, 4)), amount=through(Identity(1)))
    states = embed >> Encode("gru", hidden_size=4)
    return fields >> Bucket(Event, rows=2) >> Pad(Event) >> states >> Pool("attention") >> Classify(LABELS)


DATA = TOKENIZE >> Bucket(rows=2, seed=3) >> Pad(labels=LABELS)
PIPES: dict[str, tuple[Callable[[], Any], list[Any]]] = {
    "classifier": (lambda: DATA >> classifier(SIZE, LABELS, hidden_size=3, pooling="attention"), [*TEXTS]),
    "tagger": (lambda: DATA >> tagger(SIZE, LABELS, hidden_size=3, encoder="gru"), [*TEXTS]),
    "tied": (lambda: DATA >> language_model(SIZE, hidden_size=4, embedding_dim=4, tied=True), [*TEXTS]),
    "attention": (
        lambda: (
            DATA
            >> Embed(SIZE, 3)
            >> Encode("lstm", hidden_size=4)
            >> AttendEarlier("dot")
            >> Pool("max")
            >> Classify(3)
        ),
        [*TEXTS],
    ),
    "matcher": (
        lambda: (
            TokenizePair(TOKENIZE) >> Bucket(TextPair, rows=2) >> Pad(TextPair) >> matcher(SIZE, LABELS, hidden_size=3)
        ),
        [*zip(TEXTS, TEXTS[::-1], strict=True)],
    ),
    "events": (make_events, [{"code": [1, 2], "amount": [0.5, 2.0]}, {"code": [], "amount": []}]),
    "heads": (TRAINABLE["heads"].make, [[1, 2, 3], [], [4]]),
}


def copy_by_pickle(pipe: Any) -> Any:
    """Return a pickled copy."""
    return pickle.loads(pickle.dumps(pipe))


@pytest.mark.parametrize("name", PIPES)
@pytest.mark.parametrize("copied", [copy_by_pickle, copy.deepcopy])
def test_a_copy_of_a_pipe_gives_the_same_predictions(name: str, copied: Callable[[Any], Any]) -> None:
    """To the last bit, also after it was used; and it has its own weights, shared among stages as in the pipe."""
    make, inputs = PIPES[name]
    with seeded(0):
        pipe = make()
    wanted = list(pipe.predict(inputs))
    found = copied(pipe)
    assert list(found.predict(inputs)) == wanted
    assert repr(found) == repr(pipe)
    weights, others = copy_weights(pipe), copy_weights(found)
    assert all(torch.equal(weights[each], others[each]) for each in weights)
    assert len(list(found.parameters())) == len(list(pipe.parameters()))
    with torch.no_grad():
        next(found.parameters()).add_(1)
    assert all(torch.equal(weights[each], value) for each, value in copy_weights(pipe).items())
