"""A Lightning module that logs the rows it trains on, and trainers without output."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from support.untyped import to_list


def _init(self: Any, folder: Path) -> None:
    self.lightning.__init__(self)
    self.folder = folder
    self.weights = nn.Embedding(13, 2)


def _training_step(self: Any, batch: Any, _: int) -> Any:
    with (self.folder / str(self.global_rank)).open("a") as log:
        log.write(json.dumps([self.current_epoch, to_list(batch.metadata.row_ids)]) + "\n")
    return self.weights(batch.values % 13).square().mean()


def _configure_optimizers(self: Any) -> Any:
    return torch.optim.SGD(self.parameters(), lr=0.1)


def make_module(folder: Path) -> Any:
    """Make a module that writes the epoch and the row ids of each batch to `folder/RANK`."""
    # The class is made here, because this file is imported even if Lightning is not installed.
    base: Any = import_module("lightning").LightningModule
    members = {
        "lightning": base,
        "__init__": _init,
        "training_step": _training_step,
        "configure_optimizers": _configure_optimizers,
    }
    module: Any = type("Module", (base,), members)
    return module(folder)


def make_trainer(**options: Any) -> Any:
    """Make a trainer on the CPU that writes and shows nothing."""
    silent = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return import_module("lightning").Trainer(accelerator="cpu", enable_model_summary=False, **silent, **options)


def read_row_ids(folder: Path, rank: int = 0) -> list[list[list[int]]]:
    """Read the row ids that a rank wrote, of each batch of each epoch."""
    found: dict[int, list[list[int]]] = {}
    for line in (folder / str(rank)).read_text().splitlines():
        epoch, row_ids = json.loads(line)
        found.setdefault(epoch, []).append(row_ids)
    return [found[epoch] for epoch in sorted(found)]
