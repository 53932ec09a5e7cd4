"""Goals on the batches, precisions and requests that users have, and what a run reached: the last table of a run."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Final, TypeAlias, get_args

import attrs

from bench.batching.metric import MEASUREMENT, Metric
from bench.measurements import encode, epoch, inference, models, transformer
from bench.record import WITH_NATIVE, Parameter, Record, Result
from bench.report import ReportTable
from bench.targets import compare_with_goal, format_goal, lowest, median
from bench.timing import Threads
from pipeline.extend import Precision

LOW_PRECISIONS: Final = frozenset(get_args(Precision)) - {"float32"}

Compute: TypeAlias = Callable[[Record], float | None]
"""Computes a figure; None if it was not measured."""


@attrs.frozen
class Speedup:
    """The time of another candidate divided by ours: the median over the points of a measurement.

    Attributes:
        measurement: the name of the measurement.
        slow: the other candidate.
        fast: ours.
        parameters: the parameters that the points have.
        min_hidden: the smallest hidden size of the points.
    """

    measurement: str
    slow: str
    fast: str
    parameters: Mapping[str, Parameter] = attrs.field(factory=dict[str, Parameter])
    min_hidden: int = 0

    def __call__(self, record: Record) -> float | None:
        """Compute the speedup; None if it was not measured."""
        return median(result.median_ratio(self.slow, self.fast) for result in self._select(record))

    def compute_limit(self, record: Record) -> float | None:
        """Compute the speedup of a candidate that takes the time of its matrix products at the matrix peak.

        None if the record has no peak for these points, or ours runs in another precision than the peak, float32. A
        lone row waits for its weights instead.
        """
        if self.fast in LOW_PRECISIONS:
            return None
        shares = [result.peak_share(self.slow) for result in self._select(record) if result.parameters.get("rows") != 1]
        return median(1 / share for share in shares if share is not None)

    def _select(self, record: Record) -> list[Result]:
        found = record.select(self.measurement, **self.parameters)
        return [result for result in found if int(result.parameters.get("hidden", 0)) >= self.min_hidden]


@attrs.frozen
class Goal:
    """A figure to reach.

    Attributes:
        name: a description.
        goal: the figure.
        compute: computes what a run reached.
        lower_is_better: whether the goal is an upper bound.
    """

    name: str
    goal: float
    compute: Compute
    lower_is_better: bool = False

    def make_cells(self, record: Record) -> list[str]:
        """Return the name, the goal, the figure, its limit, and whether the goal was met."""
        found, goal = self.compute(record), format_goal(self.goal, lower_is_better=self.lower_is_better)
        if found is None:
            return [self.name, goal, "", "", "not measured"]
        limit = self.compute.compute_limit(record) if isinstance(self.compute, Speedup) else None
        comparison = compare_with_goal(found, self.goal, lower_is_better=self.lower_is_better)
        return [self.name, goal, f"{found:.3g}", "" if limit is None else f"{limit:.3g}", comparison]


def _train(lengths: str, rows: int, hidden: int) -> Speedup:
    """Divide packed's time by ours in training on bucketed batches, with one thread."""
    sizes: dict[str, Parameter] = {"lengths": f"{lengths}, bucketed", "rows": rows, "hidden": hidden}
    return Speedup("encode", "packed", WITH_NATIVE, {"cell": "LSTM", "training": True, "threads": "one", **sizes})


def _train_transformer(lengths: str, dropout: float) -> Speedup:
    """Divide the time of torch's transformer by ours, with one thread."""
    return Speedup(
        "transformer",
        transformer.TORCH,
        transformer.OURS,
        {"lengths": lengths, "dropout": dropout, "threads": "one"},
    )


def _infer(precision: str, lengths: str) -> Speedup:
    """Divide packed's time by ours in inference on bucketed batches, with one thread."""
    return Speedup("inference", "packed", precision, {"threads": "one", "lengths": f"{lengths}, bucketed"})


def _compare_paths(fast: str, *, training: bool) -> Speedup:
    """Divide the time of padded paths of a CRF by ours."""
    return Speedup("crf", "padded", fast, {"training": training, "mean_length": 20})


def _compare_int8(record: Record) -> float | None:
    """Divide the time of torch's int8 by ours, at the worst point; 0 if our error is larger than torch's."""
    return lowest(
        result.median_ratio(inference.TORCH_INT8, "int8")
        if result.counts["int8"] <= result.counts[inference.TORCH_INT8]
        else 0.0
        for result in record.select("inference")
    )


def _find_count(measurement: str, name: str, summarize: Callable[[Sequence[float]], float]) -> Compute:
    """Summarize a count over the results of a measurement."""

    def compute(record: Record) -> float | None:
        found = [result.counts[name] for result in record.select(measurement) if name in result.counts]
        return summarize(found) if found else None

    return compute


def _compare_rates(name: str, record: Record) -> float | None:
    """Divide our rate by that of the fastest other implementation, at the worst point of a metric."""
    results = record.select(MEASUREMENT, name=name)
    return lowest(Metric.of(result).compute_result(result) for result in results)


