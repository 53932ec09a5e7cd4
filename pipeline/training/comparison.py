"""The result of a comparison of models: scores with their spread over seeds, seconds per epoch, weights."""

import csv
import math
import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any, Final, final

import attrs
from typing_extensions import override

from pipeline.errors import OptionError
from pipeline.pictures import draw_picture
from pipeline.tables import Column, ShownAsTable, Table
from pipeline.text import escape_control_characters, suggest_name
from pipeline.training.metrics import Monitor

_DOT: Final = "#0072B2"
_BASELINE: Final = "#D55E00"
_BAR: Final = "#999999"
# With an axis that begins at 0, rows as high as this can be read without a gap between them.
_INCHES_PER_MODEL: Final = 0.28


@final
@attrs.frozen
class ComparedModel:
    """One model of a comparison.

    Attributes:
        name: its name.
        scores: the score of each seed, in the order of the seeds; empty if it failed.
        seconds: the mean duration of an epoch, with validation; NaN if it failed, and for a baseline the duration of
            its whole training.
        weights: the number of weights.
        epochs: the best epoch of each seed.
        is_baseline: whether it is the baseline.
        failure: the reason why it could not be trained; empty if it was.

    Example:
        >>> model = ComparedModel("lstm, max", [0.5, 0.75], seconds=1.5, weights=100)
        >>> model.mean, model.lowest, model.highest
        (0.625, 0.5, 0.75)
    """

    name: str
    scores: Sequence[float]
    seconds: float = attrs.field(default=math.nan, kw_only=True)
    weights: int = attrs.field(default=0, kw_only=True)
    epochs: Sequence[int] = attrs.field(default=(), kw_only=True)
    is_baseline: bool = attrs.field(default=False, kw_only=True)
    failure: str = attrs.field(default="", kw_only=True)

    @property
    def mean(self) -> float:
        """The mean score over the seeds; NaN if there is no score."""
        return statistics.fmean(self.scores) if self.scores else math.nan

    @property
    def lowest(self) -> float:
        """The lowest score of a seed; NaN if there is none."""
        return min(self.scores, default=math.nan)

    @property
    def highest(self) -> float:
        """The highest score of a seed; NaN if there is none."""
        return max(self.scores, default=math.nan)

    def to_dict(self) -> dict[str, object]:
        """Return everything for JSON, where NaN is None."""
        numbers = {name: getattr(self, name) for name in ("mean", "lowest", "highest", "seconds")}
        return {
            "name": self.name,
            **{name: None if math.isnan(number) else number for name, number in numbers.items()},
            "weights": self.weights,
            "scores": [None if math.isnan(score) else score for score in self.scores],
            "epochs": list(self.epochs),
            "is_baseline": self.is_baseline,
            "failure": self.failure,
        }


