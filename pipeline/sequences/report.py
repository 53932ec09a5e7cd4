"""How much of a batch is real."""

import attrs


@attrs.frozen
class Report:
    """Real and padded steps of one batch, or of many: reports add up.

    Attributes:
        batches: how many batches were counted.
        rows: how many rows they held.
        steps: how many real steps the rows had.
        padded: how many steps the padded rectangles have, real ones included.

    Example:
        >>> total = Report(1, 8, 45, 64) + Report(1, 2, 10, 10)
        >>> print(total)
        10 rows in 2 batches: 55 real steps, 74 padded, 25.7% of the padded work wasted
        >>> sum([total, total], start=Report()).padded
        148
    """

    batches: int = 0
    rows: int = 0
    steps: int = 0
    padded: int = 0

    @property
    def wasted(self) -> float:
        """The share of the padded steps that are padding: what packing does not compute."""
        return 1 - self.steps / self.padded if self.padded else 0.0

    def __add__(self, other: "Report") -> "Report":
        return Report(
            self.batches + other.batches, self.rows + other.rows, self.steps + other.steps, self.padded + other.padded
        )

    def __str__(self) -> str:
        batches = "1 batch" if self.batches == 1 else f"{self.batches:,} batches"
        return (
            f"{self.rows:,} rows in {batches}: {self.steps:,} real steps, {self.padded:,} padded, "
            f"{self.wasted:.1%} of the padded work wasted"
        )
