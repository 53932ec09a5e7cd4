"""The picture of a forecast: written whole or not at all, in each format, the same each time."""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pipeline import plan
from pipeline.batching import Budget, Rows
from pipeline.errors import MissingExtraError, OptionError
from pipeline.forecast import Forecast
from support.needs import needs


def forecast() -> Forecast:
    """Of a few policies, one of which has no room for a row."""
    lengths = [*range(1, 60), 900]
    return plan(lengths, {"rows": Rows(4), "none": Budget(100), "<b>&": Budget(2_000)})


@needs("matplotlib")
@pytest.mark.parametrize(("ending", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_it_is_written_in_the_format_of_its_ending(tmp_path: Path, ending: str, magic: bytes) -> None:
    """Alone in its folder, the same bytes each time."""
    path = forecast().picture(tmp_path / f"plan{ending}")
    first = path.read_bytes()
    assert first.startswith(magic)
    forecast().picture(path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@needs("matplotlib")
def test_it_shows_every_policy_that_can_be_planned(tmp_path: Path) -> None:
    """A strip each, and the histogram above."""
    path = forecast().picture(tmp_path / "plan.svg")
    ids = [element.get("id", "") for element in ET.parse(path).iter()]  # noqa: S314 - it is our own
    assert sum(name.startswith("axes_") for name in ids) == 3


@needs("matplotlib")
@pytest.mark.parametrize("lengths", [[], [0], [5, 5, 5], [0, 3, 100_000]])
def test_strange_lengths_are_drawn_too(tmp_path: Path, lengths: list[int]) -> None:
    """None, none of any step, all alike, or of many magnitudes."""
    assert plan(lengths, 100_000).picture(tmp_path / "plan.png").stat().st_size > 1_000


@needs("matplotlib")
def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    """Where it cannot be written, nothing is."""
    with pytest.raises(FileNotFoundError):
        forecast().picture(tmp_path / "no" / "plan.png")
    assert list(tmp_path.iterdir()) == []


def test_another_ending_is_refused(tmp_path: Path) -> None:
    """With those that there are."""
    with pytest.raises(OptionError, match=r"path must end in .svg, .png, .pdf, but 'plan.jpg' arrived"):
        forecast().picture(tmp_path / "plan.jpg")


def test_the_extra_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how to install it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingExtraError, match=r"a picture needs the package matplotlib, which is not installed; pip "
    ):
        forecast().picture(tmp_path / "plan.png")
