"""`pipeline.plan`: compare policies before training."""

from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Final, TypedDict, final

import attrs
import numpy.typing as npt
from typing_extensions import override

from pipeline.batching.analysis import measure_repeated_batchmates
from pipeline.batching.lengths import Lengths
from pipeline.batching.plan import Plan
from pipeline.batching.policies import Policy, TooLong
from pipeline.checks.options import check_int
from pipeline.errors import OptionError, PipelineError
from pipeline.forecast.histogram import Histogram
from pipeline.forecast.memory import Memory, Model, measure_memory
from pipeline.forecast.picture import draw_forecast
from pipeline.forecast.policies import name_policies, suggest_policies
from pipeline.forecast.policy_forecast import PolicyForecast, PolicyForecastRecord, Shape
from pipeline.forecast.sampling import sample_batches
from pipeline.tables import Column, ShownAsTable, Table

_HEADINGS: Final = (
    "padding",
    "batches per rank",
    "rows per batch",
    "largest batch",
    "correlation",
    "repeated batchmates",
    "peak memory",
)

_EXPLANATIONS: Final = (
    "padding: share of the padded steps. rows per batch: quartiles. largest batch: rows x steps.",
    "correlation: of the mean lengths of a rank's adjacent batches; 0 is random.",
    "repeated batchmates: share of the pairs of rows of a batch that share a batch in the next epoch too.",
)


class ForecastRecord(TypedDict):
    """A `Forecast` for JSON.

    Attributes:
        schema: 1; it changes when a field changes its meaning or is removed, not when a field is added.
        rows: the number of rows.
        steps: the number of steps of all rows.
        longest: the length of the longest row.
        world_size: the number of ranks.
        policies: the forecast of each policy.
    """

    schema: int
    rows: int
    steps: int
    longest: int
    world_size: int
    policies: list[PolicyForecastRecord]


@final
@attrs.frozen(repr=False)
class Forecast(ShownAsTable):
    """Forecast of an epoch under several policies; shown as a table when printed, and in notebooks.

    Attributes:
        histogram: the number of rows of each length.
        policies: the forecast of each policy by its name, in the given order.
        world_size: the number of ranks.

    Example:
        >>> from pipeline import plan
        >>> from pipeline.batching import Budget, Rows
        >>> print(plan([3, 5, 5, 9, 12, 40], [Rows(2), Budget(80)]))
        6 rows of 3 to 40 steps, 74 in total; 1 rank
        policy      padding  batches per rank  rows per batch  largest batch  correlation  repeated batchmates
        Rows(2)       31.5%                 3       2 · 2 · 2    2 x 40 = 80        ...
        Budget(80)    36.2%                 2       2 · 3 · 4    2 x 40 = 80        +0.00               100.0%
        padding: share of the padded steps. rows per batch: quartiles. largest batch: rows x steps.
        ...
    """

    histogram: Histogram = attrs.field(eq=False)
    policies: Mapping[str, PolicyForecast]
    world_size: int = 1

    def __getitem__(self, name: str) -> PolicyForecast:
        if name not in self.policies:
            msg = f"name must be the name of a policy, got {name!r}; the policies are {', '.join(self.policies)}."
            raise OptionError(msg, name=name)
        return self.policies[name]

    def best(self) -> PolicyForecast:
        """Return the forecast with the least padding."""
        possible = [forecast for forecast in self.policies.values() if forecast.problem is None]
        return min(possible, key=lambda forecast: forecast.report.wasted)

    def to_dict(self) -> ForecastRecord:
        """Return the figures as a dictionary for JSON."""
        return {
            "schema": 1,
            "rows": self.histogram.rows,
            "steps": self.histogram.steps,
            "longest": self.histogram.longest,
            "world_size": self.world_size,
            "policies": [forecast.to_dict(name) for name, forecast in self.policies.items()],
        }

    def picture(self, path: str | PathLike[str]) -> Path:
        """Draw the histogram, and below it each policy's batches: their widths and their padding.

        Needs matplotlib: `pip install 'ragged-pipeline[plots]'`.

        Args:
            path: the file to write; its suffix determines the format: `.svg`, `.png` or `.pdf`.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            OptionError: for another suffix.
        """
        return draw_forecast(self.histogram, self.policies, Path(path))

    @override
    def __repr__(self) -> str:
        return str(self)

    @override
    def table(self) -> Table:
        """Return the figures as a table with one row per policy."""
        with_memory = any(forecast.memory is not None for forecast in self.policies.values())
        # The memory is in the last column, which is left out if no model was given.
        headings = _HEADINGS if with_memory else _HEADINGS[:-1]
        columns = [Column("policy"), *(Column(heading, "right") for heading in headings)]
        rows = [[name, *_format(forecast)[: len(headings)]] for name, forecast in self.policies.items()]
        shortest = int(self.histogram.lengths[0]) if self.histogram.rows else 0
        title = (
            f"{self.histogram.rows:,} rows of {shortest:,} to {self.histogram.longest:,} steps, "
            f"{self.histogram.steps:,} in total; {self.world_size:,} {'rank' if self.world_size == 1 else 'ranks'}"
        )
        return Table(columns, rows, title=title, notes=list(self._list_notes()))

    def _list_notes(self) -> Iterator[str]:
        forecasts = self.policies.values()
        yield from _EXPLANATIONS
        if any(not forecast.exact for forecast in forecasts):
            yield "From a histogram: exact if all rows are one pool, else estimated from pools drawn at random."
        methods = {forecast.memory.method for forecast in forecasts if forecast.memory is not None}
        yield from (f"peak memory: {method}." for method in sorted(methods))
        for name, forecast in self.policies.items():
            if forecast.problem is not None:
                yield f"{name}: {forecast.problem}"


