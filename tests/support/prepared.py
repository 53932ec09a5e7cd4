"""Loaders passed to `accelerator.prepare` on one of several ranks."""

from functools import partial
from importlib import import_module
from typing import Any, cast

from torch.utils.data import DataLoader

from pipeline import FromIds, Ids, Pad, Padded
from pipeline.batching import Budget
from pipeline.errors import OptionError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from support.untyped import to_list


def make_rows(counts: list[int]) -> RowDataset[Any, Ids]:
    """Make rows of the given lengths."""
    return RowDataset([[row] * count for row, count in enumerate(counts)], FromIds())


def make_stock_loader(counts: list[int], *, split_by_rank: bool = True) -> "DataLoader[Padded[Ids]]":
    """Make a stock `DataLoader` over planned batches."""
    batches = PlannedBatches(counts, Budget(40), seed=3, split_by_rank=split_by_rank)
    return cast("DataLoader[Padded[Ids]]", DataLoader(make_rows(counts), batch_sampler=batches, collate_fn=Pad()))


def get_rejection(prepare: Any, loader: Any) -> str:
    """Return the message of the error that preparing a loader raises; empty if it raises none."""
    try:
        prepare(loader)
    except (OptionError, ValueError) as error:
        return str(error)
    return ""


def prepare_on_rank(counts: list[int], even: bool) -> dict[str, Any]:
    """Run two epochs of a prepared stock loader and of a `Loader`; return their row ids, and the rejections."""
    accelerate: Any = import_module("accelerate")
    shared = accelerate.utils.DataLoaderConfiguration(even_batches=even)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=shared)
    prepared = accelerator.prepare(make_stock_loader(counts, split_by_rank=False))
    ours = Loader(make_rows(counts), PlannedBatches(counts, Budget(40), seed=3), Pad())
    splitting = partial(accelerate.data_loader.prepare_data_loader, split_batches=True)
    return {
        "prepared": [[to_list(batch.metadata.row_ids) for batch in prepared] for _ in range(2)],
        "ours": [[to_list(batch.metadata.row_ids) for batch in ours] for _ in range(2)],
        "unchanged": accelerator.prepare(ours) is ours,
        "twice": get_rejection(accelerator.prepare, make_stock_loader(counts)),
        "split": get_rejection(splitting, make_stock_loader(counts, split_by_rank=False)),
    }
