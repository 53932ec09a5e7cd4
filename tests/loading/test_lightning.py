"""Lightning keeps a `Loader` as it is and its state in checkpoints, does not split batches twice, and counts rows."""

import random
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from pipeline import Bucket, Classify, Embed, Encode, FromIds, Pad, Pool, Scores
from pipeline.batching import Budget, Plan
from pipeline.loading import Loader, PlannedBatches, RowDataset, StreamDataset, StreamLoader
from support.litmodels import make_module, make_trainer, read_row_ids
from support.needs import needs

pytestmark = [needs("lightning"), pytest.mark.filterwarnings("ignore")]

COUNTS = [random.Random(row).randint(1, 12) for row in range(61)]


def make_rows_and_batches() -> tuple[Any, PlannedBatches]:
    """Make rows of these lengths, and a plan of their batches."""
    rows = RowDataset([[row] * count for row, count in enumerate(COUNTS)], FromIds())
    return rows, PlannedBatches(COUNTS, Budget(40), seed=3)


def make_loader() -> Loader[Any]:
    """Make a `Loader`."""
    return Loader(*make_rows_and_batches(), Pad())


def make_stock_loader() -> Any:
    """Make a stock `DataLoader` over planned batches."""
    rows, batches = make_rows_and_batches()
    return DataLoader(rows, batch_sampler=batches, collate_fn=Pad())


def plan_epochs(rank: int, world_size: int) -> list[list[list[int]]]:
    """Return the row ids of each batch of two epochs of a rank."""
    return [
        [batch.tolist() for batch in Plan.of(COUNTS, Budget(40), seed=3, epoch=epoch, world_size=world_size).rank(rank)]
        for epoch in range(2)
    ]


@pytest.mark.parametrize("kind", ["ours", "stock"])
def test_two_ranks_get_their_own_batches(kind: str, tmp_path: Path) -> None:
    """From a `Loader`, and from a stock `DataLoader` with `use_distributed_sampler=False`."""
    options: dict[str, Any] = {} if kind == "ours" else {"use_distributed_sampler": False}
    trainer = make_trainer(devices=2, strategy="ddp_fork", max_epochs=2, **options)
    trainer.fit(make_module(tmp_path), make_loader() if kind == "ours" else make_stock_loader())
    for rank in range(2):
        assert read_row_ids(tmp_path, rank) == plan_epochs(rank, 2)


def test_lightning_does_not_silently_replace_the_batch_sampler(tmp_path: Path) -> None:
    """Its error names the option to set."""
    with pytest.raises(Exception, match=r"Trainer\(use_distributed_sampler=False\)"):
        make_trainer(devices=2, strategy="ddp_fork", max_epochs=1).fit(make_module(tmp_path), make_stock_loader())


def test_a_checkpoint_within_an_epoch_resumes_exactly(tmp_path: Path) -> None:
    """It holds the state of the loader."""
    (wanted, following) = plan_epochs(0, 1)
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    model = make_module(tmp_path / "before")

    def save(_outputs: Any, _batch: Any, number: int) -> None:
        if number == 4:
            model.trainer.save_checkpoint(tmp_path / "checkpoint")

    model.on_train_batch_end = save
    make_trainer(max_epochs=1).fit(model, make_loader())
    make_trainer(max_epochs=2).fit(make_module(tmp_path / "after"), make_loader(), ckpt_path=tmp_path / "checkpoint")
    assert read_row_ids(tmp_path / "before") == [wanted]
    assert read_row_ids(tmp_path / "after") == [wanted[5:], following]


def make_stream_loader(workers: int) -> StreamLoader[Any]:
    """Make a loader over a stream, which has no length."""
    source = [[row] * count for row, count in enumerate(COUNTS)]
    data = FromIds() >> Bucket(max_padded_steps=40, seed=3) >> Pad()
    return StreamLoader(StreamDataset(source, data), num_workers=workers)


LOADERS: dict[str, Callable[[], Any]] = {
    "Loader": make_loader,
    "Loader 2": lambda: Loader(*make_rows_and_batches(), Pad(), num_workers=2),
    "StreamLoader": lambda: make_stream_loader(0),
    "StreamLoader 2": lambda: make_stream_loader(2),
}


