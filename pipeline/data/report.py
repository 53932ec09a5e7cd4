"""How much of a batch is real, and what computed on it."""

from collections import Counter
from collections.abc import Mapping

import attrs


@attrs.frozen
class Report:
    """Real and padded steps of one batch, or of many: reports add up.

    Attributes:
        batches: how many batches were counted.
        rows: how many rows they held.
        steps: how many real steps the rows had.
        padded: how many steps the padded rectangles have, real ones included.
        engines: how many batches each engine encoded, where an encoder said so: in what `States.report()` gives.

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
        """The share of the padded steps that are padding: what packing does not compute."""
        return 1 - self.steps / self.padded if self.padded else 0.0

    def fields(self) -> dict[str, str]:
        """What a progress bar has room for, ready to print.

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
            dict(Counter(self.engines) + Counter(other.engines)),
        )

    def __str__(self) -> str:
        batches = "1 batch" if self.batches == 1 else f"{self.batches:,} batches"
        engines = ", ".join(f"{name}: {count:,}" for name, count in sorted(self.engines.items()))
        return (
            f"{self.rows:,} rows in {batches}: {self.steps:,} real steps, {self.padded:,} padded, "
            f"{self.wasted:.1%} of the padded work wasted{f'; by {engines}' if engines else ''}"
        )