def _format(forecast: PolicyForecast) -> list[str]:
    """Return the cells of a policy under `_HEADINGS`."""
    if forecast.problem is not None:
        return ["-"] * len(_HEADINGS)
    rows, *steps = forecast.largest
    return [
        f"{forecast.report.wasted:.1%}",
        f"{forecast.batches_per_rank:,}",
        " · ".join(f"{quartile:,.0f}" for quartile in forecast.rows_per_batch),
        f"{rows:,} x {' + '.join(f'{number:,}' for number in steps)} = {rows * sum(steps):,}",
        f"{forecast.correlation:+.2f}",
        f"{forecast.repeated_batchmates:.1%}",
        "-" if forecast.memory is None else str(forecast.memory),
    ]


def plan(
    lengths: npt.ArrayLike | Histogram | Mapping[int, int],
    policies: int | Policy | Sequence[Policy] | Mapping[str, Policy] = 4_096,
    *,
    rows: int | None = None,
    too_long: TooLong = "raise",
    world_size: int = 1,
    seed: int = 0,
    model: Model | None = None,
) -> Forecast:
    """Forecast an epoch under several policies: padding, batches, the largest batch, memory, randomness.

    From lengths, the figures are exact: they are those of the plans of two epochs. From a histogram, they are exact for
    policies that sort all rows together, except for randomness; for other policies, they are estimated from pools of
    rows drawn at random. For a hundred million rows, use `Histogram.of(lengths)`: the lengths are read once, and each
    forecast takes about a second.

    Args:
        lengths: the number of steps of each row, of shape (rows,); or of its source and target, of shape (rows, 2); or
            a histogram, or a mapping from lengths to numbers of rows.
        policies: the policies to compare; a mapping gives them names. A number is a budget of padded steps, for which
            every kind of policy is compared: those of `suggest_policies`.
        rows: with a budget, the maximum number of rows per batch; None for no limit but the budget.
        too_long: with a budget, what to do with rows that exceed it.
        world_size: the number of ranks.
        seed: the seed of the plans.
        model: the model to train, to measure the peak memory of a training step of the largest batch. It takes padded
            batches on its own device, and is left as it was.

    Raises:
        OptionError: for an option out of range.
        LengthError: if no policy has room for some row. If only some policies do not, the table says so.
        ShapeError: if `lengths` are not lengths.

    Example:
        >>> forecast = plan([3, 5, 5, 9, 12, 40], 80)
        >>> [policy.batches_per_rank for policy in forecast.policies.values()]
        [3, 2, 2, 5, 2]
        >>> forecast["Budget(80)"].report.wasted < forecast["Rows(2)"].report.wasted
        False
    """
    check_int("world_size", world_size, minimum=1)
    check_int("seed", seed, minimum=0)
    # `exact` has the length of each row. It is None for a histogram, from which batches are sampled.
    exact, histogram = _count_lengths(lengths)
    if isinstance(policies, int):
        max_padded_steps = check_int("max_padded_steps", policies, minimum=1)
        named = name_policies(suggest_policies(histogram, max_padded_steps, rows=rows, too_long=too_long))
    else:
        if rows is not None or too_long != "raise":
            msg = "rows and too_long are options of a budget, but policies were given; set them in each policy."
            raise OptionError(msg, rows=rows, too_long=too_long)
        named = name_policies(policies)
    if not named:
        raise OptionError(
            "policies must hold at least one policy, got none; give policies, or a budget of padded steps."
        )
    forecasts: dict[str, PolicyForecast] = {}
    for name, policy in named.items():
        try:
            if exact is None:
                forecasts[name] = _forecast_histogram(histogram, policy, world_size, seed)
            else:
                forecasts[name] = _forecast_plan(exact, policy, world_size, seed)
        except PipelineError as error:
            forecasts[name] = PolicyForecast(policy, world_size=world_size, problem=error)
    problems = [forecast.problem for forecast in forecasts.values() if forecast.problem is not None]
    # If no policy can make batches, raise the error: a table without figures would hide it.
    if len(problems) == len(forecasts):
        raise problems[0]
    if model is not None:
        forecasts = _add_memory(forecasts, model)
    return Forecast(histogram, forecasts, world_size)


