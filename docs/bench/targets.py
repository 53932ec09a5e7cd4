"""Performance targets with the results of a run, and the speedups over torch's packed kernel, as in the README."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import attrs

from bench.encoders.points import Lengths
from bench.measurements import encode, inference
from bench.record import WITH_NATIVE, WITHOUT_NATIVE, Parameter, Record, Result
from bench.report import ReportTable

Compute: TypeAlias = Callable[[Record, str], float | None]
"""Computes the result of a candidate, `WITHOUT_NATIVE` or `WITH_NATIVE`; None if it was not measured."""

Summarize: TypeAlias = Callable[[Iterable[float | None]], float | None]


@attrs.frozen
class Target:
    """A number to reach.

    Attributes:
        name: a description.
        without_native: the goal without the native engine; None if there is no goal.
        with_native: the goal with the native engine; None if there is no goal.
        compute: computes the result.
        lower_is_better: whether the goal is an upper bound.
    """

    name: str
    without_native: float | None
    with_native: float | None
    compute: Compute
    lower_is_better: bool = False

    def make_cells(self, record: Record) -> list[str]:
        """Return the name, and the goal and the result of each candidate."""
        cells = [self.name]
        for goal, candidate in ((self.without_native, WITHOUT_NATIVE), (self.with_native, WITH_NATIVE)):
            result = self.compute(record, candidate)
            found = "not measured" if result is None else f"{result:.2f}"
            if goal is not None and result is not None:
                found += f", {compare_with_goal(result, goal, lower_is_better=self.lower_is_better)}"
            cells += ["" if goal is None else format_goal(goal, lower_is_better=self.lower_is_better), found]
        return cells


def format_goal(goal: float, *, lower_is_better: bool) -> str:
    """Return the bound that a figure must keep."""
    return f"{'<=' if lower_is_better else '>='} {goal:g}"


def compare_with_goal(figure: float, goal: float, *, lower_is_better: bool) -> str:
    """Return "met" or "missed"."""
    return "met" if (figure <= goal if lower_is_better else figure >= goal) else "missed"


def median(numbers: Iterable[float | None]) -> float | None:
    """Return the median of the numbers that are not None; None without any number."""
    found = [number for number in numbers if number is not None]
    return statistics.median(found) if found else None


def lowest(numbers: Iterable[float | None]) -> float | None:
    """Return the lowest of the numbers that are not None; None without any number."""
    return min((number for number in numbers if number is not None), default=None)


def _select_encode(record: Record, *, bucketed: bool = False, **parameters: Parameter) -> list[Result]:
    """Return the results of `encode` with these parameters, on random batches or on bucketed ones."""
    found = record.select("encode", **parameters)
    return [result for result in found if str(result.parameters["lengths"]).endswith("bucketed") == bucketed]


def _compare_with_packed(summarize: Summarize, *, bucketed: bool = False, **parameters: Parameter) -> Compute:
    """Divide the packed kernel's time by ours, at the points that have these parameters."""
    return lambda record, candidate: summarize(
        result.median_ratio("packed", candidate) for result in _select_encode(record, bucketed=bucketed, **parameters)
    )


def _compare_with_best(summarize: Summarize) -> Compute:
    """Divide the time of torch's faster exact kernel by ours, in training on random batches."""
    return lambda record, candidate: summarize(
        lowest(result.median_ratio(kernel, candidate) for kernel in ("packed", "dense"))
        for result in _select_encode(record, training=True)
    )


def _compute_peak_share(record: Record, candidate: str) -> float | None:
    # Smaller hidden sizes are left out. Their recurrent products are too small for the peak to be a fair bound.
    results = _select_encode(record, training=True, bidirectional=True)
    return median(result.peak_share(candidate) for result in results if int(result.parameters["hidden"]) >= 256)


def _compute_cost_growth(record: Record, candidate: str) -> float | None:
    """Divide the time per step in rows of 1,024 steps by the time per step in rows of 128 steps."""
    short, long = (_select_encode(record, lengths=f"exactly {steps}") for steps in ("128", "1,024"))
    if not short or not long or candidate not in short[0].times:
        return None
    # The two points ran in different rounds, and not the same number of them, so only their medians can be divided.
    longer, shorter = (results[0].times[candidate].quartiles.median for results in (long, short))
    return longer / shorter * 128 / 1_024


def _compute_memory(record: Record, candidate: str) -> float | None:
    return median(result.memory_ratio(candidate, "packed") for result in _select_encode(record, training=True))


def _compute_precomputed(record: Record, candidate: str) -> float | None:
    return median(result.median_ratio("packed", candidate) for result in record.select("precompute"))


