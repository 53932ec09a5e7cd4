"""Pipes with their data, to train with `fit` and with other libraries: equal seeds give equal weights."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from pipeline import (
    BPTTWindows,
    Bucket,
    Classify,
    ClassifyMultiLabel,
    Embed,
    Encode,
    Example,
    FromIds,
    Heads,
    Labels,
    MultiLabels,
    NextToken,
    Numbers,
    Pad,
    Pool,
    Regress,
    Shift,
    StreamChain,
    Tag,
)
from pipeline.batching import Budget
from pipeline.core.contexts import seeded
from pipeline.loading import Loader, PlannedBatches, RowDataset
from pipeline.training.adapters import ModelWithLoss
from pipeline.training.optimizers import make_optimizer
from support.untyped import as_any

LABELS = Labels(["no", "yes", "so"])
IDS = 9


@attrs.frozen
class Trainable:
    """A function that makes a pipe, always with the same weights, and its examples."""

    make: Callable[[], StreamChain[Any, Any]]
    examples: Sequence[Example[Any]]


def _make_rows(seed: int, count: int = 41) -> list[list[int]]:
    draw = random.Random(seed)
    return [[draw.randrange(IDS) for _ in range(draw.randint(0, 9))] for _ in range(count)]


def _make_body() -> Any:
    return FromIds() >> Bucket(max_padded_steps=30), Embed(IDS, 4) >> Encode("gru", hidden_size=5)


def _make_classifier() -> Any:
    with seeded(3):
        data, body = _make_body()
        return data >> Pad(labels=LABELS, missing="ignore") >> body >> Pool("max") >> Classify(LABELS)


def _make_tagger() -> Any:
    with seeded(3):
        data, body = _make_body()
        return data >> Pad() >> body >> Tag(3)


def _make_language_model() -> Any:
    with seeded(3):
        body = Embed(IDS, 4) >> Encode("lstm", hidden_size=5, causal=True)
        return FromIds() >> Shift() >> BPTTWindows(rows=4, steps=3) >> Pad() >> body >> NextToken(IDS)


def _make_heads() -> Any:
    with seeded(3):
        data, body = _make_body()
        targets = {"topics": MultiLabels(LABELS), "stars": Numbers()}
        heads = Heads(ClassifyMultiLabel(LABELS), Regress(), names=["topics", "stars"], weights={"stars": 0.3})
        return data >> Pad(targets=targets, missing="ignore") >> body >> Pool("mean") >> heads


_ROWS = _make_rows(1)

TRAINABLE: dict[str, Trainable] = {
    "classifier": Trainable(
        _make_classifier,
        [Example(row, LABELS[sum(row) % 3] if number % 5 else None) for number, row in enumerate(_ROWS)],
    ),
    "tagger": Trainable(_make_tagger, [Example(row, [each % 3 for each in row]) for row in _ROWS]),
    "language model": Trainable(_make_language_model, [Example(row) for row in _ROWS]),
    "heads": Trainable(
        _make_heads,
        [
            Example(
                row, {"topics": {LABELS[each % 3] for each in row[:2]}, "stars": sum(row) / 9 if number % 4 else None}
            )
            for number, row in enumerate(_ROWS)
        ],
    ),
}


def list_batches_of_ranks(world_size: int, epochs: int) -> list[list[Any]]:
    """Return the batches of the classifier on all ranks, for each optimizer step."""
    examples = TRAINABLE["classifier"].examples
    lengths = [len(example.input) for example in examples]
    loaders = [
        Loader(
            RowDataset([*examples], as_any(FromIds())),
            PlannedBatches(lengths, Budget(30), rank=rank, world_size=world_size),
            Pad(labels=LABELS, missing="ignore"),
        )
        for rank in range(world_size)
    ]
    return [list(batches) for _ in range(epochs) for batches in zip(*loaders, strict=True)]


def train_on(pipe: StreamChain[Any, Any], steps: Sequence[Sequence[Any]]) -> None:
    """Train a pipe with the defaults of `fit`, each step on the mean over the targets of several batches."""
    model, parameters = ModelWithLoss(pipe), list(pipe.parameters())
    optimizer = make_optimizer(pipe, "adamw", learning_rate=1e-3, weight_decay=0.01)
    for batches in steps:
        weight = sum(int(batch.metadata.weight) for batch in batches)
        loss = torch.stack([model.predict(batch).loss(over=weight) for batch in batches]).sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        as_any(optimizer).step()


def copy_weights(pipe: torch.nn.Module) -> dict[str, Tensor]:
    """Return copies of the weights by name."""
    return {name: weight.detach().clone() for name, weight in pipe.state_dict().items()}
