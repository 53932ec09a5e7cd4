"""Every registered head, after an encoder."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import attrs
import torch
from torch import Tensor

from court.libraries.ours.inputs import COUNT, IDS, PAIRS, SIZE
from court.libraries.ours.model import Part
from court.libraries.ours.registered import list_names
from pipeline import (
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Heads,
    Join,
    NextToken,
    Pack,
    Padded,
    Pool,
    Regress,
    Tag,
    TextPair,
    Tokenize,
)
from pipeline.data.batches import unpack_values
from pipeline.data.kinds import Kind
from pipeline.extend import BatchMetadata
from pipeline_decoders import MaskedToken, RecurrentDecoder, TransformerDecoder
from pipeline_heads import CRF, AdaptiveNextToken, Contrastive

_CLASSES: Final = 3


def _read_ids() -> Any:  # noqa: ANN401 - a chain of any type
    return Pack() >> Embed(COUNT, SIZE) >> Encode("gru", hidden_size=SIZE)


def _read_both_ways() -> Any:  # noqa: ANN401
    return Pack() >> Embed(COUNT, SIZE) >> Encode("bigru", hidden_size=SIZE)


def _pool_ids() -> Any:  # noqa: ANN401
    return _read_both_ways() >> Pool("max")


def _pool_pairs() -> Any:  # noqa: ANN401
    read = Embed(COUNT, SIZE) >> Encode("bigru", hidden_size=SIZE) >> Pool("max")
    return Pack(TextPair) >> Join(TextPair.first >> read, TextPair.second >> read)


_TARGET: Final = Tokenize.train(["one two three"], bos=True, eos=True)
"""The vocabulary of decoders. A search is short, because what is judged are the scores of given texts."""

_SEARCH: Final[Any] = {"max_new_tokens": 1}


def _add_texts(batch: Padded[Kind]) -> Padded[Kind]:
    """Give each row the same target text."""
    rows = len(batch.lengths)
    text = _TARGET("one two three").sequence.values[1:]
    metadata = BatchMetadata(
        torch.arange(rows), text.expand(rows, -1), target_lengths={"": torch.full((rows,), len(text))}
    )
    return attrs.evolve(batch, metadata=metadata)


def _read_texts(output: Any) -> Tensor:  # noqa: ANN401
    """Return the scores of the tokens of each row's target text, side by side."""
    scores = output.get_scores()
    return unpack_values(scores.values, scores.order, int(scores.lengths.max())).flatten(1)


def _add_classes(batch: Padded[Kind]) -> Padded[Kind]:
    """Let the target of each step be its id, modulo the number of classes."""
    metadata = BatchMetadata(torch.arange(len(batch.lengths)), batch.values % _CLASSES)
    return attrs.evolve(batch, metadata=metadata)


def _read_losses(output: Any) -> Tensor:  # noqa: ANN401
    losses: Tensor = output.loss(reduction="none")
    return losses.unsqueeze(-1)


def _read_log_probabilities(output: Any) -> Tensor:  # noqa: ANN401
    return unpack_values(output.log_softmax(), output.order, output.order.longest)


_TWO_GRAPHS: Final = "an exported decoder is two graphs, which are called in turn; `export` compares their scores"

_TEXTS: Final[Any] = {
    "inputs": IDS,
    "each": "row",
    "prepare": _add_texts,
    "read": _read_texts,
    "export": _TWO_GRAPHS,
}

_NO_GRAPH: Final = "the exported model has the scores of steps; paths and losses are computed outside of its graph"

_HEADS: Final[Mapping[str, Sequence[Part]]] = {
    "classify": [Part(name="Classify", make=lambda: _pool_ids() >> Classify(_CLASSES), each="row", inputs=IDS)],
    "classify_multi_label": [
        Part(
            name="ClassifyMultiLabel",
            make=lambda: _pool_ids() >> ClassifyMultiLabel(_CLASSES),
            each="row",
            inputs=IDS,
        )
    ],
    "regress": [Part(name="Regress", make=lambda: _pool_ids() >> Regress(2), each="row", inputs=IDS)],
    "heads": [
        Part(
            name="Heads",
            make=lambda: _pool_ids() >> Heads(Classify(2), Regress(2), names=["label", "amount"]),
            each="row",
            inputs=IDS,
        )
    ],
    "tag": [Part(name="Tag", make=lambda: _read_both_ways() >> Tag(_CLASSES), each="step", inputs=IDS)],
    "next_token": [
        Part(name="NextToken", make=lambda: _read_ids() >> NextToken(COUNT), each="step", inputs=IDS, causal=True)
    ],
    "adaptive_next_token": [
        Part(
            name="AdaptiveNextToken",
            make=lambda: _read_ids() >> AdaptiveNextToken(COUNT, cutoffs=[3]),
            each="step",
            inputs=IDS,
            causal=True,
        )
    ],
    "masked_token": [
        Part(name="MaskedToken", make=lambda: _read_both_ways() >> MaskedToken(COUNT), each="step", inputs=IDS)
    ],
    "crf": [
        Part(name="CRF", make=lambda: _read_both_ways() >> CRF(_CLASSES), each="step", inputs=IDS),
        Part(
            name="CRF, log-probabilities of classes",
            make=lambda: _read_both_ways() >> CRF(_CLASSES),
            each="step",
            inputs=IDS,
            read=_read_log_probabilities,
            export=_NO_GRAPH,
        ),
        Part(
            name="CRF, loss of rows",
            make=lambda: _read_both_ways() >> CRF(_CLASSES),
            each="row",
            inputs=IDS,
            prepare=_add_classes,
            read=_read_losses,
            export=_NO_GRAPH,
        ),
    ],
    "contrastive": [
        Part(
            name="Contrastive",
            make=lambda: _pool_pairs() >> Contrastive(),
            each="row",
            inputs=PAIRS,
        )
    ],
    "recurrent_decoder": [
        Part(
            name="RecurrentDecoder",
            make=lambda: (
                _read_both_ways() >> RecurrentDecoder(_TARGET, embedding_size=SIZE, hidden_size=SIZE, search=_SEARCH)
            ),
            **_TEXTS,
        )
    ],
    "transformer_decoder": [
        Part(
            name="TransformerDecoder",
            make=lambda: (
                _read_both_ways()
                >> TransformerDecoder(_TARGET, hidden_size=SIZE, num_heads=2, num_layers=1, search=_SEARCH)
            ),
            **_TEXTS,
        )
    ],
}


def list_heads() -> Sequence[Part]:
    """Return the parts of every registered head.

    Raises:
        KeyError: if a head is registered and not listed here: a head needs the stages before it.
    """
    return [part for name in list_names("heads") for part in _HEADS[name]]
