"""Draw a learning curve: losses above, metrics below, one point per epoch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pipeline.errors import OptionError
from pipeline.pictures import draw_picture
from pipeline.text import escape_control_characters

if TYPE_CHECKING:
    from pipeline.training.history import History

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
    if not len(history):
        raise OptionError("the history has no epoch to draw; train first.")
    metrics = list(dict.fromkeys(name for epoch in history for name in epoch.metrics))
    numbers = [epoch.number for epoch in history]
    has_valid = any(epoch.valid_loss is not None for epoch in history)
    with draw_picture(path, width=7, height=5 if metrics else 3) as figure:
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
    return path


def _draw_lines(axes: Any, numbers: Sequence[int], columns: dict[str, list[float]]) -> None:  # noqa: ANN401 - matplotlib's
    axes.spines[["top", "right"]].set_visible(False)
    for index, (name, values) in enumerate(columns.items()):
        color = _COLORS[index % len(_COLORS)]
        # Dashes tell lines apart without colors.
        line = ("-", "--", "-.", ":")[index % 4]
        label = escape_control_characters(name)
        axes.plot(numbers, values, line, color=color, marker="o", markersize=3, label=label)
    legend = axes.legend(frameon=False)
    legend.set_zorder(3)
