"""What `fit` shows: a bar, lines, or nothing."""

import sys
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from pipeline import Report
from pipeline.training.history import Epoch
from pipeline.training.progress import BarReporter, LineReporter, Reporter, make_reporter
from support.untyped import as_any

EPOCH = Epoch(1, 10, 10, 80, 0.5, 0.25, {"accuracy": 0.75}, 0.001, 1234.5, 0.125, 2.0)


def run(reporter: Reporter) -> None:
    """Report one epoch of two batches."""
    with reporter:
        reporter.note("a \x1b[31mnote")
        reporter.start_epoch(1, 3, 2)
        reporter.advance(Report(1, 4, 10, 12), 0.5, 0.1)
        reporter.advance(Report(2, 8, 20, 25), 0.4, 0.2)
        reporter.end_epoch(EPOCH, 3)


def test_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """One per epoch, on the error stream; control characters are escaped."""
    reporter = make_reporter(None)
    assert type(reporter) is LineReporter
    run(reporter)
    assert capsys.readouterr().err.splitlines() == [
        "a \\x1b[31mnote",
        "epoch 1/3: loss 0.5000, valid loss 0.2500, accuracy 0.7500, padded 12.5%, 1,234 rows/s, 2.0 s",
    ]


def test_nothing_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even notes."""
    run(make_reporter(False))
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal_or_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shows epoch, loss, padding and speed while it runs, and the line of the epoch afterwards."""
    stream = StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    assert type(make_reporter(True)) is BarReporter
    run(BarReporter(Console(file=stream, force_terminal=True, width=120)))
    text = stream.getvalue()
    for part in ("epoch 1/3", "loss 0.5000", "padded 16.7%", "40 rows/s", "accuracy 0.7500"):
        assert part in text


def test_a_bar_is_not_refreshed_for_every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes a millisecond."""
    reporter = BarReporter(Console(file=StringIO(), force_terminal=True))
    updates: list[Any] = []

    def count(*task: object, **options: object) -> None:
        updates.append((task, options))

    monkeypatch.setattr(as_any(reporter)._progress, "update", count)
    with reporter:
        reporter.start_epoch(1, 1, 1_000)
        for _ in range(1_000):
            reporter.advance(Report(1, 4, 10, 12), 0.5, 0.1)
    assert len(updates) < 5
