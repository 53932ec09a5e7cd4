"""Lightning: our loader is left as it is, its state goes with a checkpoint, and nothing is dealt out twice."""

import random
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from pipeline import FromIds, Pad
from pipeline.batching import Budget, Plan
from pipeline.loading import Loader, PlannedBatches, RowDataset
from support.litmodels import module, trainer, written
from support.needs import needs

pytestmark = [needs("lightning"), pytest.mark.filterwarnings("ignore")]

COUNTS = [random.Random(place).randint(1, 12) for place in range(61)]


def parts() -> tuple[Any, PlannedBatches]:
    """Rows of such lengths, and batches of them."""
    rows = RowDataset([[place] * count for place, count in enumerate(COUNTS)], FromIds())
    return rows, PlannedBatches(COUNTS, Budget(40), seed=3)


def ours() -> Loader[Any]:
    """A loader of ours."""
    return Loader(*parts(), Pad())


def stock() -> Any:
    """A stock loader over planned batches."""
    rows, batches = parts()
    return DataLoader(rows, batch_sampler=batches, collate_fn=Pad())


def planned(rank: int, world_size: int) -> list[list[list[int]]]:
    """Two epochs of a rank."""
    return [
        [batch.tolist() for batch in Plan.of(COUNTS, Budget(40), seed=3, epoch=epoch, world_size=world_size).rank(rank)]
        for epoch in range(2)
    ]


@pytest.mark.parametrize("made", ["ours", "stock"])
def test_two_ranks_get_their_own_batches(made: str, tmp_path: Path) -> None:
    """Ours as it is; a stock loader, where Lightning is told that its sampler is not to be replaced."""
    options: dict[str, Any] = {} if made == "ours" else {"use_distributed_sampler": False}
    fit = trainer(devices=2, strategy="ddp_fork", max_epochs=2, **options)
    fit.fit(module(tmp_path), ours() if made == "ours" else stock())
    for rank in range(2):
        assert written(tmp_path, rank) == planned(rank, 2)


def test_a_stock_loader_s_batches_are_not_replaced_in_silence(tmp_path: Path) -> None:
    """Lightning says what to tell it."""
    with pytest.raises(Exception, match=r"Trainer\(use_distributed_sampler=False\)"):
        trainer(devices=2, strategy="ddp_fork", max_epochs=1).fit(module(tmp_path), stock())


def test_a_checkpoint_brings_the_very_same_rest(tmp_path: Path) -> None:
    """Taken within an epoch: the loader's state goes with it."""
    (wanted, following) = planned(0, 1)
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    model = module(tmp_path / "before")

    def saving(_outputs: Any, _batch: Any, number: int) -> None:
        if number == 4:
            model.trainer.save_checkpoint(tmp_path / "checkpoint")

    model.on_train_batch_end = saving
    trainer(max_epochs=1).fit(model, ours())
    trainer(max_epochs=2).fit(module(tmp_path / "after"), ours(), ckpt_path=tmp_path / "checkpoint")
    assert written(tmp_path / "before") == [wanted]
    assert written(tmp_path / "after") == [wanted[5:], following]


def test_prediction_takes_every_batch(tmp_path: Path) -> None:
    """Where Lightning wraps batch samplers, to know the rows of each."""
    model = module(tmp_path)

    def places(batch: Any) -> Any:
        return batch.metadata.places.tolist()

    model.predict_step = places
    assert trainer().predict(model, stock()) == planned(0, 1)[0]
