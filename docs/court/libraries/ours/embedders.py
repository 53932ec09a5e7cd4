"""Every registered embedder."""

from collections.abc import Mapping, Sequence
from typing import Final

from court.libraries.ours.inputs import COUNT, DOCUMENTS, IDS, SIZE, SPELLED_WORDS, VECTORS
from court.libraries.ours.model import Part
from court.libraries.ours.registered import list_names
from pipeline import Dropout, Embed, EmbedFields, Encode, Identity, SpelledWord, through
from pipeline_embeddings import CharacterCNN, CharacterLSTM, EmbedNumbers, Time2Vec
from pipeline_recurrent import MarkRestarts

_NOTHING: Final = Dropout(0.0)
"""Joined to a single stage, so that it is a chain."""

_EMBEDDERS: Final[Mapping[str, Part]] = {
    "embed": Part(name="Embed", make=lambda: Embed(COUNT, SIZE) >> _NOTHING, each="step", inputs=IDS, causal=True),
    "embed_fields": Part(
        name="EmbedFields",
        make=lambda: (
            EmbedFields(
                SpelledWord,
                word=through(Embed(COUNT, SIZE)),
                characters=through(CharacterCNN(COUNT, embedding_dim=SIZE, filters=SIZE)),
            )
            >> _NOTHING
        ),
        each="step",
        inputs=SPELLED_WORDS,
        causal=True,
    ),
    "embed_numbers": Part(
        name='EmbedNumbers(kind="periodic")',
        make=lambda: Identity() >> EmbedNumbers(2, kind="periodic", frequencies=3, input_size=SIZE),
        each="step",
        inputs=VECTORS,
        causal=True,
    ),
    "time2vec": Part(
        name="Time2Vec",
        make=lambda: Identity() >> Time2Vec(2, input_size=SIZE),
        each="step",
        inputs=VECTORS,
        causal=True,
    ),
    "mark_restarts": Part(
        name='MarkRestarts >> Encode("restarting")',
        make=lambda: MarkRestarts(Embed(COUNT, SIZE - 1), at=[2, 5]) >> Encode("restarting", hidden_size=SIZE),
        each="step",
        inputs=IDS,
        causal=True,
    ),
    "character_cnn": Part(
        name="CharacterCNN",
        make=lambda: CharacterCNN(COUNT, embedding_dim=SIZE, filters=SIZE) >> _NOTHING,
        each="step",
        inputs=DOCUMENTS,
        causal=True,
    ),
    "character_lstm": Part(
        name="CharacterLSTM",
        make=lambda: CharacterLSTM(COUNT, embedding_dim=SIZE, hidden_size=SIZE) >> _NOTHING,
        each="step",
        inputs=DOCUMENTS,
        causal=True,
    ),
}


def list_embedders() -> Sequence[Part]:
    """Return a part per registered embedder.

    Raises:
        KeyError: if an embedder is registered and not listed here: each has an input of its own.
    """
    return [_EMBEDDERS[name] for name in list_names("embedders")]