def _divide_row(slow: str, threads: Threads) -> Speedup:
    """Divide another candidate's time by ours in float32, over one row of 20 steps."""
    return Speedup("inference", slow, "float32", {"threads": threads, "lengths": "exactly 20", "hidden": 128})


def _epoch(precision: str) -> Compute:
    """Divide the plain loop's time by that of `fit`, at the worse of the two tasks."""
    return lambda record: lowest(
        result.median_ratio(epoch.PLAIN, precision)
        for task in ("classification", "tagging")
        for result in record.select("users", name=task)
    )


GOALS: Final[Sequence[Goal]] = (
    Goal("auto / the best engine, any batch", 1.03, _find_count("choices", "largest", max), lower_is_better=True),
    Goal("training, bucketed, 32 rows of ~20, hidden 128, 1 thread / packed", 1.4, _train("~20", 32, 128)),
    Goal("training, bucketed, 64 rows of ~20, hidden 256, 1 thread / packed", 1.75, _train("~20", 64, 256)),
    Goal("training, bucketed, 32 rows of ~230, hidden 128, 1 thread / packed", 4.6, _train("~230", 32, 128)),
    Goal("an epoch with fit, float32 / plain loop, lower of two tasks", 1.3, _epoch("float32")),
    Goal("an epoch with fit, bfloat16 / plain loop, lower of two tasks", 1.8, _epoch("bfloat16")),
    Goal(
        "truncated back-propagation over even windows / plain loop",
        1.1,
        Speedup("users", epoch.PLAIN, "float32", {"name": "windows"}),
    ),
    Goal(
        "training in bfloat16 / ours in float32, hidden 256 and more",
        1.6,
        Speedup("bfloat16", encode.OURS, encode.OURS_LOW, min_hidden=256),
    ),
    Goal(
        "training in bfloat16 / ours in float32, hidden 128",
        1.2,
        Speedup("bfloat16", encode.OURS, encode.OURS_LOW, {"hidden": 128}),
    ),
    *(
        Goal(f"inference, bucketed rows of {lengths}, {precision}, 1 thread / packed", goal, _infer(precision, lengths))
        for precision, goal in (("float32", 1.5), ("bfloat16", 2.5), ("int8", 4.0))
        for lengths in ("~20", "~230")
    ),
    Goal("int8 / torch's int8 at equal or smaller error, every point", 1.5, _compare_int8),
    Goal("one row of 20 steps, input 100, hidden 128, 1 thread / packed", 2.5, _divide_row("packed", "one")),
    Goal("one row of 20 steps, input 100, hidden 128, all threads / JAX", 1.5, _divide_row("jax", "all")),
    Goal(
        "whole classifier, one row of 20, checks on / plain torch",
        1.2,
        Speedup("latency", models.PLAIN, "float32", {"steps": 20}),
    ),
    Goal("rows with the same bits in every batch", 1.0, _find_count("invariance", "deterministic, same bits", min)),
    Goal(
        "time of the same bits / without, inference",
        1.05,
        Speedup("invariance", "deterministic", "for_inference"),
        lower_is_better=True,
    ),
    Goal(
        "an epoch of the tagger of words and characters, 1 thread / plain torch",
        1.5,
        Speedup("characters", "by hand", "ours", {"threads": "one"}),
    ),
    Goal("CRF, loss and gradients, 64 rows x ~20: padded / compiled", 3.0, _compare_paths("compiled", training=True)),
    Goal("CRF, loss and gradients, 64 rows x ~20: padded / plain", 1.0, _compare_paths("plain", training=True)),
    Goal("CRF, best paths, 64 rows x ~20: padded / compiled", 3.0, _compare_paths("compiled", training=False)),
    Goal("CRF, best paths, 64 rows x ~20: padded / plain", 1.0, _compare_paths("plain", training=False)),
    *(
        Goal(
            f"transformer, training, {lengths}, dropout {dropout:g} / torch", goal, _train_transformer(lengths, dropout)
        )
        for (dropout, goal), lengths in product(((0.0, 1.15), (0.1, 1.4)), ("~20, bucketed", "~230, bucketed"))
    ),
    *(
        Goal(f"transformer, training, random rows of {lengths} / torch", 2.5, _train_transformer(lengths, 0.0))
        for lengths in ("~20", "~230")
    ),
    Goal("rows out of sampler and collate / fastest other", 1.0, partial(_compare_rates, "rows sampled and collated")),
    Goal("texts tokenized / raw tokenizers", 0.8, partial(_compare_rates, "texts tokenized")),
)

_NOTE: Final = (
    "Speedups: the time of the candidate after the slash, divided by ours; above 1, ours is faster. Medians over the "
    "measured points, unless it says otherwise. Nothing is done for the same bits in training, so it costs nothing. "
    "Limit: the speedup of code that takes only the time of its matrix products at the matrix peak of float32; empty "
    "where the peak was not measured, or does not bound the figure."
)


def tabulate_goals(record: Record) -> ReportTable:
    """Make the table of goals; it has no rows if nothing was measured."""
    rows = [goal.make_cells(record) for goal in GOALS]
    measured = any(cells[-1] != "not measured" for cells in rows)
    return ReportTable("To reach", ("figure", "goal", "reached", "limit", ""), rows if measured else [], [_NOTE])
