"""Lightning keeps a `Loader` as it is and its state in checkpoints, and does not split batches twice."""

import random
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipeline import FromIds, Pad
from pipeline.batching import Budget, Plan
from pipeline.loading import Loader, PlannedBatches, RowDataset
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


def test_prediction_takes_every_batch(tmp_path: Path) -> None:
    """Lightning then wraps batch samplers, to record the rows of each batch."""
    model = make_module(tmp_path)

    def get_row_ids(batch: Any) -> Any:
        return batch.metadata.row_ids.tolist()

    model.predict_step = get_row_ids
    assert make_trainer().predict(model, make_stock_loader()) == plan_epochs(0, 1)[0]
