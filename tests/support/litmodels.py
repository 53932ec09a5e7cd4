"""A module of Lightning that writes down which rows it trains on, and trainers that keep still."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from support.untyped import listed


def _begin(self: Any, folder: Path) -> None:
    self.lightning.__init__(self)
    self.folder = folder
    self.weights = nn.Embedding(13, 2)


def _training_step(self: Any, batch: Any, _: int) -> Any:
    with (self.folder / str(self.global_rank)).open("a") as written:
        written.write(json.dumps([self.current_epoch, listed(batch.metadata.places)]) + "\n")
    return self.weights(batch.values % 13).square().mean()


def _configure_optimizers(self: Any) -> Any:
    return torch.optim.SGD(self.parameters(), lr=0.1)


def module(folder: Path) -> Any:
    """A module that writes the epoch and the places of each batch to `folder/RANK`."""
    # Made here, since its base need not be installed where this is imported.
    base: Any = import_module("lightning").LightningModule
    members = {
        "lightning": base,
        "__init__": _begin,
        "training_step": _training_step,
        "configure_optimizers": _configure_optimizers,
    }
    made: Any = type("Module", (base,), members)
    return made(folder)


def trainer(**options: Any) -> Any:
    """A trainer on the CPU that writes nothing and shows nothing."""
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return import_module("lightning").Trainer(accelerator="cpu", enable_model_summary=False, **silent, **options)


def written(folder: Path, rank: int = 0) -> list[list[list[int]]]:
    """What a rank wrote, epoch by epoch."""
    found: dict[int, list[list[int]]] = {}
    for line in (folder / str(rank)).read_text().splitlines():
        epoch, places = json.loads(line)
        found.setdefault(epoch, []).append(places)
    return [found[epoch] for epoch in sorted(found)]
