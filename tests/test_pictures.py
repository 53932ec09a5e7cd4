"""Pictures are written completely or not at all, the same each time, whatever the style of the user."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import OptionError
from pipeline.pictures import draw_heat_map, draw_picture
from support.needs import needs


def draw(path: Path) -> Path:
    """Draw a small heat map."""
    with draw_picture(path, width=2, height=2) as figure:
        draw_heat_map(
            figure.subplots(), np.array([[0.1, 0.9], [np.nan, 0.5]]), ["a", "b"], ["c", "d"], [["1", "2"], ["3", "4"]]
        )
    return path


@needs("matplotlib")
@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".PNG", b"\x89PNG"), (".pdf", b"%PDF")])
def test_the_suffix_determines_the_format(tmp_path: Path, suffix: str, magic: bytes) -> None:
    """The picture is the only file written, with the same bytes each time."""
    path = draw(tmp_path / f"picture{suffix}")
    first = path.read_bytes()
    assert first.startswith(magic)
    assert draw(path).read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@needs("matplotlib")
def test_the_style_of_the_user_changes_nothing(tmp_path: Path) -> None:
    """A dark style would write white on white; it is in force again afterwards."""
    matplotlib: Any = import_module("matplotlib")
    first = draw(tmp_path / "picture.svg").read_bytes()
    with matplotlib.rc_context({"xtick.color": "white", "axes.edgecolor": "white", "axes.facecolor": "black"}):
        assert draw(tmp_path / "picture.svg").read_bytes() == first
        assert matplotlib.rcParams["xtick.color"] == "white"


@needs("matplotlib")
def test_a_failed_picture_leaves_no_file(tmp_path: Path) -> None:
    """Neither an error while drawing, nor one while saving."""
    with pytest.raises(ZeroDivisionError), draw_picture(tmp_path / "picture.png", width=2, height=2):
        raise ZeroDivisionError
    with pytest.raises(FileNotFoundError):
        draw(tmp_path / "no" / "picture.png")
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_rejected(tmp_path: Path) -> None:
    """The message lists the possible ones."""
    with pytest.raises(OptionError, match=r"file must end in .svg, .png, .pdf, got 'picture.jpg'"):
        draw(tmp_path / "picture.jpg")
