"""What `accelerator.prepare` makes of our loaders, as a rank of several sees it."""

from functools import partial
from importlib import import_module
from typing import Any, cast

from torch.utils.data import DataLoader

from pipeline import FromIds, Ids, Pad, Padded
from pipeline.batching import Budget
from pipeline.errors import OptionError
from pipeline.loading import Loader, PlannedBatches, RowDataset
from support.untyped import listed


def rows(counts: list[int]) -> RowDataset[Any, Ids]:
    """Rows of such lengths."""
    return RowDataset([[place] * count for place, count in enumerate(counts)], FromIds())


def stock(counts: list[int], *, split_by_rank: bool = True) -> "DataLoader[Padded[Ids]]":
    """A stock loader over planned batches."""
    batches = PlannedBatches(counts, Budget(40), seed=3, split_by_rank=split_by_rank)
    return cast("DataLoader[Padded[Ids]]", DataLoader(rows(counts), batch_sampler=batches, collate_fn=Pad()))


def refused(prepare: Any, loader: Any) -> str:
    """What it is refused with."""
    try:
        prepare(loader)
    except (OptionError, ValueError) as error:
        return str(error)
    return ""


def prepared_on_a_rank(counts: list[int], even: bool) -> dict[str, Any]:
    """Two epochs through a prepared loader, and through one of ours; and what is refused."""
    accelerate: Any = import_module("accelerate")
    shared = accelerate.utils.DataLoaderConfiguration(even_batches=even)
    accelerator = accelerate.Accelerator(cpu=True, dataloader_config=shared)
    prepared = accelerator.prepare(stock(counts, split_by_rank=False))
    ours = Loader(rows(counts), PlannedBatches(counts, Budget(40), seed=3), Pad())
    splitting = partial(accelerate.data_loader.prepare_data_loader, split_batches=True)
    return {
        "prepared": [[listed(batch.metadata.places) for batch in prepared] for _ in range(2)],
        "ours": [[listed(batch.metadata.row_ids) for batch in ours] for _ in range(2)],
        "left alone": accelerator.prepare(ours) is ours,
        "twice": refused(accelerator.prepare, stock(counts)),
        "split": refused(splitting, stock(counts, split_by_rank=False)),
    }
