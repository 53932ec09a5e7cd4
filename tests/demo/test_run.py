"""Short runs of the whole demo."""

import io
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from highlight.results import Result
from highlight.run import main, run
from highlight.source import KINDS
from pipeline.errors import OptionError
from support.needs import SLOW


def run_quietly(page: Path, lines: int, epochs: int) -> Result:
    """Run for some seconds, without output."""
    return run(page, page.with_name("model"), lines, epochs, seed=1, console=Console(file=io.StringIO(), width=80))


@SLOW
def test_it_learns_and_writes_the_page(tmp_path: Path) -> None:
    """Losses fall, task one beats the most frequent class, bucketing saves padding, and the page has the scores.

    A new process predicts the same with the saved pipe.
    """
    state = torch.get_rng_state()
    result = run_quietly(tmp_path / "page.html", lines=400, epochs=4)
    assert torch.equal(torch.get_rng_state(), state)
    losses = result.one.history["train_loss"]
    assert losses[-1] < losses[0] / 2
    right = [name for line in result.one.lines for name in line.classes]
    assert result.one.by_character.model > right.count("name") / len(right)
    # Task two takes one epoch, which is short here: expect a loss below that of guessing one of the kinds, no more.
    assert result.two.history["train_loss"][0] < math.log(len(KINDS))
    assert result.saved.equal == result.saved.predicted == len(result.held_out)
    assert (result.saved.folder / "manifest.json").is_file()
    assert result.one.bucketed.padded < result.one.shuffled.padded
    html = result.page.read_text(encoding="utf-8")
    assert all(f"{comparison.model:.1%}" in html for comparison in result.comparisons)


@SLOW
def test_a_seed_determines_the_run(tmp_path: Path) -> None:
    """Lines, weights and batches depend on the seed only, not on torch's random state."""
    first = run_quietly(tmp_path / "page.html", lines=100, epochs=1)
    torch.rand(3)
    second = run_quietly(tmp_path / "page.html", lines=100, epochs=1)
    assert first.one.history["train_loss"] == pytest.approx(second.one.history["train_loss"], rel=1e-3)
    assert first.held_out == second.held_out


@pytest.mark.parametrize(
    ("lines", "epochs", "message"),
    [(99, 1, "lines must be 100 or more, got 99"), (100, 0, "epochs must be 1 or more, got 0")],
)
def test_too_few_lines_or_epochs_are_rejected(tmp_path: Path, lines: int, epochs: int, message: str) -> None:
    """Before anything is read."""
    with pytest.raises(OptionError, match=message):
        run(tmp_path / "page.html", tmp_path / "model", lines, epochs)


@pytest.mark.parametrize(("name", "message"), [("", "is a folder"), ("no/page.html", "does not exist")])
def test_a_page_that_cannot_be_written_is_rejected(tmp_path: Path, name: str, message: str) -> None:
    """Before training, not after it."""
    with pytest.raises(OptionError, match=message):
        run(tmp_path / name, tmp_path / "model")


@pytest.mark.parametrize(("name", "message"), [("", "a new folder or"), ("no/model", "in an existing folder")])
def test_a_folder_that_cannot_be_written_is_rejected(tmp_path: Path, name: str, message: str) -> None:
    """Before training, and without replacing files of the user."""
    with pytest.raises(OptionError, match=message):
        run(tmp_path / "page.html", tmp_path / name)


def test_the_command_line_reports_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, with exit status 1."""
    assert main(["--html", str(tmp_path), "--lines", "300"]) == 1
    assert capsys.readouterr().err.startswith("error: html must be a file to write")


def test_the_command_line_passes_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Defaults are those of `run`."""
    given = list[tuple[object, ...]]()

    def record(*options: object) -> None:
        given.append(options)

    monkeypatch.setattr("highlight.run.run", record)
    assert main([]) == 0
    assert main(["--html", "a.html", "--model", "b", "--lines", "200", "--epochs", "3", "--seed", "4"]) == 0
    defaults = (Path("highlight.html"), Path("highlight-model"), 16_000, 3, 0)
    assert given == [defaults, (Path("a.html"), Path("b"), 200, 3, 4)]
