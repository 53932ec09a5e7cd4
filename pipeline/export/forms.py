"""What every form of export has: graphs, and a comparison of the written ones with the model."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.export.check import Run
from pipeline.export.program import Graph


class GraphSet(ABC):
    """The graphs that a form of export consists of: one, or two for a decoder.

    Attributes:
        graphs: the graphs; the first one reads the rows.
    """

    graphs: Sequence[Graph]

    @abstractmethod
    def compare(self, runs: Sequence[Run], batches: int, tolerance: float) -> float:
        """Return the largest difference between the written graphs and the model.

        Args:
            runs: run the written graphs.
            batches: the number of random batches.
            tolerance: the difference that is allowed, for numbers above 1 relative to them.

        Raises:
            ExportError: if a difference is larger than the tolerance, or a graph fails.
        """

    def describe_search(self, _folder: Path, _file: Path, /) -> Mapping[str, object] | None:
        """Return how the graphs generate texts, and write the tokenizer into a folder; None if they do not."""
        return None