@final
@attrs.frozen
class Comparison(ShownAsTable):
    """Models that were trained on the same data. `print` shows them as a table, the best one first.

    Attributes:
        models: the models, in the order in which they were given; the baseline, if there is one, is the last.
        monitor: the score, and its direction.
        seeds: the seeds with which each model was trained.
        notes: remarks below the table.

    Example:
        >>> models = [
        ...     ComparedModel("gru, max", [0.5, 0.6], seconds=1.5, weights=100),
        ...     ComparedModel("lstm, max", [0.75, 0.5], seconds=2, weights=120),
        ... ]
        >>> comparison = Comparison(models, Monitor("accuracy", higher_is_better=True), seeds=[0, 1])
        >>> comparison.best.name
        'lstm, max'
        >>> print(comparison)
        model      accuracy  lowest  highest  seconds per epoch  weights
        lstm, max    0.6250  0.5000   0.7500                2.0      120
        gru, max     0.5500  0.5000   0.6000                1.5      100
        2 seeds per model
    """

    models: Sequence[ComparedModel]
    monitor: Monitor
    seeds: Sequence[int] = attrs.field(kw_only=True)
    notes: Sequence[str] = attrs.field(default=(), kw_only=True)

    def __len__(self) -> int:
        return len(self.models)

    def __iter__(self) -> Iterator[ComparedModel]:
        return iter(self.models)

    def __getitem__(self, name: str) -> ComparedModel:
        """Return a model by its name.

        Raises:
            OptionError: if there is no such model.
        """
        known = {model.name: model for model in self.models}
        if name not in known:
            msg = f"the comparison has the models {', '.join(known)}, got {name!r}.{suggest_name(name, known)}"
            raise OptionError(msg, model=name)
        return known[name]

    @property
    def ranking(self) -> Sequence[ComparedModel]:
        """The models, the best mean score first, and those that failed last."""
        sign = -1 if self.monitor.higher_is_better else 1
        return sorted(self.models, key=lambda model: (math.isnan(model.mean), sign * model.mean))

    @property
    def best(self) -> ComparedModel:
        """The model with the best mean score.

        Raises:
            OptionError: if no model has a score.
        """
        first = next(iter(self.ranking), None)
        if first is None or math.isnan(first.mean):
            raise OptionError("no model of the comparison has a score, so there is no best one; see their failures.")
        return first

    @override
    def table(self) -> Table:
        """Return a row per model, the best one first."""
        score = self.monitor.name.replace("_", " ")
        headings = (score, "lowest", "highest", "seconds per epoch", "weights")
        columns: list[Column | str] = ["model", *(Column(heading, "right") for heading in headings)]
        rows = [
            [
                f"{model.name} (baseline)" if model.is_baseline else model.name,
                *(_format_score(score) for score in (model.mean, model.lowest, model.highest)),
                "" if model.is_baseline or math.isnan(model.seconds) else f"{model.seconds:,.1f}",
                f"{model.weights:,}" if model.weights else "",
            ]
            for model in self.ranking
        ]
        failures = [f"{model.name} failed: {model.failure}" for model in self.models if model.failure]
        seeds = f"{len(self.seeds)} seeds per model" if len(self.seeds) != 1 else "1 seed per model"
        return Table(columns, rows, notes=[seeds, *self.notes, *failures])

    def to_csv(self, file: str | os.PathLike[str] | None = None) -> str:
        """Return a line per model as CSV, with the score of each seed, and write them to a file if one is given."""
        stream = StringIO(newline="")
        writer = csv.writer(stream, lineterminator="\n")
        seeds = [f"{self.monitor.name} with seed {seed}" for seed in self.seeds]
        writer.writerow(["model", f"mean {self.monitor.name}", *seeds, "seconds_per_epoch", "weights", "failure"])
        for model in self.models:
            # A baseline has one score: it does not depend on the seed.
            scores = [*model.scores, *[math.nan] * (len(seeds) - len(model.scores))]
            numbers = [model.mean, *scores, model.seconds]
            cells = ["" if math.isnan(number) else number for number in numbers]
            writer.writerow([model.name, *cells, model.weights or "", model.failure])
        if file is not None:
            Path(file).write_text(stream.getvalue(), encoding="utf-8")
        return stream.getvalue()

    def to_dict(self) -> Mapping[str, object]:
        """Return everything for JSON."""
        return {
            "models": [model.to_dict() for model in self.models],
            "monitor": attrs.asdict(self.monitor),
            "seeds": list(self.seeds),
            "notes": list(self.notes),
        }

    def plot(self, file: str | os.PathLike[str]) -> Path:
        """Draw the scores with their spread, and beside them the seconds per epoch. Needs the extra `plots`.

        Args:
            file: a path that ends in .svg, .png or .pdf.

        Raises:
            MissingExtraError: if matplotlib is not installed.
            OptionError: for a suffix of another format, or if no model has a score.
        """
        assert self.best is not None
        shown = [model for model in self.ranking if not math.isnan(model.mean)]
        models = [model for model in shown if not model.is_baseline]
        with draw_picture(file, width=8, height=1.2 + _INCHES_PER_MODEL * max(3, len(models))) as figure:
            scores, seconds = figure.subplots(1, 2, sharey=True, width_ratios=[2, 1])
            self._draw_scores(scores, models, [model for model in shown if model.is_baseline])
            _draw_seconds(seconds, models)
        return Path(file)

    def _draw_scores(self, axes: Any, models: Sequence[ComparedModel], baselines: Sequence[ComparedModel]) -> None:  # noqa: ANN401 - matplotlib's
        for row, model in enumerate(models):
            axes.plot([model.lowest, model.highest], [row, row], color=_BAR, linewidth=2, solid_capstyle="round")
            axes.plot(model.scores, [row] * len(model.scores), "o", color=_BAR, markersize=3)
            axes.plot([model.mean], [row], "o", color=_DOT, markersize=6)
        for model in baselines:
            axes.axvline(model.mean, color=_BASELINE, linestyle="--", linewidth=1, label=model.name)
        if baselines:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)
        labels = [escape_control_characters(model.name) for model in models]
        axes.set_yticks(range(len(models)), labels=labels, parse_math=False)
        axes.set_ylim(len(models) - 0.5, -0.5)
        axes.set_xlabel(f"{self.monitor.name.replace('_', ' ')}: mean, and range over seeds")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#eeeeee", zorder=0)


def _draw_seconds(axes: Any, models: Sequence[ComparedModel]) -> None:  # noqa: ANN401 - matplotlib's
    axes.barh(range(len(models)), [model.seconds for model in models], height=0.5, color=_BAR)
    axes.set_xlabel("seconds per epoch")
    axes.spines[["top", "right"]].set_visible(False)


def _format_score(score: float) -> str:
    return "" if math.isnan(score) else f"{score:,.4f}"
