"""The speedups over torch's packed kernel in one small table, bucketed batches first: that of the README."""

from collections.abc import Sequence
from typing import Final

from bench.encoders.points import Lengths
from bench.measurements import inference, low_precision
from bench.record import WITH_NATIVE, Record
from bench.report import ReportTable

_COLUMNS: Final[dict[str, Lengths]] = {
    "batches from `Bucket`, rows of ~20 steps": "~20, bucketed",
    "rows of ~230": "~230, bucketed",
    "random batches, rows of ~20": "~20",
    "rows of ~230, random": "~230",
}
"""Headings, and the lengths of the points in each."""

_ROWS: Final[dict[str, tuple[str, str, bool]]] = {
    "training, float32": ("encode", WITH_NATIVE, True),
    "training, bfloat16": ("bfloat16", low_precision.OURS_LOW, True),
    **{f"inference, {precision}": ("inference", precision, False) for precision in inference.PRECISIONS},
}
"""For each row the measurement, the candidate, and whether it is training."""


def tabulate_summary(record: Record) -> ReportTable:
    """Make the table; rows that were not measured are left out."""
    rows = [[name, *cells] for name in _ROWS if any(cells := [_find_range(record, name, each) for each in _COLUMNS])]
    note = "The lowest and the highest median over bidirectional LSTMs of hidden size 128 and more, on 1 and 2 threads."
    return ReportTable("How many times as fast as torch's packed kernel", ("", *_COLUMNS), rows, [note])


def _find_range(record: Record, row: str, column: str) -> str:
    """Return the lowest and the highest speedup at the points of a cell; empty if there are none."""
    measurement, candidate, training = _ROWS[row]
    wanted = {"cell": "LSTM", "bidirectional": True, "training": training, "lengths": _COLUMNS[column]}
    results = [result for result in record.select(measurement) if wanted.items() <= result.parameters.items()]
    ratios: Sequence[float] = sorted(
        ratio.median for result in results if (ratio := result.time_ratio("packed", candidate)) is not None
    )
    if not ratios:
        return ""
    low, high = (f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}" for ratio in (ratios[0], ratios[-1]))
    return low if low == high else f"{low} to {high}"