def _count_lengths(lengths: npt.ArrayLike | Histogram | Mapping[int, int]) -> tuple[Lengths | None, Histogram]:
    """Return the lengths of the rows, if they are given, and their histogram."""
    if isinstance(lengths, Histogram):
        return None, lengths
    if isinstance(lengths, Mapping):
        return None, Histogram.from_counts(lengths)
    checked = Lengths.of(lengths)
    return checked, Histogram.from_lengths(checked)


def _forecast_plan(lengths: Lengths, policy: Policy, world_size: int, seed: int) -> PolicyForecast:
    first, second = (Plan.of(lengths.values, policy, seed=seed, epoch=epoch, world_size=world_size) for epoch in (0, 1))
    repeated = measure_repeated_batchmates(first, second)
    return attrs.evolve(PolicyForecast.of(policy, first, world_size), repeated_batchmates=repeated)


def _forecast_histogram(histogram: Histogram, policy: Policy, world_size: int, seed: int) -> PolicyForecast:
    sample = sample_batches(histogram, policy, world_size, seed)
    # Ranks need a multiple of `world_size` batches. A sample of the pools may lack it, and so may single rows, which
    # cannot be halved.
    ranks = world_size if sample.complete and len(sample.batches) % world_size == 0 else 1
    total = None if sample.complete else sample.rows
    forecast = PolicyForecast.of(policy, sample.to_plan(ranks, seed), world_size, total=total)
    return attrs.evolve(forecast, repeated_batchmates=sample.repeated_batchmates, exact=False)


def _add_memory(forecasts: Mapping[str, PolicyForecast], model: Model) -> dict[str, PolicyForecast]:
    """Measure the memory of each policy's extreme batches, each shape once, and keep the largest.

    Which of the three extremes needs most memory depends on the model: attention needs memory in the square of the
    width, a large vocabulary in rows times steps.
    """
    measured: dict[Shape, Memory] = {}
    for shape in (shape for forecast in forecasts.values() for shape in forecast.extreme_shapes):
        if len(shape) != 2:
            msg = (
                "model needs one length per row, because its batches hold one sequence per row, got two lengths per "
                "row; leave model out, or forecast source and target each by itself."
            )
            raise OptionError(msg)
        if shape not in measured:
            measured[shape] = measure_memory(model, *shape)
    return {
        name: attrs.evolve(
            forecast, memory=max((measured[shape] for shape in forecast.extreme_shapes), key=_get_peak, default=None)
        )
        for name, forecast in forecasts.items()
    }


def _get_peak(memory: Memory) -> float:
    return float("inf") if memory.peak is None else memory.peak
