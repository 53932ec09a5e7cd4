"""What is measured at once: a layer, a batch, and how many threads."""

from typing import Literal, TypeAlias

import attrs

from bench.encoders.lengths import Lengths
from bench.record.finding import Trait
from bench.timing.threads import Threads

Cell: TypeAlias = Literal["LSTM", "GRU"]


@attrs.frozen
class Point:
    """A stack of recurrent layers over one batch.

    Attributes:
        cell: what is computed at a step.
        learning: a step of training, or of inference.
        lengths: how long rows are.
        rows: how many there are.
        features: of a step that comes in.
        hidden: of a state, a direction.
        both: whether rows are read from both ends.
        layers: how many are stacked.
        threads: how many torch works with.
        strangers: whether runtimes other than torch are measured too.

    Example:
        >>> str(Point("LSTM", True, "~20", rows=64, features=300, hidden=256))
        'BiLSTM training, 64 rows of ~20 steps, 300 to h256, all threads'
    """

    cell: Cell
    learning: bool
    lengths: Lengths
    rows: int
    features: int
    hidden: int
    both: bool = True
    layers: int = 1
    threads: Threads = "all"
    strangers: bool = False

    def __str__(self) -> str:
        what = f"{'Bi' if self.both else ''}{self.cell} {'training' if self.learning else 'inference'}"
        rows = f"1 row of {self.lengths} steps" if self.rows == 1 else f"{self.rows} rows of {self.lengths} steps"
        stack = "" if self.layers == 1 else f", {self.layers} layers"
        threads = f"{self.threads} thread{'s' if self.threads == 'all' else ''}"
        return f"{what}, {rows}, {self.features} to h{self.hidden}{stack}, {threads}"

    @property
    def traits(self) -> dict[str, Trait]:
        """The sizes by name."""
        return attrs.asdict(self)

    def operations(self, steps: int) -> float:
        """Those of the products over so many real steps: once forward, and in training twice that backward."""
        gates, directions = (4 if self.cell == "LSTM" else 3), (2 if self.both else 1)
        read = self.features + (self.layers - 1) * directions * self.hidden
        once = 2.0 * steps * gates * self.hidden * (read + self.layers * self.hidden) * directions
        return once * (3 if self.learning else 1)
