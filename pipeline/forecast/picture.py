"""A forecast as a picture: how many rows have which length, and each policy's batches."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline.errors import OptionError
from pipeline.forecast.histogram import Histogram
from pipeline.forecast.outlook import PolicyForecast
from pipeline.extras import import_extra
from pipeline.text import plain

_ENDINGS: Final = (".svg", ".png", ".pdf")

# Told apart by readers who see no red or no green too; of Okabe and Ito 2008, "Color Universal Design",
# https://jfly.uni-koeln.de/color/
_ROWS: Final = "#999999"
_BATCHES: Final = "#0072B2"
_MEAN: Final = "#D55E00"

_BINS: Final = 60

_GRID: Final = (0.0, 0.05, 0.2, 0.5, 1.0)
"""The shares that are named."""


def draw(histogram: Histogram, outlooks: Mapping[str, PolicyForecast], path: Path) -> Path:
    """Write the picture: a histogram above, and a strip a policy below, a dot a batch.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        OptionError: for an ending that is no picture's.
    """
    if path.suffix.lower() not in _ENDINGS:
        msg = f"path must end in {', '.join(_ENDINGS)}, but {path.name!r} arrived."
        raise OptionError(msg, path=path)
    figures = import_extra("matplotlib.figure", extra="plots", why="a picture")
    style = import_extra("matplotlib", extra="plots", why="a picture").rc_context
    able = {name: outlook for name, outlook in outlooks.items() if outlook.problem is None}
    # Of the user's own style nothing is taken: a dark one would hide what is drawn here.
    with style({"svg.hashsalt": "pipeline", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = figures.Figure(figsize=(8, 2.2 + 1.25 * len(able)), layout="constrained", facecolor="white")
        heights = [1.5, *[1.0] * len(able)]
        above, *strips = figure.subplots(1 + len(able), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        _lengths(above, histogram)
        top = max((float(outlook.shown[:, 1].max(initial=0)) for outlook in able.values()), default=0.0)
        for axes, (name, outlook) in zip(strips, able.items(), strict=True):
            _batches(axes, plain(name), outlook, max(top, _GRID[1]))
        strips[-1].set_xlabel("above: steps of a row; below: steps that a batch is padded to, a dot a batch")
        _save(figure, path)
    return path


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401 - matplotlib has its type
    kind = path.suffix.lower().removeprefix(".")
    # No date, so that one forecast is one file.
    facts = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        figure.savefig(draft, format=kind, dpi=150, metadata=facts)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _lengths(axes: Any, histogram: Histogram) -> None:  # noqa: ANN401 - as above
    lengths = np.maximum(histogram.lengths, 1)
    shortest, longest = (int(lengths[0]), int(lengths[-1])) if len(lengths) else (1, 1)
    many = longest > 10 * int(np.maximum(histogram.quantiles(2), 1)[0]) if histogram.rows else False
    if many:
        edges = np.unique(np.round(np.geomspace(shortest, longest + 1, _BINS)))
    else:
        width = -(-(longest + 1 - shortest) // _BINS)
        edges = np.arange(shortest, longest + 1 + width, width).astype(np.float64)
    rows, _ = np.histogram(lengths, edges, weights=histogram.counts)
    # As high as there are rows of each length in it: bars of unequal width compare.
    axes.stairs(rows / np.diff(edges), edges - 0.5, fill=True, color=_ROWS)
    _scale(axes, shortest, longest, many=many)
    axes.set_ylabel("rows of a length")
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter(_grouped)
    title = f"{histogram.rows:,} rows, {histogram.steps:,} steps: how long rows are, and how much of a batch is padding"
    axes.set_title(title, loc="left", fontsize=10)


def _scale(axes: Any, shortest: int, longest: int, *, many: bool) -> None:  # noqa: ANN401 - as above
    """The axis of lengths: each ten times longer as wide as the last, where they are of many magnitudes."""
    axes.set_xlim(max(shortest - 0.6, 0.45), (longest + 0.5) * (1.04 if many else 1.01))
    if many:
        axes.set_xscale("log")
        ticks = [digit * 10**power for power in range(len(str(longest))) for digit in (1, 2, 5)]
        axes.set_xticks([tick for tick in ticks if shortest <= tick <= longest])
        axes.minorticks_off()
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
    axes.xaxis.set_major_formatter(_grouped)


def _batches(axes: Any, name: str, outlook: PolicyForecast, top: float) -> None:  # noqa: ANN401 - as above
    wide, share = np.maximum(outlook.shown[:, 0], 1), outlook.shown[:, 1]
    # Roots, since most batches have little padding, and those that have much must not flatten them.
    axes.set_yscale("function", functions=(_root, np.square))
    axes.set_ylim(0, top * 1.05)
    axes.set_yticks([tick for tick in _GRID if tick <= top * 1.05])
    axes.yaxis.set_major_formatter(_percent)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    alpha = 0.35 if len(wide) > _BINS else 0.9
    axes.scatter(wide, share, s=9, color=_BATCHES, alpha=alpha, linewidths=0, clip_on=False, rasterized=True)
    axes.axhline(outlook.report.wasted, color=_MEAN, linewidth=1.4)
    axes.set_ylabel("padding")
    batches = "batch" if outlook.batches == 1 else "batches"
    said = f"{outlook.report.wasted:.1%} padding in all, {outlook.batches:,} {batches} a rank"
    axes.set_title(name, loc="left", fontsize=9, fontweight="bold")
    axes.set_title(said, loc="right", fontsize=9, color=_MEAN)


def _root(share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.sqrt(np.maximum(share, 0))


def _grouped(value: float, _: object) -> str:
    return f"{value:,.0f}"


def _percent(value: float, _: object) -> str:
    return f"{value:.0%}"
