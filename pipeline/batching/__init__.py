"""Which rows make a batch: numbers alone, decided before any row is read."""

from pipeline.batching.cursor import Cursor as Cursor
from pipeline.batching.pieces import Piece as Piece
from pipeline.batching.pieces import Pieces as Pieces
from pipeline.batching.plan import Plan as Plan
from pipeline.batching.policies.boundaries import Boundaries as Boundaries
from pipeline.batching.policies.budget import Budget as Budget
from pipeline.batching.policies.rows import Rows as Rows
from pipeline.batching.policies.shapes import Shapes as Shapes
from pipeline.batching.policy import LongRows as LongRows
from pipeline.batching.policy import Policy as Policy
from pipeline.batching.randomness import Coverage as Coverage
from pipeline.batching.randomness import Randomness as Randomness
from pipeline.batching.ranks import Uneven as Uneven
from pipeline.batching.stream_cursor import StreamCursor as StreamCursor
from pipeline.batching.waste import PaddingOutlier as PaddingOutlier
from pipeline.batching.waste import PaddingReport as PaddingReport
