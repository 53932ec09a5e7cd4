"""Every whole model, and its variants."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from court.libraries.ours.inputs import COUNT, DOCUMENTS, IDS, PAIRS, SIZE, SPELLED_WORDS, Inputs
from court.libraries.ours.model import Part
from pipeline import models
from pipeline_embeddings import CharacterCNN, CharacterLSTM

_SIZES: Final[Mapping[str, Any]] = {"embedding_dim": SIZE, "hidden_size": SIZE}

_INPUTS: Final[Mapping[str, Inputs]] = {
    "character_tagger": SPELLED_WORDS,
    "classifier": IDS,
    "document_classifier": DOCUMENTS,
    "language_model": IDS,
    "matcher": PAIRS,
    "tagger": IDS,
}

_PER_STEP: Final = ("character_tagger", "language_model", "tagger")

_VARIANTS: Final[Mapping[str, Sequence[Mapping[str, Any]]]] = {
    "character_tagger": [{}, {"head": "crf", "num_layers": 2}, {"characters": "cnn", "encoder": "cnn"}],
    "classifier": [
        {},
        {"attention": "scaled_dot"},
        {"encoder": "transformer", "pooling": "attention"},
        {"encoder": "lstm", "pooling": "final"},
    ],
    "document_classifier": [{}, {"attention": "additive", "encoder": "gated_cnn"}],
    "language_model": [
        {},
        {"attention": None, "tied": True},
        {"encoder": "causal_transformer", "attention": None},
        {"attention": "additive", "output": "key_value_predict", "hidden_size": 6},
    ],
    "matcher": [{}, {"shared": False, "attention": "general"}],
    "tagger": [{}, {"head": "crf"}, {"attention": "multi_head"}, {"encoder": "min_gru"}],
}
"""The options of each model, besides sizes."""


def list_models() -> Sequence[Part]:
    """Return a part per model and variant.

    Raises:
        KeyError: if a model is public, and not listed here.
    """
    return [_judge(name, options) for name in models.__all__ for options in _VARIANTS[name]]


def _judge(name: str, options: Mapping[str, Any]) -> Part:
    said = ", ".join(f"{option}={value!r}" for option, value in options.items())
    return Part(
        name=f"{name}({said.replace(chr(39), chr(34))})",
        make=lambda: _make(name, options),
        each="step" if name in _PER_STEP else "row",
        inputs=_INPUTS[name],
        causal=name == "language_model",
    )


def _make(name: str, options: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a model of any kind of rows
    chosen = {**_SIZES, **options}
    sizes: tuple[int, ...] = (COUNT, 3)
    if name == "language_model":
        sizes = (COUNT,)
    if name == "character_tagger":
        sizes = (COUNT, COUNT, 3)
        # Small embedders of characters, instead of those that the options name, which have the sizes of their papers.
        chosen["characters"] = (
            CharacterCNN(COUNT, embedding_dim=SIZE, filters=SIZE)
            if chosen.get("characters") == "cnn"
            else CharacterLSTM(COUNT, embedding_dim=SIZE, hidden_size=SIZE)
        )
    make: Any = getattr(models, name)
    return make(*sizes, **chosen)
