"""Draw a forecast: the histogram of lengths, and each policy's batches below it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.forecast.histogram import Histogram
from pipeline.pictures import draw_picture
from pipeline.text import escape_control_characters

if TYPE_CHECKING:
    from pipeline.forecast.policy_forecast import PolicyForecast

# Colors that readers with red-green blindness can tell apart; from Okabe and Ito 2008, "Color Universal Design",
# https://jfly.uni-koeln.de/color/
_HISTOGRAM_COLOR: Final = "#999999"
_BATCH_COLOR: Final = "#0072B2"
_MEAN_COLOR: Final = "#D55E00"

_BINS: Final = 60

# The ticks of the axis of padding.
_TICKS: Final = (0.0, 0.05, 0.2, 0.5, 1.0)


def draw_forecast(histogram: Histogram, policies: "Mapping[str, PolicyForecast]", path: Path) -> Path:
    """Draw the histogram, and below it one strip per policy with one dot per batch.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        OptionError: for a suffix of another format.
    """
    possible = {name: forecast for name, forecast in policies.items() if forecast.problem is None}
    with draw_picture(path, width=8, height=2.2 + 1.25 * len(possible)) as figure:
        heights = [1.5, *[1.0] * len(possible)]
        grid = figure.subplots(1 + len(possible), 1, sharex=True, height_ratios=heights, squeeze=False)
        for axes in grid.flat:
            axes.spines[["top", "right"]].set_visible(False)
        top, *strips = grid[:, 0]
        _draw_histogram(top, histogram)
        most = max((float(forecast.shown_batches[:, 1].max(initial=0)) for forecast in possible.values()), default=0.0)
        for axes, (name, forecast) in zip(strips, possible.items(), strict=True):
            _draw_batches(axes, escape_control_characters(name), forecast, max(most, _TICKS[1]))
        strips[-1].set_xlabel("above: steps of a row; below: steps to which a batch is padded, one dot per batch")
    return path


def _draw_histogram(axes: Any, histogram: Histogram) -> None:  # noqa: ANN401 - as above
    lengths = np.maximum(histogram.lengths, 1)
    shortest, longest = (int(lengths[0]), int(lengths[-1])) if len(lengths) else (1, 1)
    # A logarithmic axis if some rows are more than ten times as long as the median.
    is_log = longest > 10 * int(np.maximum(histogram.quantiles(2), 1)[0]) if histogram.rows else False
    if is_log:
        edges = np.unique(np.round(np.geomspace(shortest, longest + 1, _BINS)))
    else:
        width = -(-(longest + 1 - shortest) // _BINS)
        edges = np.arange(shortest, longest + 1 + width, width).astype(np.float64)
    rows, _ = np.histogram(lengths, edges, weights=histogram.counts)
    # The mean number of rows per length, so that bars of unequal width can be compared.
    axes.stairs(rows / np.diff(edges), edges - 0.5, fill=True, color=_HISTOGRAM_COLOR)
    _set_length_axis(axes, shortest, longest, is_log=is_log)
    axes.set_ylabel("rows per length")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(_format_number)
    title = f"{histogram.rows:,} rows, {histogram.steps:,} steps: lengths of rows, and padding of batches"
    axes.set_title(title, loc="left", fontsize=10)


def _set_length_axis(axes: Any, shortest: int, longest: int, *, is_log: bool) -> None:  # noqa: ANN401 - as above
    axes.set_xlim(max(shortest - 0.6, 0.45), (longest + 0.5) * (1.04 if is_log else 1.01))
    if is_log:
        axes.set_xscale("log")
        ticks = [digit * 10**power for power in range(len(str(longest))) for digit in (1, 2, 5)]
        axes.set_xticks([tick for tick in ticks if shortest <= tick <= longest])
        axes.minorticks_off()
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(_format_number)


def _draw_batches(axes: Any, name: str, forecast: "PolicyForecast", most: float) -> None:  # noqa: ANN401 - as above
    widths, shares = np.maximum(forecast.shown_batches[:, 0], 1), forecast.shown_batches[:, 1]
    # A square-root scale: most batches have little padding, and a few with much must not flatten them.
    axes.set_yscale("function", functions=(_take_root, np.square))
    axes.set_ylim(0, most * 1.05)
    axes.set_yticks([tick for tick in _TICKS if tick <= most * 1.05])
    axes.yaxis.set_major_formatter(_format_share)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    # Many dots are half transparent, so that a dense region looks darker.
    alpha = 0.35 if len(widths) > _BINS else 0.9
    axes.scatter(widths, shares, s=9, color=_BATCH_COLOR, alpha=alpha, linewidths=0, clip_on=False, rasterized=True)
    axes.axhline(forecast.report.wasted, color=_MEAN_COLOR, linewidth=1.4)
    axes.set_ylabel("padding")
    batches = "batch" if forecast.batches_per_rank == 1 else "batches"
    summary = f"{forecast.report.wasted:.1%} padding in total, {forecast.batches_per_rank:,} {batches} per rank"
    axes.set_title(name, loc="left", fontsize=9, fontweight="bold")
    axes.set_title(summary, loc="right", fontsize=9, color=_MEAN_COLOR)


def _take_root(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.sqrt(np.maximum(share, 0))


def _format_number(value: float, _: object) -> str:
    return f"{value:,.0f}"


def _format_share(value: float, _: object) -> str:
    return f"{value:.0%}"
