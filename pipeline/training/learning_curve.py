"""Draw a learning curve: losses above, metrics below, one point per epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import OptionError
from pipeline.extras import import_extra
from pipeline.text import escape_control_characters

if TYPE_CHECKING:
    from pipeline.training.history import History

_SUFFIXES: Final = (".svg", ".png", ".pdf")

# Colors that readers with red-green blindness can tell apart; from Okabe and Ito 2008, "Color Universal Design",
# https://jfly.uni-koeln.de/color/
_COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_BEST_COLOR: Final = "#999999"


def draw_learning_curve(history: "History", path: Path) -> Path:
    """Draw the losses, and below them the metrics, if there are some. The best epoch is marked.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        OptionError: for a suffix of another format, or if there is no epoch.
    """
    if path.suffix.lower() not in _SUFFIXES:
        msg = f"file must end in {', '.join(_SUFFIXES)}, got {path.name!r}; its suffix determines the format."
        raise OptionError(msg, file=path)
    if not len(history):
        raise OptionError("the history has no epoch to draw; train first.")
    figures = import_extra("matplotlib.figure", extra="plots", why="a picture")
    style = import_extra("matplotlib", extra="plots", why="a picture").rc_context
    metrics = list(dict.fromkeys(name for epoch in history for name in epoch.metrics))
    numbers = [epoch.number for epoch in history]
    has_valid = any(epoch.valid_loss is not None for epoch in history)
    # White behind it and all colors set here, so that it can be read on a dark page too.
    with style({"svg.hashsalt": "pipeline", "axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = figures.Figure(figsize=(7, 5 if metrics else 3), layout="constrained", facecolor="white")
        first, *second = figure.subplots(1 + bool(metrics), 1, sharex=True, squeeze=False)[:, 0]
        losses = ["train_loss", "valid_loss"] if has_valid else ["train_loss"]
        _draw_lines(first, numbers, {name.replace("_", " "): history[name] for name in losses})
        first.set_ylabel("loss")
        for axes in second:
            _draw_lines(axes, numbers, {name: history[name] for name in metrics})
        if has_valid:
            for axes in (first, *second):
                axes.axvline(history.best.number, color=_BEST_COLOR, linewidth=1, linestyle=":", zorder=0)
            first.set_title(f"best epoch by {history.monitor.name}: {history.best.number}", loc="left", fontsize=10)
        axes = [first, *second][-1]
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        kind = path.suffix.lower().removeprefix(".")
        # Without the date, the same history gives the same file.
        metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
        figure.savefig(path, format=kind, dpi=150, metadata=metadata)
    return path


def _draw_lines(axes: Any, numbers: Sequence[int], columns: dict[str, list[float]]) -> None:  # noqa: ANN401 - matplotlib's
    axes.set_facecolor("white")
    for index, (name, values) in enumerate(columns.items()):
        color = _COLORS[index % len(_COLORS)]
        # Dashes tell lines apart without colors.
        line = ("-", "--", "-.", ":")[index % 4]
        label = escape_control_characters(name)
        axes.plot(numbers, values, line, color=color, marker="o", markersize=3, label=label)
    legend = axes.legend(frameon=False, labelcolor="black")
    legend.set_zorder(3)
    axes.tick_params(colors="black")
    for text in (axes.xaxis.label, axes.yaxis.label, axes.title):
        text.set_color("black")
