"""Plans at work in training: samplers, rows by number, and loaders that know where they stand."""

from pipeline.loading.cut_rows import CutRows as CutRows
from pipeline.loading.loader import Loader as Loader
from pipeline.loading.rows import RowDataset as RowDataset
from pipeline.loading.sampler import PlannedBatches as PlannedBatches
from pipeline.loading.stream_loader import StreamLoader as StreamLoader
from pipeline.loading.streamed import Streamed as Streamed
from pipeline.loading.tally import EpochCounter as EpochCounter