def fit(folder: Path, kind: str, *, estimates: bool, resume: Path | None = None) -> list[list[int]]:
    """Train for two epochs, saving after every step or from a checkpoint; return the row ids of each batch."""
    folder.mkdir()
    model = make_module(folder)
    if estimates:
        configure: Callable[[], Any] = model.configure_optimizers

        def configure_optimizers() -> Any:
            optimizer = configure()
            steps = max(1, int(model.trainer.estimated_stepping_batches))
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

        model.configure_optimizers = configure_optimizers
    if resume is None:

        def save(*_: Any) -> None:
            model.trainer.save_checkpoint(folder / f"step {model.trainer.global_step}")

        model.on_train_batch_end = save
    # Without a length, Lightning estimates the number of steps by `max_steps` alone.
    limit = {"max_steps": 1000} if estimates and kind.startswith("Stream") else {}
    make_trainer(max_epochs=2, **limit).fit(model, LOADERS[kind](), ckpt_path=resume, weights_only=False)
    return [batch for epoch in read_row_ids(folder) for batch in epoch] if (folder / "0").exists() else []


@pytest.mark.parametrize("kind", LOADERS)
@pytest.mark.parametrize("estimates", [False, True], ids=["plain", "OneCycleLR"])
def test_no_row_is_lost_on_resumption(kind: str, estimates: bool, tmp_path: Path) -> None:
    """From any step, the last ones of an epoch included, with `estimated_stepping_batches` and without.

    Lightning takes a batch ahead from loaders without a length, and does not load the states of loaders that it has
    iterated for the estimate.
    """
    wanted = fit(tmp_path / "whole", kind, estimates=estimates)
    first = len(wanted) // 2
    for epoch in (wanted[:first], wanted[first:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(61))
    steps = (1, first - 1, first, first + 1, len(wanted) - 1) if kind in {"Loader", "StreamLoader"} else (2, first + 2)
    for step in steps:
        rest = fit(tmp_path / str(step), kind, estimates=estimates, resume=tmp_path / "whole" / f"step {step}")
        assert rest == wanted[step:]


def test_prediction_takes_every_batch(tmp_path: Path) -> None:
    """Lightning then wraps batch samplers, to record the rows of each batch."""
    model = make_module(tmp_path)

    def get_row_ids(batch: Any) -> Any:
        return batch.metadata.row_ids.tolist()

    model.predict_step = get_row_ids
    assert make_trainer().predict(model, make_stock_loader()) == plan_epochs(0, 1)[0]


@pytest.mark.parametrize("packed", [False, True])
def test_logged_values_are_weighted_by_rows(packed: bool, tmp_path: Path) -> None:
    """Without `batch_size`, and not by steps, which packed values have."""
    model = make_module(tmp_path)

    def log(batch: Any) -> None:
        model.log("rows", float(batch.metadata.rows), on_epoch=True)

    def transfer(batch: Any, *_: object) -> Any:
        return batch.packed() if packed else batch

    model.validation_step, model.transfer_batch_to_device = log, transfer
    trainer = make_trainer()
    trainer.validate(model, make_loader(), verbose=False)
    counts = [len(batch) for batch in plan_epochs(0, 1)[0]]
    mean = sum(count * count for count in counts) / sum(counts)
    assert trainer.callback_metrics["rows"].item() == pytest.approx(mean)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_fabric_runs_a_whole_model(precision: str) -> None:
    """It converts the tensors in batches and scores, and reaches every weight."""
    model: Any = Embed(61, 4) >> Encode("lstm", hidden_size=5) >> Pool("max") >> Classify(2)
    fabric: Any = import_module("lightning.fabric").Fabric(accelerator="cpu", precision=precision)
    wrapped = fabric.setup(model)
    scores = wrapped(next(iter(make_loader())))
    assert isinstance(scores, Scores)
    assert scores.values.dtype is torch.float32
    fabric.backward(scores.values.sum())
    assert all(weight.grad is not None for weight in model.parameters())
