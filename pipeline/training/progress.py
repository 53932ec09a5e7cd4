"""Show how training proceeds: a bar on a terminal, a line per epoch elsewhere, or nothing."""

import sys
import time
from types import TracebackType
from typing import Final, Self, final

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text
from typing_extensions import override

from pipeline.data.report import Report
from pipeline.text import escape_control_characters
from pipeline.training.history import Epoch, format_value

_REFRESH: Final = 0.5
"""Seconds between two refreshes of the bar, which take about a millisecond each."""


class Reporter:
    """Receives what happens in a training, and shows nothing: the silent reporter and the base of the others."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def note(self, text: str) -> None:
        """Show a note about the data or the machine."""

    def start_epoch(self, number: int, epochs: int, batches: int | None) -> None:
        """Begin an epoch, with the number of its batches if that is known."""

    def advance(self, report: Report, loss: float, seconds: float) -> None:
        """Show the state after a batch: the report and the seconds of the epoch so far, and the loss of the batch."""

    def end_epoch(self, epoch: Epoch, epochs: int) -> None:
        """Show the result of an epoch."""


def make_reporter(progress: bool | None) -> Reporter:
    """Return the reporter for the option `progress` of `fit`; all write to the standard error stream."""
    if progress is False:
        return Reporter()
    console = Console(stderr=True, force_terminal=True if progress else None)
    return BarReporter(console) if console.is_terminal or console.is_jupyter else LineReporter()


@final
class LineReporter(Reporter):
    """Writes a line per epoch, for logs and pipes."""

    @override
    def note(self, text: str) -> None:
        sys.stderr.write(f"{escape_control_characters(text)}\n")

    @override
    def end_epoch(self, epoch: Epoch, epochs: int) -> None:
        sys.stderr.write(f"{describe_epoch(epoch, epochs)}\n")
        sys.stderr.flush()


@final
class BarReporter(Reporter):
    """Shows a bar for the running epoch, with the loss, the share of padding and the speed."""

    def __init__(self, console: Console) -> None:
        self._console: Final = console
        columns: list[str | ProgressColumn] = [
            TextColumn("{task.description}"),
            BarColumn(),
            _Figures(),
            TimeRemainingColumn(),
        ]
        # Refreshed here, not by a thread, which would compete with training for the interpreter.
        self._progress: Final = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._task: Final = self._progress.add_task("", start=False, visible=False)
        self._mean = 0.0
        self._shown = 0.0

    @override
    def __enter__(self) -> Self:
        self._progress.start()
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    @override
    def note(self, text: str) -> None:
        self._console.print(Text(escape_control_characters(text), "dim"))

    @override
    def start_epoch(self, number: int, epochs: int, batches: int | None) -> None:
        self._mean, self._shown = 0.0, 0.0
        name = f"epoch {number}/{epochs}"
        self._progress.reset(self._task, total=batches, visible=True, description=name, figures="")

    @override
    def advance(self, report: Report, loss: float, seconds: float) -> None:
        # A running mean: the loss of a single batch jumps too much to be read.
        self._mean = loss if report.batches <= 1 else 0.95 * self._mean + 0.05 * loss
        now = time.monotonic()
        if now - self._shown < _REFRESH:
            return
        self._shown = now
        speed = report.rows / seconds if seconds else 0.0
        figures = f"loss {self._mean:.4f}  padded {report.wasted:.1%}  {speed:,.0f} rows/s"
        self._progress.update(self._task, completed=report.batches, figures=figures, refresh=True)

    @override
    def end_epoch(self, epoch: Epoch, epochs: int) -> None:
        self._progress.update(self._task, visible=False, refresh=True)
        self._console.print(describe_epoch(epoch, epochs), highlight=False, markup=False)


@final
class _Figures(ProgressColumn):
    @override
    def render(self, task: Task) -> Text:
        return Text(str(task.fields.get("figures", "")))


def describe_epoch(epoch: Epoch, epochs: int) -> str:
    """Return one line about an epoch.

    Example:
        >>> describe_epoch(Epoch(1, 10, 10, 80, 0.5, 0.25, {"accuracy": 0.75}, 0.001, 1234.5, 0.125, 2.0), 3)
        'epoch 1/3: loss 0.5000, valid loss 0.2500, accuracy 0.7500, padded 12.5%, 1,234 rows/s, 2.0 s'
    """
    valid = {} if epoch.valid_loss is None else {"valid loss": epoch.valid_loss}
    values = {"loss": epoch.train_loss, **valid, **epoch.metrics}
    parts = [f"{name} {value:.4f}" for name, value in values.items()]
    parts += [f"padded {epoch.padded:.1%}", f"{format_value('rows_per_second', epoch.rows_per_second)} rows/s"]
    return f"epoch {epoch.number}/{epochs}: {', '.join(parts)}, {epoch.seconds:,.1f} s"
