"""Every kind of model that the library ships, small, and random batches for them: for export and compilation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import attrs
import torch

from pipeline import (
    Attend,
    AttendEarlier,
    Chain,
    Classify,
    ClassifyMultiLabel,
    EachStep,
    Embed,
    EmbedFields,
    Encode,
    Fields,
    Heads,
    Hidden,
    Identity,
    Ids,
    Join,
    Labels,
    Nested,
    Pack,
    Pad,
    Padded,
    Pool,
    Regress,
    Row,
    Tag,
    TextPair,
    Unpack,
    Vectors,
    classifier,
    language_model,
    matcher,
    tagger,
    through,
)
from pipeline.data.kinds import Kind
from pipeline_recurrent import GRU, LSTM, RNN
from support.untyped import as_any, seed

TOKENS: Final = 9


@attrs.frozen(eq=False)
class Event(Fields):
    """A code and two numbers per step."""

    code: Ids
    amount: Vectors


@attrs.frozen(eq=False)
class Word(Fields):
    """A word and its letters."""

    word: Ids
    letters: Nested[Ids]


def _spell() -> EachStep[Ids]:
    return EachStep(Embed(TOKENS, 3) >> Encode("bilstm", hidden_size=2) >> Pool("final"))


def _embed_event() -> EmbedFields[Event]:
    return EmbedFields(Event, code=through(Embed(TOKENS, 4)), amount=through(Identity(2)))


MODELS: Final[Mapping[str, tuple[Callable[[], Chain[Padded[Kind], object]], type[Kind]]]] = {
    "classifier": (lambda: as_any(classifier(TOKENS, Labels(["a", "b"]), embedding_dim=4, hidden_size=3)), Ids),
    "attention pool": (
        lambda: as_any(classifier(TOKENS, 3, embedding_dim=4, hidden_size=3, encoder="lstm", pooling="attention")),
        Ids,
    ),
    "tagger": (lambda: as_any(tagger(TOKENS, 3, embedding_dim=4, hidden_size=3, encoder="bigru")), Ids),
    "language model": (lambda: as_any(language_model(TOKENS, embedding_dim=4, hidden_size=4, tied=True)), Ids),
    "additive language model": (
        lambda: as_any(language_model(TOKENS, embedding_dim=4, hidden_size=3, encoder="gru", attention="additive")),
        Ids,
    ),
    "matcher": (lambda: as_any(matcher(TOKENS, 3, embedding_dim=4, hidden_size=3, pooling="mean")), TextPair),
    "heads": (
        lambda: as_any(
            Pack()
            >> Embed(TOKENS, 4)
            >> Encode(RNN(4, 3, bidirectional=True))
            >> Heads(
                Tag(3), Pool("last") >> Classify(2), Pool("first") >> Regress(), Pool("sum") >> ClassifyMultiLabel(3)
            )
        ),
        Ids,
    ),
    "fields": (
        lambda: as_any(_embed_event() >> Encode(LSTM(6, 3)) >> Attend("general") >> Pool("max") >> Regress(2)),
        Event,
    ),
    "letters": (
        lambda: as_any(
            Pack(Word)
            >> Join(Word.word >> Embed(TOKENS, 2), Word.letters >> _spell())
            >> Encode("gru", hidden_size=3)
            >> AttendEarlier("scaled_dot", window=2)
            >> Unpack()
            >> Encode(LSTM(3, 4, num_layers=2, bidirectional=True, layer_norm=True, residual=True), Hidden, name="top")
            >> Pool("final")
            >> Classify(2)
        ),
        Word,
    ),
    "features": (
        lambda: as_any(
            Encode(GRU(3, 4, num_layers=2, bias=False, bidirectional=True, merge="max", residual=True))
            >> Pool("final")
            >> Classify(2)
        ),
        Vectors,
    ),
}
"""Each model with the kind of its rows."""


def make_model(name: str) -> Chain[Padded[Kind], object]:
    """Return a model, always with the same weights."""
    seed(0)
    return MODELS[name][0]()


def draw_batch(name: str, lengths: Sequence[int], draw: int = 0) -> Padded[Kind]:
    """Return random rows of these lengths for a model, in a rectangle two steps wider than the longest."""
    generator = torch.Generator().manual_seed(draw)
    kind = MODELS[name][1]
    rows = [Row(_draw_sequence(kind, length, generator), row_id=row) for row, length in enumerate(lengths)]
    batch: Padded[Kind] = as_any(Pad)(kind, multiple_of=max(lengths) + 2)(rows)
    return batch


def _draw_sequence(kind: type[Kind], length: int, generator: torch.Generator) -> Kind:
    ids = torch.randint(0, TOKENS, (length,), generator=generator)
    if kind is Event:
        return Event(Ids(ids), Vectors(torch.randn(length, 2, generator=generator)))
    if kind is TextPair:
        other = torch.randint(0, TOKENS, (max(0, 5 - length),), generator=generator)
        return TextPair(Ids(ids), Ids(other))
    if kind is Word:
        counts = torch.randint(0, 4, (length,), generator=generator)
        letters = torch.randint(0, TOKENS, (int(counts.sum()),), generator=generator)
        return Word(Ids(ids), Nested(Ids(letters), counts))
    return Ids(ids) if kind is Ids else Vectors(torch.randn(length, 3, generator=generator))
