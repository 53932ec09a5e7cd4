"""The picture of a forecast: written completely or not at all, in each format, the same each time."""

import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from pipeline import plan
from pipeline.batching import Budget, Rows
from pipeline.errors import MissingExtraError, OptionError
from pipeline.forecast import Forecast
from support.needs import needs


def make_forecast() -> Forecast:
    """Forecast a few policies, one of which has no room for a row."""
    lengths = [*range(1, 60), 900]
    return plan(lengths, {"rows": Rows(4), "none": Budget(100), "<b>&": Budget(2_000)})


@needs("matplotlib")
@pytest.mark.parametrize(("suffix", "magic"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_suffix_determines_the_format(tmp_path: Path, suffix: str, magic: bytes) -> None:
    """The picture is the only file written, with the same bytes each time."""
    path = make_forecast().picture(tmp_path / f"plan{suffix}")
    first = path.read_bytes()
    assert first.startswith(magic)
    make_forecast().picture(path)
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


@needs("matplotlib")
def test_every_policy_that_makes_batches_is_shown(tmp_path: Path) -> None:
    """One strip per policy, below the histogram."""
    path = make_forecast().picture(tmp_path / "plan.svg")
    ids = [element.get("id", "") for element in ET.parse(path).iter()]  # noqa: S314 - our own file
    assert sum(name.startswith("axes_") for name in ids) == 3


@needs("matplotlib")
@pytest.mark.parametrize("lengths", [[], [0], [5, 5, 5], [0, 3, 100_000]])
def test_unusual_lengths_are_drawn(tmp_path: Path, lengths: list[int]) -> None:
    """No rows, an empty row, equal rows, and lengths of many orders of magnitude."""
    assert plan(lengths, 100_000).picture(tmp_path / "plan.png").stat().st_size > 1_000


@needs("matplotlib")
def test_a_failed_picture_leaves_no_file(tmp_path: Path) -> None:
    """A folder that does not exist raises an error."""
    with pytest.raises(FileNotFoundError):
        make_forecast().picture(tmp_path / "no" / "plan.png")
    assert list(tmp_path.iterdir()) == []


def test_another_suffix_is_rejected(tmp_path: Path) -> None:
    """The message lists the possible ones."""
    with pytest.raises(OptionError, match=r"file must end in .svg, .png, .pdf, got 'plan.jpg'"):
        make_forecast().picture(tmp_path / "plan.jpg")


def test_a_missing_package_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how to install it."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(
        MissingExtraError, match=r"a picture needs the package matplotlib, which is not installed; pip "
    ):
        make_forecast().picture(tmp_path / "plan.png")
