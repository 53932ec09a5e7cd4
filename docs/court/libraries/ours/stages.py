"""Every registered stage that computes on batches, other than those that hold an encoder, an attention or a pooling."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from court.libraries.ours.inputs import COUNT, DOCUMENTS, IDS, SIZE
from court.libraries.ours.model import Part
from court.libraries.ours.registered import list_names
from pipeline import (
    Dropout,
    EachStep,
    Embed,
    Encode,
    Identity,
    Ids,
    Join,
    Nested,
    Pack,
    Pool,
    Unpack,
    Vectors,
    WordDropout,
    language_model,
)
from pipeline_attention import NeuralCache
from pipeline_decoders import MaskTokens
from pipeline_embeddings import Positions, Standardize, TimeSinceLast

_ELSEWHERE: Final = "judged with every part that it holds"
_ON_ROWS: Final = "takes single inputs or rows, before there is a batch"

NOT_JUDGED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("attend", "attend_earlier", "attend_local", "cross_attend", "encode", "pool"), _ELSEWHERE),
    **dict.fromkeys(
        (
            "bptt_windows",
            "bucket",
            "from_columns",
            "from_features",
            "from_fields",
            "from_ids",
            "from_nested",
            "pad",
            "shift",
            "spell_words",
            "tokenize",
            "tokenize_document",
            "tokenize_joined",
            "tokenize_pair",
            "tokenize_words",
        ),
        _ON_ROWS,
    ),
    "field": "selects a side or a field of a batch; judged with CrossAttend and Join",
}
"""Stages that are not judged here, and why."""


def _make_cache() -> Any:  # noqa: ANN401 - a chain of any type
    model = language_model(COUNT, embedding_dim=SIZE, hidden_size=SIZE, encoder="gru", attention=None)
    return Pack() >> Unpack(Ids) >> NeuralCache.wrap(model, share=0.3)


_STAGES: Final[Mapping[str, Part]] = {
    "dropout": Part(name="Dropout", make=lambda: Identity() >> Dropout(0.5), each="step", causal=True),
    "each_step": Part(
        name="EachStep",
        make=lambda: (
            Pack(Nested[Ids]) >> EachStep(Embed(COUNT, SIZE) >> Encode("bigru", hidden_size=SIZE) >> Pool("max"))
        ),
        each="step",
        inputs=DOCUMENTS,
        causal=True,
    ),
    "identity": Part(name="Identity", make=lambda: Identity() >> Identity(), each="step", causal=True),
    "join": Part(
        name="Join",
        make=lambda: (
            Identity()
            >> Join(Encode("gru", input_size=SIZE, hidden_size=SIZE), Encode("lru", input_size=SIZE, hidden_size=SIZE))
        ),
        each="step",
        causal=True,
    ),
    "mask_tokens": Part(
        name="MaskTokens",
        make=lambda: MaskTokens(COUNT, mask_id=2, p=0.5) >> Embed(COUNT, SIZE),
        each="step",
        inputs=IDS,
    ),
    "neural_cache": Part(name="NeuralCache", make=_make_cache, each="step", inputs=IDS, causal=True),
    "pack": Part(name="Pack", make=lambda: Pack(Vectors) >> Identity(), each="step", causal=True),
    "positions": Part(name="Positions", make=lambda: Identity() >> Positions(), each="step", causal=True),
    "standardize": Part(
        name="Standardize", make=lambda: Identity() >> Standardize(SIZE, log=True), each="step", causal=True
    ),
    "time_since_last": Part(name="TimeSinceLast", make=lambda: Identity() >> TimeSinceLast(), each="step", causal=True),
    "unpack": Part(name="Unpack", make=lambda: Pack(Vectors) >> Unpack(Vectors), each="step", causal=True),
    "word_dropout": Part(
        name="WordDropout", make=lambda: WordDropout(0.5) >> Embed(COUNT, SIZE), each="step", inputs=IDS, causal=True
    ),
}


def list_stages() -> Sequence[Part]:
    """Return a part per registered stage that computes on batches.

    Raises:
        KeyError: if a stage is registered, and neither listed here nor in `NOT_JUDGED`.
    """
    return [_STAGES[name] for name in list_names("stages") if name not in NOT_JUDGED]
