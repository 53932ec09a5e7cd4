"""The demo from end to end, in small."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from pipeline.__main__ import main
from pipeline.demo import Result, run
from pipeline.errors import OptionError


def played(page: Path, lines: int, epochs: int) -> Result:
    """A run of some seconds, whose console nobody reads."""
    return run(page, lines, epochs, seed=1, console=Console(file=io.StringIO(), width=80))


def test_it_learns_and_writes_the_page(tmp_path: Path) -> None:
    """Losses fall in both acts, act one beats the commonest answer, bucketing saves padding, and the page holds the scores."""
    state = torch.get_rng_state()
    result = played(tmp_path / "page.html", lines=400, epochs=4)
    assert torch.equal(torch.get_rng_state(), state)
    losses = result.one.losses
    assert sum(losses[-10:]) < sum(losses[:10]) / 2
    right = [name for line in result.one.asked for name in line.classes]
    assert result.one.characters.model > right.count("name") / len(right)
    # Act two goes through its lines once, which are too few here for more than its first lessons.
    assert sum(result.two.losses[-5:]) / 5 < 0.9 * result.two.losses[0]
    assert result.one.bucketed.padded < result.one.unbucketed.padded
    html = result.page.read_text(encoding="utf-8")
    assert all(f"{contest.model:.1%}" in html for contest in result.contests)


def test_the_same_seed_plays_the_same(tmp_path: Path) -> None:
    """Lines, weights and batches come from the seed alone, whatever was drawn before."""
    first = played(tmp_path / "page.html", lines=100, epochs=1)
    torch.rand(3)
    second = played(tmp_path / "page.html", lines=100, epochs=1)
    assert first.one.losses == pytest.approx(second.one.losses, rel=1e-3)
    assert first.held_out == second.held_out


@pytest.mark.parametrize(
    ("lines", "epochs", "message"),
    [(99, 1, "lines must be 100 or more, but 99 arrived"), (100, 0, "epochs must be 1 or more, but 0 arrived")],
)
def test_too_little_work_is_refused(tmp_path: Path, lines: int, epochs: int, message: str) -> None:
    """Before anything is read."""
    with pytest.raises(OptionError, match=message):
        run(tmp_path / "page.html", lines, epochs)


@pytest.mark.parametrize(("name", "message"), [("", "is a folder"), ("no/page.html", "which is no folder")])
def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path, name: str, message: str) -> None:
    """Before the work, not after it."""
    with pytest.raises(OptionError, match=message):
        run(tmp_path / name)


def test_the_command_line_says_what_was_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As one line, and with a status that scripts see."""
    assert main(["demo", "--html", str(tmp_path), "--lines", "300"]) == 1
    assert capsys.readouterr().err.startswith("error: html must be a file to write")
