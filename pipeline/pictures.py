"""Pictures drawn with matplotlib: readable on light and dark pages, written completely or not at all."""

import os
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import OptionError
from pipeline.extras import import_extra
from pipeline.text import escape_control_characters

_SUFFIXES: Final = (".svg", ".png", ".pdf")

# From white to dark blue: also readable with red-green blindness, and printed in black and white.
_COLORS: Final = "Blues"

# Numbers are written into the cells of a heat map with at most this number of them along an axis.
_MOST_NUMBERS: Final = 20

# With more, only some of the cells along an axis have a label.
_MOST_LABELS: Final = 60

_LABEL_LENGTH: Final = 24
"""The number of characters after which labels are cut."""


def check_picture(file: str | os.PathLike[str]) -> None:
    """Check that a picture can be drawn to a file of this name, for those who draw it after long work.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        OptionError: for a suffix of another format.
    """
    path = Path(file)
    if path.suffix.lower() not in _SUFFIXES:
        msg = f"file must end in {', '.join(_SUFFIXES)}, got {path.name!r}; its suffix determines the format."
        raise OptionError(msg, file=path)
    import_extra("matplotlib", extra="plots", why="a picture")


@contextmanager
def draw_picture(file: str | os.PathLike[str], *, width: float, height: float) -> Generator[Any]:
    """Give a figure of matplotlib to draw on, and save it at the end.

    The background is white and nothing depends on the user's style, so that a picture can be read on dark pages too.
    The same drawing gives the same bytes.

    Args:
        file: a path that ends in .svg, .png or .pdf.
        width: the width of the figure in inches.
        height: its height.

    Raises:
        MissingExtraError: if matplotlib is not installed.
        OptionError: for a suffix of another format.
    """
    path = Path(file)
    check_picture(path)
    figures = import_extra("matplotlib.figure", extra="plots", why="a picture")
    matplotlib = import_extra("matplotlib", extra="plots", why="a picture")
    kind = path.suffix.lower().removeprefix(".")
    # Without the date, the same figure gives the same file.
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None}}[kind]
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with matplotlib.rc_context():
        # The user's own style might write white on white.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({"svg.hashsalt": "pipeline", "font.size": 9})
        figure = figures.Figure(figsize=(width, height), layout="constrained", facecolor="white")
        yield figure
        try:
            figure.savefig(draft, format=kind, dpi=150, metadata=metadata)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def draw_heat_map(
    axes: Any,  # noqa: ANN401 - matplotlib's
    shares: NDArray[np.float64],
    rows: Sequence[str],
    columns: Sequence[str],
    cells: Sequence[Sequence[str]] | None = None,
) -> None:
    """Draw a table of shares from 0 to 1 as colors.

    Args:
        axes: matplotlib's axes to draw on.
        shares: the shares; NaN cells stay white.
        rows: the label of each row.
        columns: the label of each column.
        cells: the text of each cell; left out if there are too many.
    """
    image = axes.imshow(np.nan_to_num(shares), cmap=_COLORS, vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for axis, labels, rotation in ((axes.xaxis, columns, 90), (axes.yaxis, rows, 0)):
        every = -(-len(labels) // _MOST_LABELS)
        shown = [_shorten(label) for label in labels[::every]]
        # Not as mathematics: a name may contain dollar signs.
        axis.set_ticks(range(0, len(labels), every), labels=shown, rotation=rotation, parse_math=False)
    axes.tick_params(length=0)
    if cells is not None and max(len(rows), len(columns)) <= _MOST_NUMBERS:
        for row, texts in enumerate(cells):
            for column, text in enumerate(texts):
                color = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=7, parse_math=False)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02)
    bar.ax.yaxis.set_major_formatter(_format_share)
    bar.outline.set_visible(False)


def _shorten(label: str) -> str:
    text = escape_control_characters(label)
    return text if len(text) <= _LABEL_LENGTH else f"{text[: _LABEL_LENGTH - 1]}…"


def _format_share(value: float, _: object) -> str:
    return f"{value:.0%}"
