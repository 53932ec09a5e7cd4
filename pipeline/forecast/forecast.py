"""Policies side by side: what an epoch will be like under each."""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import final

import attrs
from rich.console import Console, ConsoleOptions, RenderResult

from pipeline.errors import OptionError
from pipeline.forecast.histogram import Histogram
from pipeline.forecast.outlook import PolicyForecast
from pipeline.forecast.records import ForecastRecord, record_of
from pipeline.forecast.table import Table


@final
@attrs.frozen(repr=False)
class Forecast:
    """What an epoch will be like under several policies. Printed, a table; in a notebook too.

    Attributes:
        histogram: how many rows have which length.
        outlooks: by the policies' names, in the order in which they were given.
        world_size: how many ranks there are.

    Example:
        >>> from pipeline import plan
        >>> from pipeline.batching import Budget, Rows
        >>> print(plan([3, 5, 5, 9, 12, 40], [Rows(2), Budget(80)]))
        6 rows of 3 to 40 steps, 74 together; 1 rank
        policy      padding  batches a rank  rows a batch  largest batch  correlation  mates again
        Rows(2)       31.5%               3     2 · 2 · 2    2 x 40 = 80        ...
        Budget(80)    36.2%               2     2 · 3 · 4    2 x 40 = 80        +0.00       100.0%
        padding: share of the padded steps. rows a batch: quartiles. largest batch: rows x steps.
        ...
    """

    histogram: Histogram = attrs.field(eq=False)
    outlooks: Mapping[str, PolicyForecast]
    world_size: int = 1

    def __getitem__(self, name: str) -> PolicyForecast:
        if name not in self.outlooks:
            msg = f"no policy is called {name!r}; they are: {', '.join(self.outlooks)}."
            raise OptionError(msg, name=name)
        return self.outlooks[name]

    def best(self) -> PolicyForecast:
        """The outlook of the least padding."""
        able = [outlook for outlook in self.outlooks.values() if outlook.problem is None]
        return min(able, key=lambda outlook: outlook.report.wasted)

    def to_dict(self) -> ForecastRecord:
        """The figures as records, for JSON."""
        return record_of(self.histogram, self.outlooks, self.world_size)

    def picture(self, path: str | PathLike[str]) -> Path:
        """Draw how many rows have which length, and below it each policy's batches: how wide, and how much is padding.

        Needs matplotlib: `pip install 'ragged-pipeline[plots]'`.

        Args:
            path: what to write; its ending says the format: `.svg`, `.png` or `.pdf`.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            OptionError: for another ending.
        """
        # Here and not above: drawing is asked for seldom.
        from pipeline.forecast.picture import draw  # noqa: PLC0415

        return draw(self.histogram, self.outlooks, Path(path))

    def table(self) -> Table:
        """The figures in words, a line a policy."""
        return Table.of(self.histogram, self.outlooks, self.world_size)

    def __str__(self) -> str:
        return self.table().text()

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from self.table().rich()

    def _repr_html_(self) -> str:
        return self.table().html()
