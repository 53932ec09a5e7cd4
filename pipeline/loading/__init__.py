"""Load planned batches for training: samplers, datasets, and loaders that can be resumed."""

from pipeline.loading.epoch_counter import EpochCounter as EpochCounter
from pipeline.loading.loader import Loader as Loader
from pipeline.loading.rows import CutRows as CutRows
from pipeline.loading.rows import RowDataset as RowDataset
from pipeline.loading.sampler import PlannedBatches as PlannedBatches
from pipeline.loading.stream_dataset import StreamDataset as StreamDataset
from pipeline.loading.stream_loader import StreamLoader as StreamLoader

__all__ = [
    "CutRows",
    "EpochCounter",
    "Loader",
    "PlannedBatches",
    "RowDataset",
    "StreamDataset",
    "StreamLoader",
]
