"""Counts of rows and of real and padded steps, and of the batches that each engine encoded."""

from collections import Counter
from collections.abc import Mapping

import attrs


@attrs.frozen
class Report:
    """Real and padded steps of one or several batches. Reports can be added.

    Attributes:
        batches: the number of batches.
        rows: the number of rows in them.
        steps: the number of real steps in those rows.
        padded: the number of steps after padding: rows times longest row, added up over batches.
        engines: the number of batches that each engine encoded; only `States.report()` fills it.

    Example:
        >>> total = Report(1, 8, 45, 64) + Report(1, 2, 10, 10)
        >>> print(total)
        10 rows in 2 batches: 55 real steps, 74 padded, 25.7% of the padded work wasted
        >>> sum([total, total], start=Report()).padded
        148
        >>> print(Report(1, 8, 45, 64, {"plain": 1}) + Report(1, 2, 10, 10, {"packed": 1}) + total)
        20 rows in 4 batches: 110 real steps, 148 padded, 25.7% of the padded work wasted; by packed: 1, plain: 1
    """

    batches: int = 0
    rows: int = 0
    steps: int = 0
    padded: int = 0
    engines: Mapping[str, int] = attrs.field(factory=dict[str, int], hash=False)

    @property
    def wasted(self) -> float:
        """The share of padding in the padded steps: the work that packing saves."""
        return 1 - self.steps / self.padded if self.padded else 0.0

    def fields(self) -> dict[str, str]:
        """Return short strings for a progress bar.

        Example:
            >>> Report(1, 8, 45, 64).fields()
            {'rows': '8', 'padding': '29.7%'}
        """
        return {"rows": f"{self.rows:,}", "padding": f"{self.wasted:.1%}"}

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.batches + other.batches,
            self.rows + other.rows,
            self.steps + other.steps,
            self.padded + other.padded,
            dict(Counter(self.engines) + Counter(other.engines)) if self.engines or other.engines else {},
        )

    def __str__(self) -> str:
        batches = "1 batch" if self.batches == 1 else f"{self.batches:,} batches"
        engines = ", ".join(f"{name}: {count:,}" for name, count in sorted(self.engines.items()))
        return (
            f"{self.rows:,} rows in {batches}: {self.steps:,} real steps, {self.padded:,} padded, "
            f"{self.wasted:.1%} of the padded work wasted{f'; by {engines}' if engines else ''}"
        )
