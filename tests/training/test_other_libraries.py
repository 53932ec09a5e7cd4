"""The recipes for Accelerate, Lightning and transformers, as the page has them, train to the weights of `fit`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from pipeline.batching import Budget
from pipeline.loading import Loader, PlannedBatches, RowDataset
from support.documented import make_names, run_recipe, run_recipe_on_cpu
from support.needs import needs
from support.ranked import run_on_ranks
from support.trainable import copy_weights, train_on
from support.untyped import as_any

pytestmark = pytest.mark.filterwarnings("ignore")


def fit(**options: Any) -> dict[str, torch.Tensor]:
    """Return the weights of `fit`, with its default optimizer."""
    names = make_names()
    names["pipe"].fit(names["train"], epochs=3, progress=False, **options)
    return copy_weights(names["pipe"])


def check(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    """Compare weights that were trained by different kernels of AdamW."""
    assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    start = copy_weights(make_names()["pipe"])
    assert max(float((start[name] - wanted[name]).abs().max()) for name in wanted) > 0.005


def test_a_loop_of_your_own() -> None:
    """The block that every reader runs."""
    check(run_recipe("A loop of your own"), fit())


@needs("accelerate")
def test_accelerate() -> None:
    """In one process."""
    check(run_recipe("Accelerate"), fit())


@needs("accelerate")
def test_accelerate_on_two_ranks(tmp_path: Path) -> None:
    """Both have the weights of one process that trains on the rows of both."""
    found = run_on_ranks(run_recipe_on_cpu, 2, tmp_path, "Accelerate")
    names = make_names()
    lengths = [len(example.input.split()) for example in names["train"]]
    loaders = [
        Loader(
            RowDataset(names["train"], as_any(names["tokenize"])),
            PlannedBatches(lengths, Budget(64), rank=rank, world_size=2),
            names["Pad"](labels=names["labels"]),
        )
        for rank in range(2)
    ]
    train_on(names["pipe"], [list(batches) for _ in range(3) for batches in zip(*loaders, strict=True)])
    for weights in found:
        check(weights, copy_weights(names["pipe"]))


@needs("lightning")
def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a schedule, and checkpoints where the program runs; then the pipe is saved."""
    monkeypatch.chdir(tmp_path)
    check(run_recipe("Lightning"), fit(schedule="cosine", warmup=0.1))
    assert (tmp_path / "sentiment" / "manifest.json").exists()


@needs("transformers", "accelerate")
def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With planned batches instead of the trainer's."""
    monkeypatch.chdir(tmp_path)
    check(run_recipe("transformers"), fit())
