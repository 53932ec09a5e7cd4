"""The bench as a whole: what can be measured, and how it is asked for."""

import doctest
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages

import attrs
import pytest
import torch

import bench
from bench import command
from bench.encoders.point import Point
from bench.measured import attend, checks, encode, epoch, packing, table
from bench.measured.all import MEASUREMENTS
from bench.measured.measurement import Extent, Measurement
from bench.record.finding import Finding
from bench.timing.turns import Turns
from pipeline_attention import General

ROOT = Path(__file__).parents[2]
FEW = Turns(most=2, fewest=2)
SMALL = Point("LSTM", learning=True, lengths="~20", rows=3, features=4, hidden=5)


def test_other_measurements_find_something_equal() -> None:
    """At sizes that take no time: each compares before it times."""
    case = attend.Case(General, 6, learning=True)
    assert attend.measured(case, 1, FEW, rows=2, hidden=4).times.keys() == {"ours", "loop", "masked"}
    assert {"packed", "auto", "uncompiled"} <= table.measured(table.Case(3, 4, 5, words=9), 1, FEW).times.keys()
    sizes = epoch.Sizes(rows=12, words=9, batch=4, embedded=3, hidden=5)
    found = epoch.measured(sizes, 1, FEW)
    assert {"by hand", "uncompiled", f"uncompiled{epoch.BY_ROWS}"} <= found.times.keys()
    assert epoch.sheet([found]).rows[0][-1].count("%") == (3 if "compiled" in found.times else 2)
    rows = packing.Rows(torch.randn(3, 4, packing.FEATURES), torch.tensor([4, 1, 2]))
    found = packing.measured("three", rows, learning=True)
    assert found.bytes.keys() == found.times.keys() == {"padded", "packed"}
    assert checks.measured("one", turns=2).times.keys() == {"checked", "unchecked", "step"}


@pytest.mark.parametrize("words", [["quick", "--json"], ["--quick", "--json"]])
def test_a_run_is_shown_and_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of what has a quick part; and the file gives the same tables as Markdown."""
    asked: list[Extent] = []

    def small(extent: Extent) -> Iterator[Finding]:
        asked.append(extent)
        yield encode.measured(SMALL, 1, FEW)

    here = {"encode": attrs.evolve(MEASUREMENTS["encode"], find=small), "checks": MEASUREMENTS["checks"]}
    monkeypatch.setattr(command, "MEASUREMENTS", here)
    file = tmp_path / "run.json"
    assert command.main([*words, str(file)]) == 0
    assert asked == ["quick"]
    assert f"encode: {SMALL}" in capsys.readouterr().out
    assert command.main(["report", str(file)]) == 0
    printed = capsys.readouterr().out
    assert f"| {SMALL}" in printed
    assert "### Targets" in printed
    assert torch.__version__ in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["encoding"], "'encoding' is none of encode, "),
        (["quick", "--full"], "exclude each other"),
        (["report"], "report takes one file"),
        (["report", "nowhere.json"], "nowhere.json"),
    ],
)
def test_a_wrong_command_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused before anything is measured."""
    with pytest.raises(SystemExit) as exited:
        command.main(words)
    assert exited.value.code == 2
    assert message in capsys.readouterr().err


def test_measurements_are_called_what_they_are() -> None:
    """Names are those by which they are asked for."""
    assert all(isinstance(each, Measurement) and each.name == name for name, each in MEASUREMENTS.items())
    assert {"encode", "attend", "packing", "checks", "epoch", "table"} <= MEASUREMENTS.keys()
    assert {name for name, each in MEASUREMENTS.items() if each.quick} >= {"encode", "attend"}


def test_the_folder_runs() -> None:
    """As a folder, from anywhere."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "bench"), "--help"], capture_output=True, text=True, check=True
    )
    assert "report FILE" in ran.stdout


@pytest.mark.parametrize("module", sorted(found.name for found in walk_packages(bench.__path__, "bench.")))
def test_examples_run(module: str) -> None:
    """Every docstring's, as the documents have it; every module can be imported, the command's own among them."""
    assert not doctest.testmod(import_module(module), optionflags=doctest.NORMALIZE_WHITESPACE).failed