def _compute_epoch(record: Record, candidate: str) -> float | None:
    return median(result.median_ratio("by hand", candidate) for result in record.select("epoch"))


def _compute_attention(record: Record, _: str) -> float | None:
    """Divide the loop's time by ours, for the general score over 512 steps in training."""
    results = record.select("attend", score="general", steps=512, training=True)
    return median(result.median_ratio("loop", "ours") for result in results)


TARGETS: Final[Sequence[Target]] = (
    # Bucketed batches first: these are the numbers to quote. They have no goals, only results.
    *(
        Target(
            f"{'training' if training else 'inference'} on bucketed batches vs. packed, {summarize.__name__}",
            None,
            None,
            _compare_with_packed(summarize, bucketed=True, training=training),
        )
        for training in (True, False)
        for summarize in (median, lowest)
    ),
    Target(
        "training, rows of ~20 steps, vs. packed", 2.8, 4.0, _compare_with_packed(median, training=True, lengths="~20")
    ),
    Target("training vs. the faster of packed and dense, median", None, 3.0, _compare_with_best(median)),
    # 0.97, not 1: where `auto` chooses torch's own kernel it can only be level with it, within the noise.
    Target("training vs. the faster of packed and dense, lowest", 0.97, 0.97, _compare_with_best(lowest)),
    Target("inference vs. packed, 1 thread", None, 1.6, _compare_with_packed(median, training=False, threads="one")),
    Target("inference vs. packed, all threads", None, 2.0, _compare_with_packed(median, training=False, threads="all")),
    Target("inference vs. packed, lowest", 0.97, 0.97, _compare_with_packed(lowest, training=False)),
    Target("inference with precomputed inputs vs. packed", None, 2.3, _compute_precomputed),
    *(
        Target(
            f"LSTM training, rows of ~230 steps, hidden {hidden}, vs. packed",
            without_native,
            with_native,
            _compare_with_packed(median, cell="LSTM", training=True, lengths="~230", hidden=hidden),
        )
        for hidden, without_native, with_native in ((128, 15.0, 35.0), (256, 5.0, 12.0), (512, 3.0, 5.0))
    ),
    Target("share of the matrix peak, bidirectional training, hidden 256 and more", 0.45, 0.65, _compute_peak_share),
    Target("time per step, rows of 1,024 steps vs. rows of 128", 1.3, 1.3, _compute_cost_growth, lower_is_better=True),
    Target("peak memory of a training step vs. packed", 1.1, 1.1, _compute_memory, lower_is_better=True),
    Target("an epoch from texts vs. random batches and packed", 3.0, 4.5, _compute_epoch),
    Target("attention over 512 earlier steps, training, vs. the loop", 20.0, 20.0, _compute_attention),
)

_TARGETS_NOTE: Final = (
    "Medians over the measured points, except where the lowest is stated. Quote the numbers for bucketed batches, on "
    "which `Bucket` and most careful users train, and those against the faster of packed and dense. The large numbers "
    "against packed are mostly due to a defect of torch's packed kernel, whose backward pass takes time quadratic in "
    "the length of the rows."
)


def tabulate_targets(record: Record) -> ReportTable:
    """Make the table of targets; targets without any result are left out."""
    headings = ("target", "goal without native engine", "result", "goal with native engine", "result")
    measured = [
        target
        for target in TARGETS
        if any(target.compute(record, candidate) is not None for candidate in (WITHOUT_NATIVE, WITH_NATIVE))
    ]
    return ReportTable("Targets", headings, [target.make_cells(record) for target in measured], [_TARGETS_NOTE])


_COLUMNS: Final[dict[str, Lengths]] = {
    "batches from `Bucket`, rows of ~20 steps": "~20, bucketed",
    "rows of ~230": "~230, bucketed",
    "random batches, rows of ~20": "~20",
    "rows of ~230, random": "~230",
}
"""Headings, and the lengths of the points in each."""

_ROWS: Final[dict[str, tuple[str, str, bool]]] = {
    "training, float32": ("encode", WITH_NATIVE, True),
    "training, bfloat16": ("bfloat16", encode.OURS_LOW, True),
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
    lengths = _COLUMNS[column]
    results = record.select(measurement, cell="LSTM", bidirectional=True, training=training, lengths=lengths)
    found = [result.median_ratio("packed", candidate) for result in results]
    ratios = sorted(ratio for ratio in found if ratio is not None)
    if not ratios:
        return ""
    low, high = (f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}" for ratio in (ratios[0], ratios[-1]))
    return low if low == high else f"{low} to {high}"
